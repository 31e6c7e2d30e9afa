"""Training on a real card: mixed precision, the loss scale, and checkpoints that move between devices."""

from __future__ import annotations

import math

import pytest
from training_runs import NumberedPatches, memory_store, tiny_config

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch.cuda is not available: no CUDA device, or a CPU build of PyTorch", allow_module_level=True)

from pipeline.inference.precision import ConcretePrecision  # noqa: E402 after the skip, like every import of CUDA code
from pipeline.storage import ObjectStore  # noqa: E402
from pipeline.training.batches import LoadedBatches, Share  # noqa: E402
from pipeline.training.checkpoints import Checkpoints  # noqa: E402
from pipeline.training.events import StepDone, TrainingEvent  # noqa: E402
from pipeline.training.learner import Learner  # noqa: E402
from pipeline.training.loop import Trainer  # noqa: E402
from pipeline.training.peers import Peers  # noqa: E402
from pipeline.training.precision import resolve_training_precision  # noqa: E402
from pipeline.training.start import starting_network  # noqa: E402


def train(store: ObjectStore, device: str, precision: ConcretePrecision, steps: int) -> list[StepDone]:
    config = tiny_config(steps=steps, precision=precision, patch_px=32)
    events: list[TrainingEvent] = []
    peers, network = Peers(), starting_network("identity", None, width=8, seed=0)
    Trainer(
        config,
        Learner(config, network, device=torch.device(device), precision=precision, peers=peers),
        LoadedBatches(
            NumberedPatches(32), batch_size=2, share=Share(), num_data_workers=0, pin_memory=device == "cuda"
        ),
        Checkpoints(store, config_digest=config.digest(), keep=3),
        peers=peers,
        observe=events.append,
    ).run()
    return [event for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_card_trains_as_a_cpu_does(precision: ConcretePrecision) -> None:
    there = train(memory_store(f"gpu-{precision}"), "cuda", precision, 8)
    here = train(memory_store(f"gpu-cpu-{precision}"), "cpu", "fp32", 8)
    # fp16 may skip steps until its loss scale fits.
    assert not any(step.is_skipped for step in there if precision != "fp16")
    first = next(step for step in there if math.isfinite(step.loss))
    assert first.loss == pytest.approx(here[first.step - 1].loss, rel=0.02)
    assert all(math.isfinite(step.loss) for step in there)


def test_a_run_moves_from_cpu_to_card_and_back() -> None:
    store = memory_store("gpu-moves")
    steps = [*train(store, "cpu", "fp32", 4), *train(store, "cuda", "fp32", 8), *train(store, "cpu", "fp32", 12)]
    straight = train(memory_store("gpu-straight"), "cpu", "fp32", 12)
    assert [step.step for step in steps] == list(range(1, 13))
    for moved, stayed in zip(steps[:4], straight, strict=False):
        assert moved.loss == stayed.loss
    for moved in steps[4:]:
        assert math.isfinite(moved.loss)
        assert not moved.is_skipped


def test_auto_is_bf16_where_the_card_has_it() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert resolve_training_precision("auto", torch.device("cuda")) == ("bf16" if native else "fp16")
