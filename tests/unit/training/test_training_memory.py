"""The memory that a run is said to take: counted on fake tensors, which have a shape and no values."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from training_runs import tiny_config

from pipeline.inference.precision import DTYPES, ConcretePrecision
from pipeline.models.hdrunet import HDRUNet
from pipeline.training.memory import ACTIVATION_BYTES, estimate_memory
from pipeline.training.precision import MixedPrecisionNetwork


def saved_for_backward(width: int, px: int, precision: ConcretePrecision) -> int:
    """Bytes that the backward pass of four patches waits for, each storage once, without parameters."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), saved_tensors_hooks(keep, lambda tensor: tensor):
        MixedPrecisionNetwork(HDRUNet(nf=width), precision)(torch.rand(4, 3, px, px))
        return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("width", [32, 64])
def test_activations_are_what_the_network_keeps(width: int, precision: ConcretePrecision) -> None:
    if precision == "fp16":
        assert ACTIVATION_BYTES["fp16"] == ACTIVATION_BYTES["bf16"], "autocast on a CPU knows no fp16"
        return
    per_pixel = saved_for_backward(width, 128, precision) / 4 / 128**2 / width
    assert per_pixel == pytest.approx(ACTIVATION_BYTES[precision], rel=0.02)


def estimate(**values: object) -> dict[str, int]:
    asked = {"width": 64, "view_px": 256, "crops_per_view": 4, "patch_px": 128, **values}
    config = tiny_config(**{name: value for name, value in asked.items() if value is not None})
    memory = estimate_memory(
        config, precision="fp32", num_parameters=1_000_000, num_patches=4, num_scene_px=10, num_data_processes=3
    )
    return {
        "network": memory.network_bytes,
        "pool": memory.pool_bytes,
        "scenes": memory.scene_bytes,
        "photographs": memory.photograph_bytes,
        "device": memory.device_bytes,
        "host": memory.host_bytes,
    }


def test_the_parts() -> None:
    found = estimate()
    assert found["network"] == 2 * 129 * 64 * 4 * 128**2 + 20_000_000
    assert (found["pool"], found["scenes"]) == (0, 120)
    assert found["photographs"] == 3 * 64 * 15 * 256**2
    assert (found["device"], found["host"]) == (found["network"], found["scenes"] + found["photographs"])


def test_a_pool_lies_on_the_device_and_no_photographs_beside_it() -> None:
    found = estimate(pool_views=1000, crops_per_view=None)
    assert found["pool"] == 9 * 1000 * 256**2
    assert found["device"] == found["network"] + found["pool"]
    assert found["photographs"] == 0
    assert estimate(crops_per_view=1)["photographs"] == 3 * 15 * 256**2
    assert estimate(view_px=0, crops_per_view=None)["photographs"] == 3 * 15 * 128**2
    assert estimate(view_px=128, crops_per_view=None)["photographs"] == 3 * 15 * 128**2
