"""What the scaling policy is shown of a running job: work that is left, and what workers cost and achieve. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from time import monotonic

from pipeline.errors import BudgetSpentError
from pipeline.execution.base import WorkSize
from pipeline.execution.leases import LeaseBook
from pipeline.execution.scaling import (
    DeadlineOutlook,
    Observation,
    ScalingDecision,
    ScalingLimits,
    Throughput,
    decide,
)
from pipeline.records import Shard
from pipeline.scaling_config import ScalingConfig
from pipeline.sharding import estimate_megapixels

# What is believed of a worker before is given up after this much work; a mean of all work, then one that forgets.
_TRUSTED_AFTER_S = 10.0
_HALF_LIFE_S = 120.0
_START_S = 180.0


class RemainingWork:
    """Counts a plan down as its shards are taken and finished; memory for the unfinished ones alone."""

    def __init__(self, num_shards: int, size: WorkSize) -> None:
        self._num_shards = num_shards
        self._untouched = size
        self._begun: dict[tuple[int, int], WorkSize] = {}
        self._estimated_done = 0.0
        self._done = 0.0

    def counted(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """The same shards; each counts as begun from then on."""
        for shard in shards:
            size = WorkSize(len(shard.tasks), sum(map(estimate_megapixels, shard.tasks)))
            self._num_shards -= 1
            self._untouched = self._untouched.less(size)
            self._begun[shard.plan, shard.shard] = size
            yield shard

    def finish(self, shard: Shard, megapixels: float) -> None:
        """The shard is committed, and had so many megapixels in truth."""
        size = self._begun.pop((shard.plan, shard.shard), None)
        if size is not None and megapixels > 0:
            self._estimated_done += size.megapixels
            self._done += megapixels

    def num_untouched(self, book: LeaseBook) -> int:
        """Shards that nobody has taken yet; at least 1 where the book does not know that there is none."""
        if book.is_exhausted:
            return 0
        is_end_unknown = not (book.num_outstanding or book.num_returned)
        return max(self._num_shards, 1 if is_end_unknown else 0)

    @property
    def size(self) -> WorkSize:
        """What is left, begun or not; megapixels by file sizes, corrected by what finished shards turned out to be."""
        begun = self._begun.values()
        share = self._done / self._estimated_done if self._estimated_done else 1.0
        images = self._untouched.num_images + sum(size.num_images for size in begun)
        megapixels = self._untouched.megapixels + sum(size.megapixels for size in begun)
        return WorkSize(images, megapixels * share)


@dataclass(slots=True)
class _Seen:
    requested_at: float
    is_ready: bool = False
    idle_since: float | None = None


class Scaler:
    """Watches workers by name and asks the policy at most every `interval_s`. Not thread-safe.

    `megapixels_per_s` is what one worker is believed to do until it was measured. The deadline counts from
    `started_at`, of the same clock (by default now); `spent_s` worker-seconds of the budget are gone already.
    """

    def __init__(
        self,
        config: ScalingConfig,
        megapixels_per_s: float,
        *,
        started_at: float | None = None,
        spent_s: float = 0.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limits = ScalingLimits(
            config.min_workers,
            config.max_workers,
            config.budget_worker_s,
            cool_down_s=config.cool_down_s,
            interval_s=config.interval_s,
        )
        self._clock = clock
        started_at = clock() if started_at is None else started_at
        self._deadline = None if config.deadline_s is None else started_at + config.deadline_s
        self._throughput = Throughput(megapixels_per_s, _HALF_LIFE_S)
        self._workers: dict[str, _Seen] = {}
        self._is_late = False
        self._start_s: float | None = None
        self._spent_s = spent_s
        self._busy_s = 0.0
        self._measured_s = 0.0
        self._megapixels = 0.0
        self._ticked_at = clock()
        self._next_at = clock()

    def asked(self, name: str) -> None:
        """A worker was asked for; again, where the first request was in vain: that cost nothing, and was no start."""
        self._workers[name] = _Seen(self._clock())

    def ready(self, name: str) -> None:
        """It can take leases; how long that took is what a start is taken to last from now on."""
        now, worker = self._clock(), self._workers[name]
        took_s = now - worker.requested_at
        self._start_s = took_s if self._start_s is None else (self._start_s + took_s) / 2
        worker.is_ready, worker.idle_since = True, now

    def gone(self, name: str) -> None:
        """It was ended, or lost."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            self._spent_s += self._clock() - worker.requested_at

    def tick(self, busy: Collection[str]) -> None:
        """Say about once a second which workers hold a lease."""
        now = self._clock()
        self._busy_s += len(busy) * (now - self._ticked_at)
        self._ticked_at = now
        for name, worker in self._workers.items():
            if name in busy:
                worker.idle_since = None
            elif worker.is_ready and worker.idle_since is None:
                worker.idle_since = now

    def decide(
        self, work: RemainingWork, book: LeaseBook, megapixels_done: float, num_lendable: int = 0
    ) -> ScalingDecision | None:
        """Ask the policy, if it is time to.

        `megapixels_done` are those of all workers since the first one started; `num_lendable` as in `Observation`.
        """
        now = self._clock()
        if now < self._next_at:
            return None
        self._next_at = now + self._limits.interval_s
        self._measure(megapixels_done)
        return self._with_news(decide(self._observe(work, book, num_lendable, now), self._limits))

    def _with_news(self, decision: ScalingDecision) -> ScalingDecision:
        """Once when the deadline turns out to be missed, and once when it is met again, with the margin to spare."""
        if decision.deadline is DeadlineOutlook.MISSED and not self._is_late:
            self._is_late = True
            return replace(decision, is_news=True)
        if decision.deadline is DeadlineOutlook.MET and self._is_late:
            self._is_late = False
            return replace(decision, reason=f"{decision.reason}; the deadline can be met after all", is_news=True)
        return decision

    def _measure(self, megapixels_done: float) -> None:
        """Time without a finished image counts when the next one is: large images are not slow workers."""
        megapixels = megapixels_done - self._megapixels
        if megapixels <= 0 or self._measured_s + self._busy_s < _TRUSTED_AFTER_S:
            return
        self._measured_s += self._busy_s
        if self._measured_s < _HALF_LIFE_S:
            self._throughput = Throughput(megapixels_done / self._measured_s, _HALF_LIFE_S)
        else:
            self._throughput = self._throughput.updated(megapixels, self._busy_s)
        self._megapixels, self._busy_s = megapixels_done, 0.0

    def require_affordable(self, decision: ScalingDecision) -> None:
        """Raise BudgetSpentError where no worker is left and the budget pays for none; work is left wherever this asks.

        Without a budget, a decision never leaves a job without a worker.
        """
        budget_s = self._limits.budget_worker_s
        if budget_s is None or self._workers or decision.delta > 0:
            return
        raise BudgetSpentError(
            f"the budget of {budget_s / 3600:,.2f} worker-hours pays for no worker any more: "
            f"{self._spent_s / 3600:,.2f} are spent, and work is left"
        )

    @property
    def spent_worker_s(self) -> float:
        """What all workers have cost so far, each from its request to its end, in seconds of one."""
        now = self._clock()
        return self._spent_s + sum(now - seen.requested_at for seen in self._workers.values())

    def leaving_order(self, *, with_busy: bool = False) -> list[str]:
        """Who goes first: those that are starting, the latest first, then the idle ones, the longest idle first.

        Then, if asked for, those at work, the latest first.
        """
        starting = sorted((-seen.requested_at, name) for name, seen in self._workers.items() if not seen.is_ready)
        idle = sorted((seen.idle_since, name) for name, seen in self._workers.items() if seen.idle_since is not None)
        busy = [(-seen.requested_at, name) for name, seen in self._workers.items() if seen.is_ready]
        busy = sorted(entry for entry in busy if self._workers[entry[1]].idle_since is None) if with_busy else []
        return [name for _, name in (*starting, *idle, *busy)]

    def _observe(self, work: RemainingWork, book: LeaseBook, num_lendable: int, now: float) -> Observation:
        size, workers = work.size, list(self._workers.values())
        idle = tuple(now - seen.idle_since for seen in workers if seen.idle_since is not None)
        return Observation(
            num_waiting=work.num_untouched(book) + book.num_returned,
            num_leased=book.num_outstanding,
            num_lendable=num_lendable,
            num_images=size.num_images,
            megapixels=size.megapixels,
            throughput=self._throughput,
            num_busy=sum(seen.is_ready for seen in workers) - len(idle),
            idle_s=idle,
            num_starting=sum(not seen.is_ready for seen in workers),
            start_s=_START_S if self._start_s is None else self._start_s,
            time_left_s=None if self._deadline is None else max(0.0, self._deadline - now),
            spent_worker_s=self.spent_worker_s,
        )
