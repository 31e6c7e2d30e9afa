"""Workers that go down, hang, or have to leave, and what becomes of the leases that they hold."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from time import monotonic

from ray.exceptions import RayTaskError

from pipeline.errors import (
    DeviceLostError,
    StorageError,
    SystemicError,
    UsageError,
    WorkerCrashError,
    WorkerHangError,
    WorkerLostError,
    first_line,
)
from pipeline.execution.base import RETRY_DELAY_S
from pipeline.execution.events import returned_event
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.ray_actor import ActorHandle, loss_code
from pipeline.execution.ray_drain import draining_nodes
from pipeline.execution.ray_pool import WorkerPool

# Native code may keep a healthy worker from answering for a while.
_MIN_SILENCE_S = 30.0
# A notice gives 30 s at least; what is finished and committed has to be so before the node ends.
_DRAIN_LOOK_S = 1.0
_DRAIN_MARGIN_S = 4.0


class Losses:
    """Takes leases from workers that cannot finish them, and gives them back to the book of one run."""

    def __init__(self, pool: WorkerPool, book: LeaseBook) -> None:
        self._pool = pool
        self._book = book
        self._execution = pool.execution
        self._next_drain_look_at = -math.inf

    def lose(
        self,
        worker: ActorHandle,
        reason: str,
        *,
        code: str = WorkerCrashError.code,
        suspects: Collection[str] = (),
        error: SystemicError | None = None,
    ) -> None:
        """Put back the leases of a dead worker, make sure that it is dead, and remember a failed start.

        `code` is what an image that did it is quarantined with; `suspects` are known not to come to an end. `error` is
        what a start failed with, where it says of itself that the node is to blame.
        """
        for lease in self._taken_from(worker, reason):
            self._book.lose(lease, code, reason, suspects)
        if not worker.is_ready:
            self._pool.count_failed_start(worker, error or WorkerLostError(f"a worker could not start: {reason}"))

    def excuse(self, worker: ActorHandle, error: SystemicError) -> None:
        """Put back the leases of a worker whose device or node failed: it is replaced, and no image is to blame.

        Raises the error where too many nodes do that.
        """
        reason = f"{error.code}: {first_line(error)}"
        leases = self._taken_from(worker, reason)
        for lease in leases:
            self._book.excuse(lease, error)
        held = (lease.shard.whole_key for lease in leases)
        self._pool.health.lost_device(worker.place, error, worker.started, held)

    def blame(self, worker: ActorHandle, error: DeviceLostError, suspect: str) -> None:
        """Put back the leases of a worker whose sound device an image took along; other leases are excused."""
        reason = f"{error.code}: {first_line(error)}"
        for lease in self._taken_from(worker, reason):
            if any(task.source == suspect for task in lease.shard.tasks):
                self._pool.health.explained(worker.place, lease.shard.whole_key)
                self._book.lose(lease, WorkerCrashError.code, reason, [suspect], is_proven=True)
            else:
                self._book.excuse(lease, error)

    def _taken_from(self, worker: ActorHandle, reason: str) -> list[Lease]:
        """Make sure that the worker is dead; the leases that it had, of which the log says that they came back."""
        self._pool.lost(worker, reason)
        leases = self._book.held_by(worker.name)
        self._pool.report(*(returned_event(lease, reason) for lease in leases))
        return leases

    def release(self, worker: ActorHandle) -> None:
        """End a worker that has to leave; its leases go to others, and nothing counts against anybody."""
        self._pool.end(worker)
        for lease in self._book.held_by(worker.name):
            self._book.release(lease)

    def judge(self, error: RayTaskError, worker: ActorHandle, lease: Lease | None) -> None:
        """An exception raised inside a worker: stop the job, try the shard again, or replace the worker."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        reason = f"{getattr(cause, 'code', type(cause).__name__)}: {first_line(cause)}"
        if isinstance(cause, UsageError) and not self._pool.was_ever_ready:
            raise cause  # no worker can be built from this configuration
        if isinstance(cause, SystemicError) and not isinstance(cause, DeviceLostError | WorkerLostError):
            raise cause
        if lease is None:
            self.lose(worker, reason, error=cause if isinstance(cause, SystemicError) else None)
        elif isinstance(cause, StorageError):
            self._pool.report(returned_event(lease, reason))
            # Shards that failed together for their store do not come back together.
            self._book.give_back(lease, cause, delay_s=RETRY_DELAY_S * random.uniform(0.5, 1.5))  # noqa: S311
        elif isinstance(cause, DeviceLostError) and cause.suspect is not None:
            self.blame(worker, cause, cause.suspect)
        elif isinstance(cause, SystemicError):
            self.excuse(worker, cause)  # a lost device, or processes that cannot be started there
        else:
            self.lose(worker, reason, code=loss_code(cause))

    def leave_draining_nodes(self) -> None:
        """Nothing new for workers whose node is taken away; they go when they are done, or just before the node does.

        What they stored of a shard that they do not finish is adopted by the next holder.
        """
        if monotonic() < self._next_drain_look_at:
            return
        self._next_drain_look_at = monotonic() + _DRAIN_LOOK_S
        left_s = draining_nodes()
        for worker in self._pool:
            if worker.last_sign.node_id not in left_s:
                continue
            worker.is_draining = True
            if self._pool.scaler:
                self._pool.scaler.gone(worker.name)
            if not worker.running or left_s[worker.last_sign.node_id] < _DRAIN_MARGIN_S:
                self.release(worker)

    def expire_leases(self) -> None:
        """Replace workers that hold a shard for too long."""
        now = monotonic()
        for worker in self._pool:
            if any(now > deadline for _, deadline in worker.running.values()):
                reason = f"a shard took longer than {self._execution.shard_timeout_s:.0f} s"
                self.lose(worker, reason, code=WorkerHangError.code, suspects=worker.progress.overdue)

    def replace_stuck(self) -> None:
        """Replace workers that an image does not leave, and those that do not answer any more."""
        timeout_s = self._execution.image_timeout_s
        for worker in self._pool:
            if worker.progress.overdue:
                reason = f"{worker.progress.overdue[0]} was not done within its deadline of {timeout_s:.0f} s and more"
                self.lose(worker, reason, code=WorkerHangError.code, suspects=worker.progress.overdue)
            elif worker.silent_s() > max(_MIN_SILENCE_S, timeout_s):
                reason = f"a worker did not answer for {worker.silent_s():.0f} s"
                self.lose(worker, reason, code=WorkerHangError.code)
