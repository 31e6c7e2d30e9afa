"""The scaling policy's decisions, carried out on actors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from pipeline.execution.elastic import RemainingWork, Scaler
from pipeline.execution.leases import LeaseBook
from pipeline.execution.ray_pool import WorkerPool
from pipeline.scaling_record import ScalingEvent

OnScaling = Callable[[ScalingEvent], None]


def scale(scaler: Scaler, pool: WorkerPool, work: RemainingWork, book: LeaseBook, on_scaling: OnScaling | None) -> None:
    """Let the policy start or end workers; none that holds a lease, and after failed starts one at a time."""
    scaler.tick({worker.name for worker in pool if worker.running})
    if monotonic() < pool.next_spawn_at:
        return
    decision = scaler.decide(work, book, pool.megapixels)
    if decision is None or decision.delta == 0:
        return
    before = pool.num_staying
    if decision.delta > 0:
        pool.spawn_up_to(before + (1 if pool.num_failed_starts else decision.delta))
    for name in scaler.leaving_order()[: max(0, -decision.delta)]:
        pool.end(pool[name])
    now = pool.num_staying
    if on_scaling and now != before:
        reason = decision.reason
        if now - before != decision.delta:
            reason += f"; {now - before:+d} for now, for starts have failed"
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        on_scaling(ScalingEvent(at=at, delta=now - before, num_workers=now, reason=reason))
