"""Batches cut from a pool on the device: the same kind of patches as those of `PatchDataset`."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hdr_scenes import make_panorama
from torch import Tensor

from pipeline.codecs.color import network_to_linear
from pipeline.errors import ConfigError, InterruptedJobError
from pipeline.simulation.camera import CameraRanges
from pipeline.simulation.scenes import HdrScene
from pipeline.training.batches import Share
from pipeline.training.pool import PooledBatches, ViewPool, photograph_pool

SCENES = [HdrScene(f"place {seed}", make_panorama(seed, 192), is_panorama=True) for seed in range(3)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> ViewPool:
    return photograph_pool(SCENES, num_views=20, view_px=48, seed=0, ranges=CameraRanges(), num_processes=0, device=CPU)


def batches(pool: ViewPool, share: Share = Share(), *, size: int = 12, seed: int = 0) -> PooledBatches:  # noqa: B008
    return PooledBatches(pool, patch_px=16, batch_size=size, share=share, seed=seed)


def test_the_pool_holds_photographs_with_their_truth(pool: ViewPool) -> None:
    assert pool.ldr.shape == pool.truth.shape == (20, 48, 48, 3)
    assert (pool.ldr.dtype, pool.truth.dtype) == (torch.uint8, torch.float16)
    assert bool(pool.truth.isfinite().all())
    bright = pool.truth.float().amax(dim=3) > 1.2
    assert float((pool.ldr.amax(dim=3)[bright] > 240).float().mean()) > 0.9
    assert not torch.equal(pool.ldr[0], pool.ldr[1])


def test_a_pool_depends_on_the_seed_alone(pool: ViewPool) -> None:
    few = photograph_pool(SCENES, num_views=3, view_px=48, seed=0, ranges=CameraRanges(), num_processes=0, device=CPU)
    assert torch.equal(few.ldr, pool.ldr[:3])
    other = photograph_pool(SCENES, num_views=3, view_px=48, seed=1, ranges=CameraRanges(), num_processes=0, device=CPU)
    assert not torch.equal(other.ldr, few.ldr)
    with pytest.raises(ConfigError, match="no scenes"):
        photograph_pool([], num_views=3, view_px=48, seed=1, ranges=CameraRanges(), num_processes=0, device=CPU)


def test_who_asked_hears_of_every_sixteen_views_and_may_end_it() -> None:
    heard: list[int] = []

    def hear(num_views: int) -> None:
        heard.append(num_views)
        if num_views == 32:
            raise InterruptedJobError("enough")

    with pytest.raises(InterruptedJobError, match="enough"):
        photograph_pool(
            SCENES, num_views=50, view_px=48, seed=0, ranges=CameraRanges(), num_processes=0, device=CPU, on_views=hear
        )
    assert heard == [16, 32]
    heard.clear()
    photograph_pool(
        SCENES, num_views=20, view_px=48, seed=0, ranges=CameraRanges(), num_processes=0, device=CPU, on_views=hear
    )
    assert heard == [16, 20]


def find(patch: Tensor, view: Tensor) -> bool:
    """Whether a (3, P, P) patch lies somewhere in a (V, V, 3) view, turned by any multiple of 90 degrees."""
    windows = np.lib.stride_tricks.sliding_window_view(view.numpy(), patch.shape[1:], axis=(0, 1))
    turned = [np.rot90(patch.numpy(), turns, axes=(1, 2)) for turns in range(4)]
    return any(bool((windows == candidate).all(axis=(2, 3, 4)).any()) for candidate in turned)


def test_patches_are_crops_of_the_pool_and_their_truth_is_that_of_the_same_place(pool: ViewPool) -> None:
    ldr, truth = next(batches(pool).start_at(3))
    assert ldr.shape == truth.shape == (12, 3, 16, 16)
    assert (ldr.dtype, truth.dtype) == (torch.uint8, torch.float32)
    assert all(any(find(patch, view) for view in pool.ldr) for patch in ldr)
    same = ViewPool(pool.ldr, pool.ldr.half())
    codes, linear = next(batches(same).start_at(3))
    assert torch.equal(codes, ldr)
    np.testing.assert_allclose(network_to_linear(linear.numpy()), codes.numpy(), rtol=1e-4)


def test_steps_and_seeds_decide_alone(pool: ViewPool) -> None:
    first = list(islice(batches(pool).start_at(0), 4))
    again = list(islice(batches(pool).start_at(2), 2))
    assert all(
        torch.equal(a, b) for one, other in zip(first[2:], again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(next(batches(pool, seed=1).start_at(0))[0], first[0][0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_together_see_exactly_what_one_would(pool: ViewPool, world_size: int) -> None:
    whole = next(batches(pool).start_at(5))
    parts = [next(batches(pool, Share(rank, world_size)).start_at(5)) for rank in range(world_size)]
    for which in range(2):
        assert torch.equal(torch.cat([part[which] for part in parts]), whole[which])
    with pytest.raises(ConfigError, match="does not divide"):
        batches(pool, Share(0, 5))


def test_half_of_the_crops_look_for_highlights_and_a_quarter_are_turned() -> None:
    # One clipped block, at the upper left; codes rise along the rows, so that a patch tells how it was turned.
    ldr = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    ldr[0] = torch.arange(64, dtype=torch.uint8)[:, None, None]
    ldr[0, :8, :8] = 255
    found = next(batches(ViewPool(ldr, ldr.half()), size=2000).start_at(0))[0].int()
    holds = (found.amax(dim=(1, 2, 3)) == 255).float().mean()
    # A corner out of 49 x 49 reaches the block with probability p; the best of four with 1 - (1 - p)^4.
    p = (8 / 49) ** 2
    assert float(holds) == pytest.approx((p + 1 - (1 - p) ** 4) / 2, abs=0.02)
    plain = found[found.amax(dim=(1, 2, 3)) < 255]
    upright = (plain[:, 0, 15, 0] - plain[:, 0, 0, 0] == 15).float().mean()
    assert float(upright) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turning_is_that_of_numpy(turns: int) -> None:
    from pipeline.training.pool import _turned_grid

    patch = np.arange(25).reshape(5, 5)
    rows, columns = _turned_grid(5, torch.tensor([turns]))
    assert (patch[rows[0].numpy(), columns[0].numpy()] == np.rot90(patch, turns)).all()
