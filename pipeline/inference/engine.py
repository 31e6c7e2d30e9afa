"""The inference engine: one network on one device, for images of any size within a memory budget."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import torch

from pipeline.config import InferenceConfig
from pipeline.errors import ConfigError, DeviceLostError, HdrfleetError, InferenceError, first_line
from pipeline.inference import memory
from pipeline.inference.base import Engine, Inference, LdrPixels
from pipeline.inference.faults import Fault, classify
from pipeline.inference.precision import ConcretePrecision, resolve_device, resolve_precision
from pipeline.inference.runner import PendingTile, TileResult, TileRunner
from pipeline.inference.tiling import (
    ALIGN_PX,
    HALO_PX,
    MIN_TILE_PX,
    Tile,
    align_up,
    halved_tile_px,
    largest_tile_px,
    plan_tiles,
    subdivide,
)
from pipeline.models.hdrunet import HDRUNet
from pipeline.records import InferenceInfo

__all__ = ["Engine", "Inference", "InferenceEngine"]

# Keeps every tensor (64 channels at most) below the 2**31 elements that cuDNN's and oneDNN's kernels can index; at
# this size the halo costs a tenth.
_MAX_REGION_PIXELS = 2**24
_MAX_MESSAGE_CHARS = 160


class InferenceEngine:
    """Runs HDRUNet on images of any size; the Engine that workers use.

    Takes the network over. `num_workers` is the number of processes that share this node's memory (CPU) or this card.
    Sets torch's threads for the whole process when `config.num_threads` says so. Calls of `infer` are serialised.
    Raises ConfigError for a device that is not there, for fp16 on a CPU, and for a memory budget that is too small;
    DeviceLostError when the card fails.
    """

    def __init__(self, network: HDRUNet, config: InferenceConfig, *, num_workers: int = 1) -> None:
        device = resolve_device(config.device)
        self._precision = resolve_precision(config.precision, device)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        try:
            self._runner = TileRunner(network, device, self._precision)
            budget_bytes = _default_budget_bytes(device, num_workers)
        except RuntimeError as error:
            raise DeviceLostError(f"{device}: {first_line(error, max_chars=_MAX_MESSAGE_CHARS)}") from error
        self._max_region_pixels = region_pixels_within(config, device.type, self._precision, budget_bytes)
        self._fixed_tile_px = config.tile_px
        self._tile_limit_px: int | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """`cpu` or `cuda:N`."""
        return str(self._runner.device)

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return self._precision

    def warm_up(self) -> None:
        """Run a small image, so that libraries load, kernels are chosen and a broken device shows before any work."""
        self.infer(np.zeros((MIN_TILE_PX, MIN_TILE_PX, 3), np.uint8))

    def infer(self, pixels: LdrPixels) -> Inference:
        """Convert one image; see Engine.infer. After CUDA ran out of memory, later images start at the smaller tile."""
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            msg = f"pixels must be (H, W, 3) uint8 or uint16 with H, W >= 1, not {pixels.shape} {pixels.dtype}"
            raise ValueError(msg)
        with self._lock:
            return self._infer(pixels)

    def _infer(self, pixels: LdrPixels) -> Inference:
        height, width = pixels.shape[:2]
        tile_px = self._tile_px_for(height, width)
        todo = deque(plan_tiles(height, width, tile_px))
        image = _ImageInProgress(height, width)
        pending: PendingTile | None = None
        while todo or pending is not None:
            # While the device computes the tile just launched, the one before is copied out.
            launched = self._launch(pixels, todo[0]) if todo else None
            if pending is not None:
                image.add(self._collect(pending))
            if todo and launched is None:
                tile_px = self._shrink(tile_px, todo[0])
                todo = deque(subdivide(todo, height, width, tile_px))
                image.num_oom_retries += 1
            elif todo:
                todo.popleft()
            pending = launched
        info = image.info(self.device, self.precision, tile_px)
        return Inference(image.linear, info, image.num_positive_inf)

    def _launch(self, pixels: LdrPixels, tile: Tile) -> PendingTile | None:
        """Start a tile, or return None when it needs more memory than there is."""
        try:
            return self._runner.launch(pixels, tile)
        except (RuntimeError, MemoryError) as error:
            if classify(error) is not Fault.OUT_OF_MEMORY:
                raise self._mapped(error) from error
        # Only here, where the exception no longer keeps the failed tile's tensors alive, is there anything to free.
        try:
            self._runner.free_memory()
        except RuntimeError as error:
            raise self._mapped(error) from error
        return None

    def _collect(self, pending: PendingTile) -> TileResult:
        try:
            return pending.result()
        except RuntimeError as error:
            raise self._mapped(error) from error

    def _mapped(self, error: BaseException) -> HdrfleetError:
        kind = DeviceLostError if classify(error) is Fault.DEVICE_LOST else InferenceError
        return kind(f"{self.device}: {first_line(error, max_chars=_MAX_MESSAGE_CHARS)}")

    def _shrink(self, tile_px: int, tile: Tile) -> int:
        smaller_px = halved_tile_px(tile_px, tile)
        if smaller_px is None:
            rows, columns = tile.region_shape
            raise MemoryError(f"{self.device}: out of memory even for a tile of {rows} x {columns} px")
        self._tile_limit_px = smaller_px
        return smaller_px

    def _tile_px_for(self, height: int, width: int) -> int:
        max_pixels = self._max_region_pixels
        if self._fixed_tile_px is not None and self._runner.device.type == "cuda":
            max_pixels = _MAX_REGION_PIXELS  # what the card cannot hold is halved; a CPU must not even try
        # The budget admits the smallest tile of any image: the constructor checked it.
        tile_px = largest_tile_px(height, width, max_pixels) or MIN_TILE_PX
        tile_px = min(tile_px, self._fixed_tile_px or tile_px, max(align_up(max(height, width)), ALIGN_PX))
        return tile_px if self._tile_limit_px is None else min(tile_px, self._tile_limit_px)


def region_pixels_within(
    config: InferenceConfig, device_type: str, precision: ConcretePrecision, default_budget_bytes: int
) -> int:
    """Return how many pixels one pass of the network may compute. Raises ConfigError where no tile would fit."""
    budget_bytes = config.memory_budget_bytes or default_budget_bytes
    region_pixels = memory.max_region_pixels(budget_bytes, device_type, precision)
    side_px = MIN_TILE_PX
    if config.tile_px is not None and config.memory_budget_bytes is not None:
        side_px = config.tile_px
    needed_pixels = (side_px + 2 * HALO_PX) ** 2
    if region_pixels < needed_pixels:
        needed_mib = needed_pixels * memory.bytes_per_pixel(device_type, precision) // memory.MIB
        budget_mib = budget_bytes // memory.MIB
        raise ConfigError(
            f"a tile of {side_px} px needs {needed_mib} MiB, but inference may use {budget_mib} MiB; "
            "raise the memory budget, use fewer workers or a smaller tile"
        )
    return min(region_pixels, _MAX_REGION_PIXELS)


def _default_budget_bytes(device: torch.device, num_workers: int) -> int:
    if device.type == "cpu":
        return memory.cpu_budget_bytes(num_workers)
    return memory.cuda_budget_bytes(torch.cuda.mem_get_info(device)[0], num_workers)


class _ImageInProgress:
    """The result array and the tallies of one image."""

    def __init__(self, height: int, width: int) -> None:
        self.linear = np.empty((height, width, 3), np.float32)
        self.num_oom_retries = self.num_positive_inf = 0
        self._num_tiles = self._num_negative = self._num_nan = self._num_inf = 0

    def add(self, result: TileResult) -> None:
        """Copy a finished core to its place."""
        rows, columns = result.linear.shape[:2]
        top, left = result.tile.core_y.start, result.tile.core_x.start
        self.linear[top : top + rows, left : left + columns] = result.linear
        self._num_tiles += 1
        self._num_negative += result.num_negative
        self._num_nan += result.num_nan
        self._num_inf += result.num_inf
        self.num_positive_inf += result.num_positive_inf

    def info(self, device: str, precision: str, tile_px: int) -> InferenceInfo:
        """Return the record of this image."""
        return InferenceInfo(
            device=device,
            precision=precision,
            num_tiles=self._num_tiles,
            tile_px=tile_px,
            num_oom_retries=self.num_oom_retries,
            num_negative=self._num_negative,
            num_nan=self._num_nan,
            num_inf=self._num_inf,
        )
