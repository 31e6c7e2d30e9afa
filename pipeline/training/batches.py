"""From numbered patches to batches: the data of a step depend on the step alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.errors import ConfigError, WorkerLostError

Patch = tuple[Tensor, Tensor]
"""(ldr, truth): uint8 (3, H, W), and float32 (3, H, W) in the network's gamma domain, 1.0 = clipping level."""


class Batches(Protocol):
    """Where the loop takes its data from."""

    def start_at(self, step: int) -> Iterator[Patch]:
        """Yield this worker's share of each batch from `step` on, without end: (N, 3, H, W) of both, as in `Patch`."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """The part of every batch that one of `world_size` workers computes."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            msg = f"rank {self.rank} of {self.world_size}"
            raise ValueError(msg)

    def of(self, batch_size: int) -> int:
        """Return how many patches of a batch this worker computes. Raises ConfigError when they cannot be equal."""
        if batch_size % self.world_size:
            raise ConfigError(
                f"a batch of {batch_size} does not divide among {self.world_size} workers; "
                f"{batch_size - batch_size % self.world_size or self.world_size} would"
            )
        return batch_size // self.world_size


class LoadedBatches:
    """Batches from a dataset of numbered patches; `dataset[n]` must depend on n (and its own seed) alone.

    Step k takes the patches k * batch_size to (k + 1) * batch_size - 1, and each worker an equal part of them in order,
    so that any number of workers sees the same patches, and a resumed run those of an uninterrupted one.
    `num_data_workers` processes prepare patches ahead; 0 prepares them in this process.
    """

    def __init__(
        self, dataset: Dataset[Patch], *, batch_size: int, share: Share, num_data_workers: int, pin_memory: bool
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._share = share
        self._num_data_workers = num_data_workers
        self._pin_memory = pin_memory
        share.of(batch_size)

    def start_at(self, step: int) -> Iterator[Patch]:
        """See `Batches`. Raises WorkerLostError when a data process dies."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=_StepSampler(step, self._batch_size, self._share),
            num_workers=self._num_data_workers,
            pin_memory=self._pin_memory,
            prefetch_factor=4 if self._num_data_workers else None,
            worker_init_fn=start_data_worker,
        )
        batches = iter(loader)
        while True:
            with naming_lost_processes():
                ldr, truth = next(batches)
            yield ldr, truth


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Raise WorkerLostError where a DataLoader finds that one of its processes died."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise WorkerLostError(f"a data process died (out of memory?): {str(error).splitlines()[0]}") from error
        raise


class _StepSampler(Sampler[list[int]]):
    """Yields the patch numbers of this worker's share of each batch, without end."""

    def __init__(self, first_step: int, batch_size: int, share: Share) -> None:
        self._first_step = first_step
        self._batch_size = batch_size
        self._share = share

    def __iter__(self) -> Iterator[list[int]]:
        size, step = self._share.of(self._batch_size), self._first_step
        while True:
            first = step * self._batch_size + self._share.rank * size
            yield list(range(first, first + size))
            step += 1


def start_data_worker(_index: int) -> None:
    """Leave Ctrl-C to the main process, which ends its data processes itself, and the cores to the network."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
