"""RayExecutor: the lease scheduler on disposable Ray actors (docs/adr/0001-engine.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import (
    DeviceLostError,
    InterruptedJobError,
    LeaseLostError,
    StorageError,
    SystemicError,
    UsageError,
    WorkerCrashError,
    WorkerHangError,
    WorkerLostError,
    first_line,
)
from pipeline.execution.base import RETRY_DELAY_S, OnProgress, Progress, RunSummary, WorkerSpec, WorkSize
from pipeline.execution.elastic import RemainingWork, Scaler
from pipeline.execution.events import ExecutionEvent, returned_event, shard_events, worker_event
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.ray_actor import ActorHandle, death_code, kill_actor, loss_code, spawn_actor
from pipeline.execution.ray_capacity import read_capacity, why_impossible
from pipeline.execution.ray_drain import draining_nodes
from pipeline.execution.ray_metrics import driver_meter
from pipeline.execution.ray_session import WorkerResources
from pipeline.faults import fault_point
from pipeline.records import Shard
from pipeline.scaling_config import ScalingConfig
from pipeline.scaling_record import ScalingEvent

_POLL_S = 1.0
# A reference that ray.wait calls ready is a few kilobytes away; longer means that its owner is gone.
_GET_TIMEOUT_S = 60.0
_MAX_FAILED_STARTS = 3
# Native code may keep a healthy worker from answering for a while.
_MIN_SILENCE_S = 30.0
_MAX_SPAWN_DELAY_S = 60.0
# A notice gives 30 s at least; what is finished and committed has to be so before the node ends.
_DRAIN_LOOK_S = 1.0
_DRAIN_MARGIN_S = 4.0
# An autoscaler takes some rounds to see a request and to say that it has no such node; the look costs two requests.
_IMPOSSIBLE_AFTER_S = 20.0
_CAPACITY_LOOK_S = 5.0
# Of one worker with the default network, until it was measured: a current GPU (docs/performance.md), one CPU core.
_GPU_MEGAPIXELS_PER_S = 20.0
_CORE_MEGAPIXELS_PER_S = 0.3

OnScaling = Callable[[ScalingEvent], None]


class RayExecutor:
    """Leases shards to actors that own one accelerator each; a lost actor costs its leases' work and nothing else.

    Actors are created with no restarts and no retries: a lost one is replaced, and its shards are leased again
    (docs/adr/0001-engine.md: Ray's own retries lose shards or hold them hostage). Nothing is dispatched to an actor
    before it is ready, and at most `leases_per_worker` references per actor exist: the driver's memory stays flat.

    With `scaling` in the configuration their number follows the work (`Scaler`): actors that wait for a place are the
    autoscaler's demand, ended ones let their nodes idle out, and `on_scaling` is told of each change.
    """

    def __init__(self, spec: WorkerSpec, resources: WorkerResources, on_scaling: OnScaling | None = None) -> None:
        self._execution = spec.config.execution
        self._on_scaling = on_scaling
        self._scaler = _scaler(self._execution.scaling, resources)
        self._resources = resources
        self._spec = replace(spec, num_workers_on_node=resources.num_workers_on_node)
        self._spec_ref: Any = None
        self._workers: dict[str, ActorHandle] = {}
        self._num_spawned = 0
        self._num_failed_starts = 0
        self._next_spawn_at = 0.0
        self._was_ever_ready = False
        self._last_ready_at = -math.inf
        self._num_lost = 0
        self._next_drain_look_at = -math.inf
        self._next_capacity_look_at = -math.inf
        self._retired = Progress()
        self._meter = driver_meter(spec.job_id)
        self._events: list[ExecutionEvent] = []

    def __enter__(self) -> Self:
        self._spec_ref = ray.put(self._spec)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in list(self._workers.values()):
            self._kill(worker)

    @property
    def _num_staying(self) -> int:
        return sum(not worker.is_draining for worker in self._workers.values())

    @property
    def _num_ready(self) -> int:
        return sum(worker.is_ready for worker in self._workers.values())

    def run(
        self,
        shards: Iterator[Shard],
        *,
        num_shards: int,
        resuming: bool,
        on_progress: OnProgress,
        size: WorkSize | None = None,
    ) -> RunSummary:
        """See `Executor.run`."""
        num_workers = min(self._resources.num_workers, max(1, num_shards))
        work = RemainingWork(num_shards, size or WorkSize())
        book = LeaseBook(work.counted(shards), self._execution.max_shard_attempts, num_workers=num_workers)
        summary = RunSummary()
        lost_before = self._num_lost
        for worker in self._workers.values():
            worker.start_deadline = monotonic() + self._start_timeout_s
        try:
            while not book.is_finished:
                if self._scaler:
                    self._scale(self._scaler, work, book)
                else:
                    self._spawn_up_to(num_workers)
                self._leave_draining_nodes(book)
                self._dispatch(book, resuming)
                for worker, ref in self._wait():
                    summary = self._settle(worker, ref, book, work, summary)
                if self._num_ready:
                    self._last_ready_at = monotonic()
                self._expire_starts()
                self._expire_leases(book)
                self._replace_stuck(book)
                self._sample(book)
                on_progress(self._total_progress())
        except LeaseLostError:
            self._meter.lost_driver_lease()
            raise
        except KeyboardInterrupt as error:
            raise InterruptedJobError("interrupted") from error
        book.raise_if_given_up()
        return replace(summary, num_given_back=book.num_given_back, num_workers_lost=self._num_lost - lost_before)

    def _dispatch(self, book: LeaseBook, resuming: bool) -> None:
        """Give every ready worker its leases."""
        for worker in self._workers.values():
            while (
                worker.is_ready and not worker.is_draining and len(worker.running) < self._execution.leases_per_worker
            ):
                lease = book.take(worker.name)
                if lease is None:
                    break
                ref = worker.actor.convert.remote(lease.shard, lease.attempt, resuming or lease.attempt > 1)
                worker.running[ref] = (lease, monotonic() + self._execution.shard_timeout_s)
                fault_point("shard.leased")

    @property
    def _start_timeout_s(self) -> float:
        scaling = self._execution.scaling
        return self._execution.worker_start_timeout_s + (scaling.node_start_timeout_s if scaling else 0.0)

    def _scale(self, scaler: Scaler, work: RemainingWork, book: LeaseBook) -> None:
        """Let the policy start or end workers; none that holds a lease, and after failed starts one at a time."""
        scaler.tick({worker.name for worker in self._workers.values() if worker.running})
        if monotonic() < self._next_spawn_at:
            return
        decision = scaler.decide(work, book, self._total_progress().megapixels)
        if decision is None or decision.delta == 0:
            return
        before = self._num_staying
        if decision.delta > 0:
            self._spawn_up_to(before + (1 if self._num_failed_starts else decision.delta))
        for name in scaler.leaving_order()[: max(0, -decision.delta)]:
            self._end(self._workers[name])
        now = self._num_staying
        if self._on_scaling and now != before:
            reason = decision.reason
            if now - before != decision.delta:
                reason += f"; {now - before:+d} for now, for starts have failed"
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._on_scaling(ScalingEvent(at=at, delta=now - before, num_workers=now, reason=reason))

    def _leave_draining_nodes(self, book: LeaseBook) -> None:
        """Nothing new for workers whose node is taken away; they go when they are done, or just before the node does.

        What they stored of a shard that they do not finish is adopted by the next holder.
        """
        if monotonic() < self._next_drain_look_at:
            return
        self._next_drain_look_at = monotonic() + _DRAIN_LOOK_S
        left_s = draining_nodes()
        for worker in list(self._workers.values()):
            if worker.last_sign.node_id not in left_s:
                continue
            worker.is_draining = True
            if self._scaler:
                self._scaler.gone(worker.name)
            if not worker.running or left_s[worker.last_sign.node_id] < _DRAIN_MARGIN_S:
                self._release(worker, book)

    def _release(self, worker: ActorHandle, book: LeaseBook) -> None:
        """End a worker that has to leave; its leases go to others, and nothing counts against anybody."""
        self._end(worker)
        for lease in book.held_by(worker.name):
            book.release(lease)

    def _end(self, worker: ActorHandle) -> None:
        """Let a worker without a lease go, for good; what it did still counts."""
        self._kill(worker)
        self._meter.scaled(-1)
        self._retired += replace(worker.progress, num_workers=0)

    def _spawn_up_to(self, num_workers: int) -> None:
        """Keep the wanted number of actors alive; after failed starts, one at a time and ever more slowly."""
        while self._num_staying < num_workers and monotonic() >= self._next_spawn_at:
            self._spawn()
            if self._num_failed_starts:
                self._next_spawn_at = monotonic() + min(_MAX_SPAWN_DELAY_S, 2.0**self._num_failed_starts)

    def _spawn(self) -> None:
        self._num_spawned += 1
        self._meter.scaled(1)
        name = f"worker-{self._num_spawned}"
        self._events.append(worker_event("worker_asked_for", name))
        deadline = monotonic() + self._start_timeout_s
        if self._scaler:
            self._scaler.asked(name)
        self._workers[name] = spawn_actor(
            name, self._spec_ref, self._resources, num_leases=self._execution.leases_per_worker, start_deadline=deadline
        )

    def _wait(self) -> list[tuple[ActorHandle, Any]]:
        """Wait at most a second for any start, shard or progress report to finish."""
        owners: dict[Any, ActorHandle] = {}
        for worker in self._workers.values():
            if not worker.is_ready:
                owners[worker.start_ref] = worker
                continue
            owners.update(dict.fromkeys(worker.running, worker))
            if worker.sign_ref is None:
                worker.ask_sign()
        if not owners:
            time.sleep(_POLL_S)  # no actor is wanted or allowed at the moment
            return []
        ray.wait(list(owners), num_returns=1, timeout=_POLL_S)
        # Settle everything that is ready: a start that was overlooked would look like a late one.
        ready, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        polls = {worker.sign_ref: worker for worker in self._workers.values() if worker.sign_ref}
        if polls:
            polled, _ = ray.wait(list(polls), num_returns=len(polls), timeout=0)
            owners.update(polls)
            ready = [*ready, *polled]
        return [(owners[ref], ref) for ref in ready]

    def _settle(
        self, worker: ActorHandle, ref: Any, book: LeaseBook, work: RemainingWork, summary: RunSummary
    ) -> RunSummary:
        """Take one finished reference into account. A failure of the actor loses the worker; others are judged."""
        if worker.name not in self._workers:
            return summary
        lease, _ = worker.running.get(ref, (None, 0.0))
        try:
            result = ray.get(ref, timeout=_GET_TIMEOUT_S)
        except RayTaskError as error:
            self._judge(error, worker, lease, book)
            if lease:
                worker.running.pop(ref, None)
            return summary
        except RayError as error:  # the actor died, or its answer did not come in time
            if worker.is_draining or getattr(error, "preempted", False):
                self._release(worker, book)
                return summary
            self._lose(worker, book, f"{type(error).__name__}: {first_line(error)}", code=death_code(worker, error))
            return summary
        if lease:
            del worker.running[ref]
            if book.complete(lease) and not lease.shard.is_probe:
                work.finish(lease.shard, result.megapixels)
            self._events += shard_events(result, worker.name)
            fault_point("shard.settled")
            return summary.plus_shard(result)
        worker.last_sign = result
        if ref == worker.sign_ref:
            worker.sign_ref = None
        else:
            worker.is_ready = True
            self._events.append(worker_event("worker_ready", worker.name))
            self._was_ever_ready = True
            self._num_failed_starts = 0
            self._next_spawn_at = 0.0
            if self._scaler:
                self._scaler.ready(worker.name)
        return summary

    def _judge(self, error: RayTaskError, worker: ActorHandle, lease: Lease | None, book: LeaseBook) -> None:
        """An exception raised inside a worker: stop the job, try the shard again, or replace the worker."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        reason = f"{getattr(cause, 'code', type(cause).__name__)}: {first_line(cause)}"
        if isinstance(cause, UsageError) and not self._was_ever_ready:
            raise cause  # no worker can be built from this configuration
        if isinstance(cause, SystemicError) and not isinstance(cause, DeviceLostError | WorkerLostError):
            raise cause
        if lease is None:
            self._lose(worker, book, reason)
        elif isinstance(cause, StorageError):
            self._events.append(returned_event(lease, reason))
            book.give_back(lease, cause, delay_s=RETRY_DELAY_S)
        else:
            # A lost device, processes that cannot be started there, or an unforeseen exception: replace the replica.
            self._lose(worker, book, reason, code=loss_code(cause))

    def _lose(
        self,
        worker: ActorHandle,
        book: LeaseBook,
        reason: str,
        *,
        code: str = WorkerCrashError.code,
        suspects: Collection[str] = (),
    ) -> None:
        """Put back the leases of a dead worker, make sure that it is dead, and remember a failed start.

        `code` is what an image that did it is quarantined with; `suspects` are known not to come to an end.
        """
        self._kill(worker)
        self._num_lost += 1
        self._retired += replace(worker.progress, num_workers=0)
        self._events.append(worker_event("worker_lost", worker.name, reason))
        for lease in book.held_by(worker.name):
            self._events.append(returned_event(lease, reason))
            book.lose(lease, code, reason, suspects)
        if not worker.is_ready:
            self._num_failed_starts += 1
            # Where workers have been at work, nodes may have gone away and others are on their way: that takes time.
            has_waited = monotonic() - self._last_ready_at > self._execution.worker_start_timeout_s
            if self._num_failed_starts >= _MAX_FAILED_STARTS and not self._num_ready and has_waited:
                raise WorkerLostError(f"{self._num_failed_starts} workers in a row could not start; the last: {reason}")

    def _expire_starts(self) -> None:
        """An actor that waits for a place is the autoscaler's demand: it may wait as long as others work."""
        now = monotonic()
        if self._scaler and not self._num_ready:
            self._require_possible()
        late = [worker for worker in self._workers.values() if not worker.is_ready and now > worker.start_deadline]
        if late and len(late) == len(self._workers):
            raise WorkerLostError(
                f"no worker started within {self._start_timeout_s:.0f} s; "
                f"it asks for {self._resources.describe()} per worker"
            )

    def _require_possible(self) -> None:
        """Raise WorkerLostError where workers wait for a place that neither is there nor can come."""
        now = monotonic()
        is_waiting = any(now - worker.asked_at > _IMPOSSIBLE_AFTER_S for worker in self._workers.values())
        if not is_waiting or now < self._next_capacity_look_at:
            return
        self._next_capacity_look_at = now + _CAPACITY_LOOK_S
        capacity = read_capacity()
        why = why_impossible(self._resources, capacity) if capacity else None
        if why:
            raise WorkerLostError(f"no worker can start: {why}")

    def _expire_leases(self, book: LeaseBook) -> None:
        now = monotonic()
        for worker in list(self._workers.values()):
            if any(now > deadline for _, deadline in worker.running.values()):
                reason = f"a shard took longer than {self._execution.shard_timeout_s:.0f} s"
                self._lose(worker, book, reason, code=WorkerHangError.code, suspects=worker.progress.overdue)

    def _replace_stuck(self, book: LeaseBook) -> None:
        """Replace workers that an image does not leave, and those that do not answer any more."""
        timeout_s = self._execution.image_timeout_s
        for worker in list(self._workers.values()):
            if worker.progress.overdue:
                reason = f"{worker.progress.overdue[0]} was not done within its deadline of {timeout_s:.0f} s and more"
                self._lose(worker, book, reason, code=WorkerHangError.code, suspects=worker.progress.overdue)
            elif worker.silent_s() > max(_MIN_SILENCE_S, timeout_s):
                reason = f"a worker did not answer for {worker.silent_s():.0f} s"
                self._lose(worker, book, reason, code=WorkerHangError.code)

    def _kill(self, worker: ActorHandle) -> None:
        self._workers.pop(worker.name, None)
        if self._scaler:
            self._scaler.gone(worker.name)
        kill_actor(worker)

    def _sample(self, book: LeaseBook) -> None:
        num_ready = self._num_ready
        num_starting = len(self._workers) - num_ready
        self._meter.sample(book, num_ready=num_ready, num_starting=num_starting, num_lost=self._num_lost)

    def _total_progress(self) -> Progress:
        total = self._retired
        for worker in self._workers.values():
            total += worker.progress
        events, self._events = tuple(self._events), []
        return replace(total, num_workers=self._num_ready, events=events)


def _scaler(config: ScalingConfig | None, resources: WorkerResources) -> Scaler | None:
    if config is None:
        return None
    rate = _GPU_MEGAPIXELS_PER_S * resources.num_gpus or _CORE_MEGAPIXELS_PER_S * max(1.0, resources.num_cpus)
    return Scaler(config, rate)
