"""RayExecutor: the lease scheduler on disposable Ray actors (docs/adr/0001-engine.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import InterruptedJobError, LeaseLostError, first_line
from pipeline.execution.account import RunAccount
from pipeline.execution.base import OnProgress, RunSummary, WorkerSpec, WorkSize
from pipeline.execution.elastic import RemainingWork
from pipeline.execution.events import shard_events
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.ray_actor import ActorHandle, death_code
from pipeline.execution.ray_bad_nodes import BadNodes
from pipeline.execution.ray_losses import Losses
from pipeline.execution.ray_pool import WorkerPool
from pipeline.execution.ray_scaling import OnScaling, Scaling
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_tail import Tail
from pipeline.execution.tail import num_worth_starting
from pipeline.faults import fault_point
from pipeline.records import Shard, ShardResult

_POLL_S = 1.0
# A reference that ray.wait calls ready is a few kilobytes away; longer means that its owner is gone.
_GET_TIMEOUT_S = 60.0


class RayExecutor:
    """Leases shards to actors that own one accelerator each; a lost actor costs its leases' work and nothing else.

    Actors are created with no restarts and no retries: a lost one is replaced, and its shards are leased again
    (docs/adr/0001-engine.md: Ray's own retries lose shards or hold them hostage). Nothing is dispatched to an actor
    before it is ready, and at most `leases_per_worker` references per actor exist: the driver's memory stays flat.

    With `scaling` in the configuration their number follows the work (`Scaler`): actors that wait for a place are the
    autoscaler's demand, ended ones let their nodes idle out, and `on_scaling` is told of each change. The deadline and
    the budget are those of `account`, by default of a run that begins here.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        resources: WorkerResources,
        on_scaling: OnScaling | None = None,
        account: RunAccount | None = None,
    ) -> None:
        self._execution = spec.config.execution
        account = account or RunAccount(monotonic())
        self._pool = pool = WorkerPool(spec, resources, account)
        self._scaling = Scaling(pool, pool.scaler, on_scaling, account) if pool.scaler else None

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.close()

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
        pool = self._pool
        size = size or WorkSize()
        num_useful = num_worth_starting(size, num_shards, pool.believed_megapixels_per_s)
        num_workers = min(pool.resources.num_workers, num_useful)
        work = RemainingWork(num_shards, size)
        book = LeaseBook(
            work.counted(shards),
            self._execution.max_shard_attempts,
            num_workers=num_workers,
            health=pool.health,
            has_several_nodes=num_workers > pool.resources.num_workers_on_node,
        )
        run = _Run(pool, book, work, resuming=resuming)
        lost_before = pool.num_lost
        pool.grant_time()
        try:
            while not book.is_finished:
                if self._scaling:
                    self._scaling.step(work, book, run.losses, run.tail.num_lendable)
                else:
                    pool.spawn_up_to(num_workers)
                run.step()
                on_progress(pool.take_progress())
        except LeaseLostError:
            pool.meter.lost_driver_lease()
            raise
        except KeyboardInterrupt as error:
            raise InterruptedJobError("interrupted") from error
        book.raise_if_given_up()
        return replace(
            run.summary,
            num_given_back=book.num_given_back,
            num_workers_lost=pool.num_lost - lost_before,
            num_split=book.num_split,
        )


class _Run:
    """One call of `RayExecutor.run`: gives leases to the workers of the pool, and takes what comes of them."""

    def __init__(self, pool: WorkerPool, book: LeaseBook, work: RemainingWork, *, resuming: bool) -> None:
        self._pool = pool
        self._book = book
        self._work = work
        self._resuming = resuming
        self._execution = pool.execution
        self.losses = Losses(pool, book)
        self.tail = Tail(pool, book)
        self._bad_nodes = BadNodes(pool)
        self.summary = RunSummary()

    def step(self) -> None:
        """One round of the scheduler; takes a second at most unless Ray hangs."""
        self.losses.leave_draining_nodes()
        self._dispatch()
        self.tail.step()
        for worker, ref in self._wait():
            self._settle(worker, ref)
        self._bad_nodes.step()
        self._pool.expire_starts()
        self.losses.expire_leases()
        self.losses.replace_stuck()
        self._pool.sample(self._book)

    def _dispatch(self) -> None:
        """Give every ready worker its leases."""
        self._book.see({worker.place.node for worker in self._pool if worker.is_ready and not worker.is_draining})
        for worker in self._pool:
            while (
                worker.is_ready and not worker.is_draining and len(worker.running) < self._execution.leases_per_worker
            ):
                lease = self._book.take(worker.name, worker.place)
                if lease is None:
                    break
                adopt = self._resuming or lease.attempt > 1
                ref = worker.actor.convert.remote(lease, adopt)
                worker.running[ref] = (lease, monotonic() + self._execution.shard_timeout_s)
                fault_point("shard.leased")

    def _wait(self) -> list[tuple[ActorHandle, Any]]:
        """Wait at most a second for any start, shard or progress report to finish."""
        owners: dict[Any, ActorHandle] = {}
        for worker in self._pool:
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
        polls = {ref: worker for worker in self._pool for ref in (worker.sign_ref, worker.cede_ref) if ref}
        if polls:
            polled, _ = ray.wait(list(polls), num_returns=len(polls), timeout=0)
            owners.update(polls)
            ready = [*ready, *polled]
        return [(owners[ref], ref) for ref in ready]

    def _settle(self, worker: ActorHandle, ref: Any) -> None:
        """Take one finished reference into account. A failure of the actor loses the worker; others are judged."""
        if worker not in self._pool:
            return
        lease, _ = worker.running.get(ref, (None, 0.0))
        try:
            result = ray.get(ref, timeout=_GET_TIMEOUT_S)
        except RayTaskError as error:
            self.losses.judge(error, worker, lease)
            if lease:
                worker.running.pop(ref, None)
        except RayError as error:  # the actor died, or its answer did not come in time
            if worker.is_draining or getattr(error, "preempted", False):
                self.losses.release(worker)
            else:
                reason = f"{type(error).__name__}: {first_line(error)}"
                self.losses.lose(worker, reason, code=death_code(worker, error))
        else:
            if lease:
                del worker.running[ref]
                self._complete(worker, lease, result)
            elif ref == worker.sign_ref:
                worker.take_sign(result)
            elif ref == worker.cede_ref:
                self.tail.settle(worker, result)
            else:
                self._pool.started(worker, result)

    def _complete(self, worker: ActorHandle, lease: Lease, result: ShardResult) -> None:
        is_part = result.rows is not None
        if self._book.complete(lease, result.rows) and not (lease.shard.is_probe or is_part):
            self._work.finish(lease.shard, result.megapixels)
        self._pool.report(*shard_events(result, worker.name))
        fault_point("rows.settled" if is_part else "shard.settled")
        self.summary = self.summary.plus_shard(result)
