"""The end of a job on actors: images of the last leases that are not begun are lent to workers without one."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from pipeline.execution.events import split_event
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.ray_actor import ActorHandle
from pipeline.execution.ray_pool import WorkerPool
from pipeline.execution.tail import MIN_PART_S, RemainingLease, num_helpers_at_most, split_tail
from pipeline.faults import fault_point
from pipeline.records import ImageTask

# What workers are believed to do counts until all of them together have worked for so long.
_TRUSTED_AFTER_S = 5.0


class Tail:
    """Asks holders to cede images, and tells the book what they ceded. Of one run; see docs/adr/0008-tail.md.

    A holder is asked once at a time, and only while no lease waits: what was ceded goes to idle workers first.
    """

    def __init__(self, pool: WorkerPool, book: LeaseBook) -> None:
        self._pool = pool
        self._book = book
        self._busy_s = 0.0
        self._megapixels_before = pool.megapixels
        self._ticked_at = monotonic()

    def step(self) -> None:
        """Ask the holders of the largest rests to part them with those who have nothing to do."""
        self._tick()
        if not self._book.is_exhausted or self._book.num_returned:
            return
        holders = [worker for worker in self._pool if worker.running]
        if any(worker.cede_ref is not None for worker in holders):
            return
        num_idle = sum(worker.is_ready and not worker.is_draining and not worker.running for worker in self._pool)
        found = (
            [(worker, *each) for worker in holders for each in _open(worker) if worker.has_fresh_sign]
            if num_idle
            else []
        )
        num_parts = split_tail([rest for _, _, rest in found], num_idle, min_part_megapixels=self._min_part)
        for (worker, lease, _), num in zip(found, num_parts, strict=True):
            if num > 1 and worker.cede_ref is None:
                worker.ask_to_cede(lease, num)

    def settle(self, worker: ActorHandle, parts: tuple[tuple[ImageTask, ...], ...]) -> None:
        """A holder says what it has ceded. Where its lease has moved on or ended meanwhile, the book knows better."""
        lease, worker.ceding, worker.cede_ref = worker.ceding, None, None
        kept = self._book.split(lease, parts) if lease and parts else None
        if kept is None:
            return
        worker.running = {
            ref: (kept if held == lease else held, deadline) for ref, (held, deadline) in worker.running.items()
        }
        self._pool.report(split_event(kept, parts))
        fault_point("shard.split")

    @property
    def num_lendable(self) -> int:
        """How many workers without a lease could do images of the outstanding ones at the moment."""
        rests = [rest for worker in self._pool for _, rest in _open(worker)]
        return num_helpers_at_most(rests, min_part_megapixels=self._min_part)

    @property
    def _min_part(self) -> float:
        return self._megapixels_per_s * MIN_PART_S

    @property
    def _megapixels_per_s(self) -> float:
        if self._busy_s < _TRUSTED_AFTER_S:
            return self._pool.believed_megapixels_per_s
        return (self._pool.megapixels - self._megapixels_before) / self._busy_s

    def _tick(self) -> None:
        now = monotonic()
        self._busy_s += (now - self._ticked_at) * sum(bool(worker.running) for worker in self._pool)
        self._ticked_at = now


def _open(worker: ActorHandle) -> Iterator[tuple[Lease, RemainingLease]]:
    """The leases of which it can cede images, by its last sign of life; the image that its device is at counts, too."""
    open_work = {work.key: work for work in worker.last_sign.open_work}
    for lease, _ in worker.running.values():
        work = open_work.get(lease.shard.key)
        if work is not None and work.num_images:
            yield lease, RemainingLease(work.num_images + 1, work.megapixels)
