"""How many workers a job should have: a pure policy, without Ray and without a clock of its own.

Notation of the formulas below: M megapixels left, r MP/s of one worker, n workers that are ready or starting, s seconds
that a start takes, k workers to start now. With k more, the rest is done in F(k) = (M + k r s) / ((n + k) r) seconds,
for the new ones join s seconds late.

- **Pace** (no deadline, no budget): each new worker is to work at least `payback` times as long as it took to start, so
  F(k) - s >= payback s, which gives k <= (M - n r s) / (payback r s) - n. What takes longer to start than the rest of
  the work lasts (M <= n r s) is never started.
- **Deadline**: the fewest k with F(k) <= D, where D is 90 % of the time left less one shard, for work comes in shards:
  k >= (M - D n r) / (r (D - s)). A deadline that cannot be met is said to be so, and the pace holds. Whatever bounds
  the decision: where F(k) lies behind the deadline, it says by how much.
- **Budget**: k s <= 90 % of the budget left - M / r: what the work itself costs is kept back from starts.

Workers are not ended while shards wait: fewer workers take as many worker-hours for the same work. Idle ones go once
they have been idle for `cool_down_s`, counted from their start if they never worked, so that a load that comes and goes
within it changes nothing. Without a budget, more work never asks for fewer workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

_MARGIN = 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Throughput:
    """MP/s of one worker: an estimate that starts from a prior and forgets with a half-life in worker-seconds."""

    megapixels_per_s: float
    half_life_s: float = 600.0

    def __post_init__(self) -> None:
        """Raise ValueError for a rate or half-life that is not above 0."""
        if not (0 < self.megapixels_per_s < math.inf and self.half_life_s > 0):
            msg = f"a worker's throughput and its half-life must be above 0, not {self}"
            raise ValueError(msg)

    def updated(self, megapixels: float, worker_s: float) -> Throughput:
        """The estimate after `megapixels` in `worker_s` seconds of work.

        r + (1 - 2^(-worker_s / half-life)) (megapixels / worker_s - r).

        Where nothing was finished, or in no time, nothing changes.
        """
        if worker_s <= 0 or megapixels <= 0:
            return self
        weight = 1 - 2 ** (-worker_s / self.half_life_s)
        rate = self.megapixels_per_s + weight * (megapixels / worker_s - self.megapixels_per_s)
        return Throughput(rate, self.half_life_s)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the scheduler sees. Megapixels are estimates; times are in seconds of the scheduler's own clock.

    `num_waiting` shards are not leased, `num_leased` are; `megapixels` and `num_images` count what is left of both.
    `num_lendable` workers without a lease could do parts of those that are leased.
    `num_busy` workers hold a lease; `idle_s` says of each ready worker without one how long it has been without work,
    since its start if it never had any. `num_starting` are asked for and not ready. `spent_worker_s` is what all
    workers have cost so far, from their request to their end.
    """

    num_waiting: int
    num_leased: int
    num_images: int
    megapixels: float
    throughput: Throughput
    num_busy: int = 0
    idle_s: tuple[float, ...] = ()
    num_starting: int = 0
    start_s: float = 180.0
    time_left_s: float | None = None
    spent_worker_s: float = 0.0
    num_lendable: int = 0

    @property
    def num_places(self) -> int:
        """Workers that would have something to do beside the busy ones: a shard that waits, or a part of another."""
        return self.num_waiting + self.num_lendable

    @property
    def num_workers(self) -> int:
        """Busy, idle and starting ones."""
        return self.num_busy + len(self.idle_s) + self.num_starting

    @property
    def shard_s(self) -> float:
        """Seconds that one worker takes for an average shard."""
        num_shards = self.num_waiting + self.num_leased
        return self.megapixels / max(1, num_shards) / self.throughput.megapixels_per_s

    @property
    def work_s(self) -> float:
        """Worker-seconds that the rest of the work takes: M / r."""
        return self.megapixels / self.throughput.megapixels_per_s


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """What the user allows. A budget goes before `min_workers`; `budget_worker_s` is in worker-seconds.

    `interval_s` is the longest time between two decisions: for so long every worker costs on. Raises ValueError for
    limits that contradict each other.
    """

    min_workers: int = 0
    max_workers: int = 1
    budget_worker_s: float | None = None
    cool_down_s: float = 60.0
    payback: float = 1.0
    interval_s: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError in one line."""
        if not 0 <= self.min_workers <= self.max_workers or self.max_workers < 1:
            msg = f"workers: 0 <= {self.min_workers} (min) <= {self.max_workers} (max), and max at least 1, must hold"
            raise ValueError(msg)
        numbers = (self.payback, self.interval_s, self.cool_down_s, self.budget_worker_s or 0.0)
        if not all(map(math.isfinite, numbers)):
            msg = "payback, interval, cool-down and budget must be numbers, and not infinite"
            raise ValueError(msg)
        if self.payback <= 0 or self.interval_s <= 0 or self.cool_down_s < 0 or (self.budget_worker_s or 0) < 0:
            msg = "payback and interval must be above 0, cool-down and budget must not be below"
            raise ValueError(msg)


class DeadlineOutlook(Enum):
    """Whether the workers there will be are done in time: with the margin, or without it, or not at all."""

    NOT_KNOWN = "not_known"
    MET = "met"
    CLOSE = "close"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """Start `delta` workers, or end -`delta`: starting ones first, then the longest idle.

    Busy ones last, and only where it `ends_busy`: there is nothing left to pay them with. It `is_news` where it has to
    be told though `delta` is 0: the deadline turned out to be missed, or to be met after all.
    """

    delta: int
    reason: str
    ends_busy: bool = False
    deadline: DeadlineOutlook = DeadlineOutlook.NOT_KNOWN
    is_news: bool = False


def budget_in_worker_s(amount: float, price_per_worker_hour: float) -> float:
    """Seconds of one worker that `amount` of money buys. Raises ValueError for a price that is not above 0."""
    if price_per_worker_hour <= 0:
        msg = f"the price of a worker-hour must be above 0, not {price_per_worker_hour}"
        raise ValueError(msg)
    return amount / price_per_worker_hour * 3600


def decide(seen: Observation, limits: ScalingLimits) -> ScalingDecision:
    """How many workers to start or to end now, and why, in one line with the numbers."""
    decision = (
        _spent(seen, limits)
        or _bounded(seen, limits)
        or (_grow(seen, limits) if seen.num_places else _shrink(seen, limits))
    )
    return _judged_by_deadline(decision, seen)


def _judged_by_deadline(decision: ScalingDecision, seen: Observation) -> ScalingDecision:
    """The decision with what becomes of the deadline; where that is missed, its reason says by how much."""
    rest_s = _rest_s(seen, decision.delta)
    if seen.time_left_s is None or rest_s is None:
        return decision
    if rest_s <= seen.time_left_s * (1 - _MARGIN):
        return replace(decision, deadline=DeadlineOutlook.MET)
    late_s = rest_s - seen.time_left_s
    if late_s <= 0:
        return replace(decision, deadline=DeadlineOutlook.CLOSE)
    when = f"in {seen.time_left_s:,.0f} s" if seen.time_left_s > 0 else "that has passed"
    reason = f"{decision.reason}; this misses the deadline {when} by {late_s:,.0f} s"
    return replace(decision, reason=reason, deadline=DeadlineOutlook.MISSED)


def _rest_s(seen: Observation, delta: int) -> float | None:
    """F(k) of the notation above; where no shard waits, those at work finish alone. None where nobody works."""
    num_started = max(0, delta)
    num_workers = seen.num_workers + delta if seen.num_places else min(seen.num_busy, seen.num_workers + delta)
    if num_workers <= 0:
        return None
    return (seen.work_s + num_started * seen.start_s) / num_workers


def _spent(seen: Observation, limits: ScalingLimits) -> ScalingDecision | None:
    """End what the budget does not pay for until the next decision."""
    if limits.budget_worker_s is None:
        return None
    left_s = limits.budget_worker_s - seen.spent_worker_s
    num_paid = max(0, math.floor(left_s / limits.interval_s + _ROUNDING))
    if num_paid >= seen.num_workers:
        return None
    return ScalingDecision(
        num_paid - seen.num_workers,
        f"the budget's last {max(0.0, left_s):,.0f} of {limits.budget_worker_s:,.0f} worker-seconds pay for "
        f"{num_paid} of {seen.num_workers} workers until the next decision in {limits.interval_s:g} s",
        ends_busy=True,
    )


def _bounded(seen: Observation, limits: ScalingLimits) -> ScalingDecision | None:
    """Keep between the limits whatever the work is; a maximum that was lowered ends no busy worker."""
    n = seen.num_workers
    if n < limits.min_workers and (num := min(limits.min_workers - n, _num_affordable(seen, limits))) > 0:
        return ScalingDecision(num, f"{n} workers are fewer than the {limits.min_workers} that are to be kept")
    removable = seen.num_starting + len(seen.idle_s)
    if n > limits.max_workers and removable:
        return ScalingDecision(-min(n - limits.max_workers, removable), f"{n} workers, of {limits.max_workers} allowed")
    return None


def _grow(seen: Observation, limits: ScalingLimits) -> ScalingDecision:
    work = f"{seen.num_waiting:,} shards wait, {seen.megapixels:,.0f} MP are left"
    wanted, why = _wanted(seen, limits)
    # One at least keeps the job going, however little there is; the bounds below hold for it too.
    wanted = max(wanted, 1 if seen.num_workers == 0 else 0)
    bounds = [
        (limits.max_workers - seen.num_workers, f"{limits.max_workers} workers are allowed"),
        (
            seen.num_places - len(seen.idle_s) - seen.num_starting,
            f"the {seen.num_waiting:,} shards and {seen.num_lendable:,} parts of others give no more workers work"
            if seen.num_lendable
            else f"the {seen.num_waiting:,} shards give no more workers anything to do",
        ),
        (_num_affordable(seen, limits), "the budget pays for no more starts"),
    ]
    room, bound = min(bounds, key=lambda pair: pair[0])
    if wanted > room:
        wanted, why = max(0, room), bound
    verb = f"start {wanted} beside {seen.num_workers}" if wanted else f"keep {seen.num_workers}"
    return ScalingDecision(wanted, f"{verb}: {work}; {why}")


def _wanted(seen: Observation, limits: ScalingLimits) -> tuple[int, str]:
    """The workers to start for the work alone, and the sentence that says why."""
    n, rate, start_s, work_s = seen.num_workers, seen.throughput.megapixels_per_s, seen.start_s, seen.work_s
    last = (
        f"{n} workers at {rate:.3g} MP/s take {work_s / n:,.0f} s"
        if n
        else f"one at {rate:.3g} MP/s takes {work_s:,.0f} s"
    )
    if work_s <= n * start_s:
        return 0, f"{last}, a start takes {start_s:,.0f} s"
    pace = max(0, math.floor((work_s - n * start_s) / (limits.payback * max(start_s, _ROUNDING)) - n + _ROUNDING))
    if seen.time_left_s is None:
        return pace, f"{last}, a start takes {start_s:,.0f} s and pays off for {pace} more"
    left_s = seen.time_left_s * (1 - _MARGIN) - seen.shard_s
    if work_s <= left_s * n:
        return 0, f"{last}, the deadline is in {seen.time_left_s:,.0f} s"
    if left_s > start_s:
        needed = math.ceil((work_s - left_s * n) / (left_s - start_s) - _ROUNDING)
        return needed, f"{last}, the deadline in {seen.time_left_s:,.0f} s needs {needed} more"
    return (
        pace,
        f"{last}, the deadline in {seen.time_left_s:,.0f} s is too near for a start of {start_s:,.0f} s to help",
    )


def _num_affordable(seen: Observation, limits: ScalingLimits) -> int:
    """Starts that leave enough of the budget for the work; for a first worker, a start, a shard and an interval."""
    if limits.budget_worker_s is None:
        return limits.max_workers
    left_s = limits.budget_worker_s - seen.spent_worker_s
    first_s = seen.start_s + seen.shard_s + 2 * limits.interval_s
    # A start costs at least until the next decision, and never more is begun than that decision can pay for.
    num_paid = max(0, math.floor(left_s / limits.interval_s + _ROUNDING) - seen.num_workers)
    starts = math.floor((left_s * (1 - _MARGIN) - seen.work_s) / max(seen.start_s, limits.interval_s))
    starts -= seen.num_starting
    if seen.num_workers == 0 and left_s >= first_s:
        starts = max(starts, 1)
    return max(0, min(starts, num_paid))


def _shrink(seen: Observation, limits: ScalingLimits) -> ScalingDecision:
    """Nothing waits: starts are in vain, and who has been idle for long goes."""
    cooled = sum(idle_s >= limits.cool_down_s for idle_s in seen.idle_s)
    spare = max(0, seen.num_workers - limits.min_workers)
    num = min(seen.num_starting + cooled, spare)
    state = f"no shard waits, {seen.num_leased:,} are at work"
    if num:
        return ScalingDecision(
            -num,
            f"end {num} of {seen.num_workers}: {state}; {seen.num_starting} were starting and {cooled} were idle for "
            f"{limits.cool_down_s:g} s, {limits.min_workers} are to be kept",
        )
    idle = len(seen.idle_s)
    return ScalingDecision(
        0, f"keep {seen.num_workers}: {state}; {idle} idle, none to spare for {limits.cool_down_s:g} s"
    )
