"""The network's graph on a card that is not there: fake tensors have a device, a dtype and a shape, and no values.

What mixes dtypes, or devices outside of a convolution, fails here as it would on a card, and the peak of the live
tensors is what they would take there.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from fakes import tiny_network
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.inference.memory import CUDA_BYTES_PER_PIXEL
from pipeline.inference.precision import DTYPES, ConcretePrecision
from pipeline.inference.runner import _to_unit_range
from pipeline.models.hdrunet import HDRUNet

CUDA = torch.device("cuda", 0)
SIDE_PX = 512
PUBLISHED_WIDTH = 64


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, as long as a tensor holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        name = storage._cdata
        if name in self._seen:
            return
        self._seen.add(name)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, name, storage.nbytes())

    def _forget(self, name: int, num_bytes: int) -> None:
        self._seen.discard(name)
        self.now -= num_bytes


@contextmanager
def fake_card(precision: ConcretePrecision) -> Iterator[HDRUNet]:
    """The mode, and a network of the published width in it whose parameters TileRunner would have moved to a card."""
    network = tiny_network(0, PUBLISHED_WIDTH).set_compute_dtype(DTYPES[precision]).eval().requires_grad_(False)
    assert not list(network.buffers())
    with FakeTensorMode(), torch.inference_mode():
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                moved = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
                setattr(module, name, torch.nn.Parameter(moved, requires_grad=False))
        yield network


def fake_pixels(dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.empty((SIDE_PX, SIDE_PX, 3), dtype=dtype, device=CUDA)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_no_operation_mixes_devices_or_dtypes(precision: ConcretePrecision, dtype: torch.dtype) -> None:
    with fake_card(precision) as network:
        raw = network(_to_unit_range(fake_pixels(dtype)))
    assert (raw.device, raw.dtype, raw.shape) == (CUDA, torch.float32, (1, 3, SIDE_PX, SIDE_PX))


def test_value_that_was_made_on_the_host_is_noticed() -> None:
    with fake_card("fp16") as network:
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda _, __, made: made + torch.zeros(made.shape[-1], dtype=made.dtype))
        with pytest.raises(RuntimeError, match="devices"):
            network(_to_unit_range(fake_pixels()))


def test_layer_of_another_dtype_is_noticed() -> None:
    with fake_card("fp16") as network:
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight = torch.nn.Parameter(torch.empty_like(first.weight, dtype=torch.float32), requires_grad=False)
        with pytest.raises(RuntimeError, match="should be the same"):
            network(_to_unit_range(fake_pixels()))


@pytest.mark.parametrize("precision", DTYPES)
def test_budget_covers_the_live_tensors_and_a_margin(precision: ConcretePrecision) -> None:
    """The rest of the constant is for the caching allocator and cuDNN's workspaces."""
    with fake_card(precision) as network:
        pixels = fake_pixels()
        with LiveBytes() as live:
            network(_to_unit_range(pixels))
    bytes_per_pixel = live.peak / SIDE_PX**2
    assert 1.25 * bytes_per_pixel < CUDA_BYTES_PER_PIXEL[precision] < 2.5 * bytes_per_pixel
