"""Which patches a step takes, alone and shared."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from training_runs import NumberedPatches

from pipeline.errors import ConfigError
from pipeline.training.batches import LoadedBatches, Share


def batches(share: Share, patches: NumberedPatches | None = None) -> LoadedBatches:
    return LoadedBatches(patches or NumberedPatches(), batch_size=6, share=share, num_data_workers=0, pin_memory=False)


def test_a_step_takes_its_own_patches_wherever_the_run_starts() -> None:
    patches = NumberedPatches()
    list(islice(batches(Share(), patches).start_at(0), 3))
    assert patches.taken == list(range(18))
    resumed = NumberedPatches()
    list(islice(batches(Share(), resumed).start_at(2), 2))
    assert resumed.taken == list(range(12, 24))


def test_batches_are_tensors_of_the_agreed_kind() -> None:
    ldr, truth = next(batches(Share()).start_at(0))
    assert (ldr.dtype, truth.dtype) == (torch.uint8, torch.float32)
    assert ldr.shape == truth.shape == (6, 3, 16, 16)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_together_see_exactly_what_one_would(world_size: int) -> None:
    whole = list(islice(batches(Share()).start_at(5), 2))
    shares = [list(islice(batches(Share(rank, world_size)).start_at(5), 2)) for rank in range(world_size)]
    for step in range(2):
        for part in range(2):
            assert torch.equal(torch.cat([share[step][part] for share in shares]), whole[step][part])


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 6 does not divide among 4 workers; 4 would"):
        batches(Share(0, 4))
    with pytest.raises(ConfigError, match="batch of 6 does not divide among 7 workers; 7 would"):
        batches(Share(0, 7))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Share(2, 2)
