"""A pool of photographs on the training device, and batches cut from it there.

A processor core photographs some twenty views a second; a GPU learns from thousands of patches in that time. The pool
is photographed once, by many processes, and every batch is then cropped, turned and encoded on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.codecs.color import GAMMA
from pipeline.errors import ConfigError
from pipeline.simulation.camera import CameraRanges, photograph_scene
from pipeline.simulation.scenes import HdrScene
from pipeline.training.batches import Patch, Share, naming_lost_processes, start_data_worker
from pipeline.training.patches import (
    CLIPPED_CODE,
    HIGHLIGHT_PROBABILITY,
    MAX_TRUTH,
    NUM_CANDIDATES,
    TURN_PROBABILITY,
)

_RENDER_BATCH = 16


@dataclass(frozen=True, slots=True)
class ViewPool:
    """`ldr` is uint8 and `truth` float16, linear with 1.0 = clipping level: both (N, H, W, 3), on one device."""

    ldr: Tensor
    truth: Tensor


class _Views(Dataset[tuple[Tensor, Tensor]]):
    """Photograph k depends on the seed and k alone."""

    def __init__(
        self, scenes: Sequence[HdrScene], num_views: int, view_px: int, seed: int, ranges: CameraRanges
    ) -> None:
        self._scenes, self._num_views, self._view_px = scenes, num_views, view_px
        self._seed, self._ranges = seed, ranges

    def __len__(self) -> int:
        return self._num_views

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self._seed, number])
        scene = self._scenes[int(rng.integers(len(self._scenes)))]
        shot = photograph_scene(scene, self._view_px, rng, self._ranges)
        truth = np.minimum(shot.truth, np.float32(MAX_TRUTH)).astype(np.float16)
        return torch.from_numpy(shot.ldr.copy()), torch.from_numpy(truth)


def photograph_pool(
    scenes: Sequence[HdrScene],
    *,
    num_views: int,
    view_px: int,
    seed: int,
    ranges: CameraRanges,
    num_processes: int,
    device: torch.device,
    on_views: Callable[[int], None] = lambda _: None,
) -> ViewPool:
    """Photograph `num_views` views of `scenes`, in equal shares, with `num_processes` processes (0: in this one).

    Takes 9 bytes a pixel of the device's memory: 590 MB for 1,000 views of 256 px. `on_views` hears after every 16 how
    many there are, and may raise to end it. Raises ConfigError without scenes, WorkerLostError when a process dies.
    """
    if not scenes:
        raise ConfigError("no scenes to photograph")
    shape = (num_views, view_px, view_px, 3)
    ldr = torch.empty(shape, dtype=torch.uint8, device=device)
    truth = torch.empty(shape, dtype=torch.float16, device=device)
    loader = DataLoader(
        _Views(scenes, num_views, view_px, seed, ranges),
        batch_size=_RENDER_BATCH,
        num_workers=num_processes,
        worker_init_fn=start_data_worker,
    )
    first = 0
    with naming_lost_processes():
        for some_ldr, some_truth in loader:
            ldr[first : first + len(some_ldr)] = some_ldr.to(device)
            truth[first : first + len(some_ldr)] = some_truth.to(device)
            first += len(some_ldr)
            on_views(first)
    return ViewPool(ldr, truth)


class PooledBatches:
    """Batches of patches of `patch_px` squared, cropped from a pool as `PatchDataset` crops its photographs.

    The patches of a step depend on the pool, the seed and the step alone; several workers with equal pools take equal
    parts of them.
    """

    def __init__(self, pool: ViewPool, *, patch_px: int, batch_size: int, share: Share, seed: int) -> None:
        self._pool, self._patch_px, self._batch_size = pool, patch_px, batch_size
        self._share, self._seed = share, seed
        share.of(batch_size)

    def start_at(self, step: int) -> Iterator[Patch]:
        """See `Batches`. Tensors are on the pool's device."""
        while True:
            yield self._batch(step)
            step += 1

    def _batch(self, step: int) -> Patch:
        size, num_views, view_px = self._batch_size, len(self._pool.ldr), self._pool.ldr.shape[1]
        rng = np.random.default_rng([self._seed, step])
        views = rng.integers(num_views, size=size)
        corners = rng.integers(view_px - self._patch_px + 1, size=(size, NUM_CANDIDATES, 2))
        wants_highlights = rng.random(size) < HIGHLIGHT_PROBABILITY
        turns = np.where(rng.random(size) < TURN_PROBABILITY, rng.integers(1, 4, size=size), 0)
        mine = slice(self._share.rank * self._share.of(size), (self._share.rank + 1) * self._share.of(size))
        drawn = (torch.from_numpy(values[mine]).to(self._pool.ldr.device) for values in (views, corners, turns))
        chosen, places, quarter_turns = drawn
        best = self._most_clipped(chosen, places)
        best *= torch.from_numpy(wants_highlights[mine]).to(best.device)
        top, left = places[torch.arange(len(places), device=places.device), best].unbind(dim=1)
        rows, columns = _turned_grid(self._patch_px, quarter_turns)
        index = (chosen[:, None, None], rows + top[:, None, None], columns + left[:, None, None])
        ldr = self._pool.ldr[index].permute(0, 3, 1, 2)
        truth = self._pool.truth[index].permute(0, 3, 1, 2).float() ** (1 / GAMMA)
        return ldr, truth

    def _most_clipped(self, views: Tensor, corners: Tensor) -> Tensor:
        """The number, (N,), of the candidate corner, (N, C, 2), with the most clipped pixels in its patch."""
        clipped = (self._pool.ldr[views].amax(dim=3) >= CLIPPED_CODE).to(torch.int32)
        sums = torch.zeros(
            (len(views), clipped.shape[1] + 1, clipped.shape[2] + 1), dtype=torch.int64, device=views.device
        )
        sums[:, 1:, 1:] = clipped.cumsum(dim=1).cumsum(dim=2)
        number = torch.arange(len(views), device=views.device)[:, None]
        top, left = corners[..., 0], corners[..., 1]
        below, right = top + self._patch_px, left + self._patch_px
        counts = (
            sums[number, below, right] - sums[number, top, right] - sums[number, below, left] + sums[number, top, left]
        )
        return counts.argmax(dim=1)


def _turned_grid(side: int, quarter_turns: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel of a patch that was turned counter-clockwise comes from: rows and columns, (N, side, side)."""
    steps = torch.arange(side, device=quarter_turns.device)
    i, j = torch.meshgrid(steps, steps, indexing="ij")
    last = side - 1
    rows = torch.stack([i, j, last - i, last - j])
    columns = torch.stack([j, last - i, last - j, i])
    return rows[quarter_turns], columns[quarter_turns]
