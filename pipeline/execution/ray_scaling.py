"""The scaling policy's decisions, carried out on actors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from pipeline.execution.account import RunAccount
from pipeline.execution.elastic import RemainingWork, Scaler
from pipeline.execution.leases import LeaseBook
from pipeline.execution.ray_losses import Losses
from pipeline.execution.ray_pool import WorkerPool
from pipeline.execution.scaling import ScalingDecision
from pipeline.scaling_record import ScalingEvent

OnScaling = Callable[[ScalingEvent], None]


class Scaling:
    """Lets the policy start or end workers, after failed starts one at a time.

    One that holds a lease is ended for the budget alone: its leases go back, and what it stored is adopted later.
    """

    def __init__(self, pool: WorkerPool, scaler: Scaler, on_scaling: OnScaling | None, account: RunAccount) -> None:
        self._pool = pool
        self._scaler = scaler
        self._on_scaling = on_scaling
        self._account = account

    def step(self, work: RemainingWork, book: LeaseBook, losses: Losses, num_lendable: int) -> None:
        """Ask the policy, if it is time to; `num_lendable` workers without a lease could help with those there are.

        Raises BudgetSpentError where the budget pays for no worker any more.
        """
        pool, scaler = self._pool, self._scaler
        num_moved = pool.fall_back()
        if pool.fallback and num_moved:
            self._record(0, f"{num_moved} of {pool.num_staying} workers wait in vain; {pool.fallback.why}")
        if gave_up := pool.leave_fallback():
            self._record(0, gave_up, is_warning=True)
        self._account.write(scaler.spent_worker_s)
        scaler.tick({worker.name for worker in pool if worker.running})
        decision = scaler.decide(work, book, pool.megapixels, num_lendable)
        if decision is None:
            return
        before = pool.num_staying
        if decision.delta > 0:
            pool.spawn_up_to(before + (1 if pool.num_failed_starts else decision.delta))
        for name in scaler.leaving_order(with_busy=decision.ends_busy)[: max(0, -decision.delta)]:
            losses.release(pool[name])
        self._tell(decision, before)
        if not pool:
            scaler.require_affordable(decision)

    def _tell(self, decision: ScalingDecision, before: int) -> None:
        now = self._pool.num_staying
        if now == before and not decision.is_news:
            return
        reason = decision.reason
        if now - before != decision.delta:
            reason += f"; {now - before:+d} for now, for starts have failed"
        fallback = self._pool.fallback
        if now > before and fallback and fallback.wanted == fallback.second:
            reason += f"; {fallback.why}"
        self._record(now - before, reason)

    def _record(self, delta: int, reason: str, *, is_warning: bool = False) -> None:
        if self._on_scaling:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            num_workers = self._pool.num_staying
            self._on_scaling(
                ScalingEvent(at=at, delta=delta, num_workers=num_workers, reason=reason, is_warning=is_warning)
            )
