"""One tile on one device: stage, copy, compute, copy back. Knows nothing of images, budgets or retries."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.inference.base import LdrPixels
from pipeline.inference.precision import DTYPES, ConcretePrecision
from pipeline.inference.tiling import Tile, gather_region
from pipeline.models.descriptor import HDRUNET
from pipeline.models.hdrunet import HDRUNet

# Two, so that the copies of one tile overlap the computation of the next.
_NUM_CUDA_SLOTS = 2


@dataclass(frozen=True, slots=True)
class TileResult:
    """A finished core: linear (h, w, 3) float32, valid until the next launch but one, and counts of raw samples."""

    tile: Tile
    linear: NDArray[np.float32]
    num_negative: int
    num_nan: int
    num_inf: int
    num_positive_inf: int


class _Slot:
    """Host buffers that one tile in flight owns; page-locked for CUDA, grown when needed and then reused."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._input = torch.empty(0, dtype=torch.uint8)
        self._output = torch.empty(0, dtype=torch.float32)

    def stage(self, pixels: LdrPixels, tile: Tile) -> Tensor:
        """Gather the tile's region into the input buffer: (region height, region width, 3), dtype of the pixels."""
        shape = (*tile.region_shape, 3)
        num_bytes = tile.num_region_pixels * 3 * pixels.dtype.itemsize
        if self._input.numel() < num_bytes:
            self._input = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
        dtype = torch.uint8 if pixels.dtype == np.uint8 else torch.uint16
        staged = self._input[:num_bytes].view(dtype).view(shape)
        gather_region(pixels, tile, staged.numpy())
        return staged

    def fetch(self, values: Tensor) -> Tensor:
        """Start copying device values into the output buffer and return the (not yet valid) host tensor."""
        if self._output.numel() < values.numel():
            self._output = torch.empty(values.numel(), dtype=torch.float32, pin_memory=self._pinned)
        host = self._output[: values.numel()].view(values.shape)
        return host.copy_(values, non_blocking=True)


class PendingTile:
    """A launched tile. `result` waits for it; device faults of asynchronous work surface there."""

    def __init__(self, tile: Tile, linear: Tensor, counts: Tensor, done: torch.cuda.Event | None) -> None:
        self._tile, self._linear, self._counts, self._done = tile, linear, counts, done

    def result(self) -> TileResult:
        """Wait and return the core."""
        if self._done is not None:
            self._done.synchronize()
        return TileResult(self._tile, self._linear.numpy(), *self._counts.tolist())


class TileRunner:
    """Owns the network on its device. At most two tiles may be launched before the first one's result is taken.

    Takes the network over: moves it, sets its compute dtype and memory format. On CUDA it also turns TF32 off for
    convolutions of this process, because the layers that write the output must be float32 in fact.
    """

    def __init__(self, network: HDRUNet, device: torch.device, precision: ConcretePrecision) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        network.set_compute_dtype(DTYPES[precision]).eval().requires_grad_(False)
        # torch's stubs lack the overload for modules.
        self._network: HDRUNet = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_cuda = device.type == "cuda"
        if is_cuda:
            torch.backends.cudnn.allow_tf32 = False
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(device)
        self._slots = [_Slot(pinned=is_cuda) for _ in range(_NUM_CUDA_SLOTS if is_cuda else 1)]
        self._num_launched = 0

    def launch(self, pixels: LdrPixels, tile: Tile) -> PendingTile:
        """Start a tile of an (H, W, 3) image: asynchronously on CUDA, to completion on the CPU."""
        slot = self._slots[self._num_launched % len(self._slots)]
        self._num_launched += 1
        with torch.inference_mode(), self._on_stream():
            staged = slot.stage(pixels, tile)
            raw = self._network(_to_unit_range(staged.to(self.device, non_blocking=True)))
            core = _crop_core(raw, tile, pixels.shape[0], pixels.shape[1])
            counts = torch.stack([(core < 0).sum(), core.isnan().sum(), core.isinf().sum(), core.isposinf().sum()])
            # clamp keeps NaN, and Inf stays Inf under the power.
            linear = core.clamp_(min=0).pow_(HDRUNET.decode_gamma)
            if self._stream is None:
                return PendingTile(tile, linear, counts, None)
            host_linear, host_counts = slot.fetch(linear), counts.to("cpu", non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._stream)
            return PendingTile(tile, host_linear, host_counts, done)

    def free_memory(self) -> None:
        """Return cached blocks to the card, so that smaller ones can be cut from it."""
        if self._stream is not None:
            torch.cuda.empty_cache()

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _to_unit_range(pixels: Tensor) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1]; the permuted view is channels_last already."""
    full_scale = 255.0 if pixels.dtype == torch.uint8 else 65535.0
    return pixels.permute(2, 0, 1).unsqueeze(0).to(torch.float32).div_(full_scale)


def _crop_core(raw: Tensor, tile: Tile, height: int, width: int) -> Tensor:
    """Cut the core, without padding, from the region's output: (h, w, 3), contiguous and owned by the caller."""
    top, left = tile.core_y.start - tile.region_y.start, tile.core_x.start - tile.region_x.start
    bottom = min(tile.core_y.stop, height) - tile.region_y.start
    right = min(tile.core_x.stop, width) - tile.region_x.start
    return raw[0, :, top:bottom, left:right].permute(1, 2, 0).contiguous()
