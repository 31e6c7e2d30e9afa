"""The actors of one executor: asked for, ready, let go, and what those that are gone did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from time import monotonic
from typing import Any

import ray

from pipeline.errors import SystemicError, WorkerLostError
from pipeline.execution.account import RunAccount
from pipeline.execution.base import Progress, WorkerSpec
from pipeline.execution.belief import believed_megapixels_per_s
from pipeline.execution.elastic import Scaler
from pipeline.execution.events import ExecutionEvent, wait_event, worker_event
from pipeline.execution.leases import LeaseBook
from pipeline.execution.node_health import FailedStarts, NodeHealth, said
from pipeline.execution.ray_actor import ActorHandle, kill_actor, spawn_actor
from pipeline.execution.ray_capacity import CAPACITY_LOOK_S, Refusal, find_refusal, read_capacity
from pipeline.execution.ray_fallback import Fallback, is_placeless, node_of
from pipeline.execution.ray_metrics import driver_meter
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_worker import SignOfLife

_MAX_SPAWN_DELAY_S = 60.0
# An autoscaler takes some rounds to see a request and to say that it has no such node.
_IMPOSSIBLE_AFTER_S = 20.0


class WorkerPool:
    """Starts and ends actors and counts what they do; what becomes of their leases is not its concern.

    After failed starts, actors are started one at a time and ever more slowly.
    """

    def __init__(self, spec: WorkerSpec, resources: WorkerResources, account: RunAccount) -> None:
        self.execution = spec.config.execution
        self.resources = resources
        self.believed_megapixels_per_s = believed_megapixels_per_s(
            num_gpus=resources.num_gpus, num_cpus=resources.num_cpus
        )
        scaling = self.execution.scaling
        self.scaler = (
            Scaler(
                scaling,
                self.believed_megapixels_per_s,
                started_at=account.started_at,
                spent_s=account.spent_worker_s,
            )
            if scaling
            else None
        )
        second = self.execution.placement.fallback_labels
        self.fallback = Fallback(resources, second) if scaling and second else None
        self.meter = driver_meter(spec.job_id)
        self.health = NodeHealth(num_workers=resources.num_workers)
        self.num_lost = 0
        self._failed_starts = FailedStarts()
        self.next_spawn_at = 0.0
        self.was_ever_ready = False
        self._spec = replace(spec, num_workers_on_node=resources.num_workers_on_node)
        self._spec_ref: Any = None
        self._workers: dict[str, ActorHandle] = {}
        self._num_spawned = 0
        self._last_ready_at = -math.inf
        self._next_capacity_look_at = -math.inf
        self._has_told_of_wait = False
        self._retired = Progress()
        self._events: list[ExecutionEvent] = []

    def open(self) -> None:
        """Put what every worker is built from where all can read it."""
        self._spec_ref = ray.put(self._spec)

    def close(self) -> None:
        """End every worker."""
        for worker in list(self._workers.values()):
            self.kill(worker)

    def __iter__(self) -> Iterator[ActorHandle]:
        """The workers of the moment; any of them may be ended meanwhile."""
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, worker: ActorHandle) -> bool:
        return worker.name in self._workers

    def __getitem__(self, name: str) -> ActorHandle:
        return self._workers[name]

    @property
    def num_staying(self) -> int:
        """Workers whose node is not being taken away, started or not."""
        return sum(not worker.is_draining for worker in self)

    @property
    def num_ready(self) -> int:
        """Workers that can hold leases."""
        return sum(worker.is_ready for worker in self)

    @property
    def num_failed_starts(self) -> int:
        """Workers in a row that could not start."""
        return self._failed_starts.num

    @property
    def start_timeout_s(self) -> float:
        """How long a worker may take to start, its node included where that comes and goes."""
        scaling = self.execution.scaling
        return self.execution.worker_start_timeout_s + (scaling.node_start_timeout_s if scaling else 0.0)

    def report(self, *events: ExecutionEvent) -> None:
        """Keep events for the next report of progress."""
        self._events += events

    def grant_time(self) -> None:
        """Let starts that began in an earlier run take their time anew."""
        for worker in self:
            worker.start_deadline = monotonic() + self.start_timeout_s

    def spawn_up_to(self, num_workers: int) -> None:
        """Keep the wanted number of actors alive."""
        while self.num_staying < num_workers and monotonic() >= self.next_spawn_at:
            self._spawn()
            if self.num_failed_starts:
                self.next_spawn_at = monotonic() + min(_MAX_SPAWN_DELAY_S, 2.0**self.num_failed_starts)

    def _spawn(self) -> None:
        self._num_spawned += 1
        self.meter.scaled(1)
        name = f"worker-{self._num_spawned}"
        self.report(worker_event("worker_asked_for", name))
        if self.scaler:
            self.scaler.asked(name)
        self._ask(name, self.fallback.wanted if self.fallback else self.resources)

    def _ask(self, name: str, resources: WorkerResources) -> None:
        self._workers[name] = spawn_actor(
            name,
            self._spec_ref,
            resources,
            num_leases=self.execution.leases_per_worker,
            start_deadline=monotonic() + self.start_timeout_s,
            barred_nodes=self.health.barred,
        )

    def ask_anew(self, worker: ActorHandle, resources: WorkerResources) -> None:
        """It stays the worker that it was, which nobody has lost, and its start takes its time anew."""
        kill_actor(worker)
        if self.scaler:
            self.scaler.asked(worker.name)
        self._ask(worker.name, resources)

    @property
    def choices(self) -> list[WorkerResources]:
        """All that a worker may ask for."""
        return [self.resources, *([self.fallback.second] if self.fallback else [])]

    def fall_back(self) -> int:
        """Let workers whose nodes the cloud refuses ask for the second choice, and return how many that were."""
        if self.fallback is None:
            return 0
        moved = self.fallback.look(self)
        for worker in moved:
            self.ask_anew(worker, self.fallback.second)
        return len(moved)

    def leave_fallback(self) -> str | None:
        """Where no node can ever offer the second choice, let workers ask for the first again; say why, the one time.

        They would wait for as long as others work, in the place of workers that can be had. Without any that is ready
        the job ends over it (`expire_starts`).
        """
        if self.fallback is None or not self.num_ready:
            return None
        moved = [worker for worker in self if not worker.is_ready and worker.resources == self.fallback.second]
        refusal = self._refusal(moved)
        if refusal is None:
            return None
        self.fallback.give_up()
        for worker in moved:
            self.ask_anew(worker, self.fallback.first)
        return (
            f"{len(moved)} workers have fallen back in vain, {refusal.why}; they ask for what they asked for first, "
            "and nobody falls back any more: correct --fallback-label"
        )

    def started(self, worker: ActorHandle, sign: SignOfLife) -> None:
        """It can hold leases from now on."""
        worker.last_sign = sign
        worker.is_ready = True
        worker.started = self.health.started(worker.place)
        self.report(worker_event("worker_ready", worker.name))
        self.was_ever_ready = True
        self._failed_starts.forget()
        self.next_spawn_at = 0.0
        if self.scaler:
            self.scaler.ready(worker.name)

    def end(self, worker: ActorHandle) -> None:
        """Let a worker go, for good; what it did still counts, but for what it leaves undone."""
        self.kill(worker)
        self.meter.scaled(-1)
        self._retire(worker)

    def lost(self, worker: ActorHandle, reason: str) -> None:
        """Make sure that a worker that failed is dead; what it did still counts, but for what others repeat."""
        self.kill(worker)
        self.num_lost += 1
        self._retire(worker)
        self.report(worker_event("worker_lost", worker.name, reason))

    def kill(self, worker: ActorHandle) -> None:
        """End its process, whatever it does."""
        self._workers.pop(worker.name, None)
        if self.scaler:
            self.scaler.gone(worker.name)
        kill_actor(worker)

    def _retire(self, worker: ActorHandle) -> None:
        done = worker.last_sign.settled if worker.running else worker.progress
        self._retired += replace(done, num_workers=0)

    def count_failed_start(self, worker: ActorHandle, error: SystemicError) -> None:
        """A worker was lost before it was ready. Raises the error where none of the last ones came that far.

        They have failed on several nodes then, or Ray does not say where: a single one is barred, others may be sound.
        """
        failed, now, node = self._failed_starts, monotonic(), node_of(worker)
        failed.count(node, now)
        if self.health.failed_start(node, error):
            failed.forget()
        # Where workers have been at work, nodes may have gone away and others are on their way: that takes time.
        has_waited = now - self._last_ready_at > self.execution.worker_start_timeout_s
        if failed.is_everywhere and has_waited and not self.num_ready and not self._is_slower_one_starting():
            raise said(error, f"{failed.num} workers in a row could not start")

    def _is_slower_one_starting(self) -> bool:
        """Whether a worker that was asked for before the first one failed is still at its start, on a node."""
        now = monotonic()
        slower = [each for each in self if not each.is_ready and each.asked_at <= self._failed_starts.since]
        return any(now <= each.start_deadline and not is_placeless(each) for each in slower)

    def expire_starts(self) -> None:
        """Raise WorkerLostError where nobody can start, or what nodes were barred for.

        An actor that waits for a place is the autoscaler's demand: it may wait as long as others work, and as long as a
        start may take where others have all the nodes that there may be.
        """
        now = monotonic()
        if self.num_ready:
            self._last_ready_at = now
        elif self.scaler:
            refusal = self._refusal(self)
            if refusal and refusal.is_final:
                raise WorkerLostError(f"no worker can start: {refusal.why}")
            if refusal and not self._has_told_of_wait:
                self._has_told_of_wait = True
                self.report(wait_event(refusal.why, self.start_timeout_s))
        late = [worker for worker in self if not worker.is_ready and now > worker.start_deadline]
        if late and len(late) == len(self._workers):
            raise self.health.error or WorkerLostError(
                f"no worker started within {self.start_timeout_s:.0f} s; "
                f"it asks for {late[-1].resources.describe()} per worker"
            )

    def _refusal(self, waiting: Iterable[ActorHandle]) -> Refusal | None:
        """Why one of these has waited so long for a place, where none is there; None where that is not known."""
        now = monotonic()
        asked = [worker.resources for worker in waiting if now - worker.asked_at > _IMPOSSIBLE_AFTER_S]
        if not asked or now < self._next_capacity_look_at:
            return None
        self._next_capacity_look_at = now + CAPACITY_LOOK_S
        capacity = read_capacity()
        if capacity is None:
            return None
        kinds = {resources.describe(): resources for resources in asked}.values()
        return next((found for wanted in kinds if (found := find_refusal(wanted, capacity))), None)

    def sample(self, book: LeaseBook) -> None:
        """Record the state of the run in the metrics."""
        num_ready = self.num_ready
        num_starting = len(self._workers) - num_ready
        self.meter.sample(book, num_ready=num_ready, num_starting=num_starting, num_lost=self.num_lost)

    @property
    def megapixels(self) -> float:
        """Megapixels that all workers have converted, the gone ones included."""
        return self._retired.megapixels + sum(worker.progress.megapixels for worker in self)

    def take_progress(self) -> Progress:
        """Counts of all workers, and the events since the last call."""
        total = self._retired
        for worker in self:
            total += worker.progress
        events, self._events = tuple(self._events), []
        return replace(total, num_workers=self.num_ready, events=events)
