"""What the scaling policy is shown: work that counts down, and workers that start, work and idle, on a fake clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.errors import BudgetSpentError
from pipeline.execution.base import WorkSize
from pipeline.execution.elastic import RemainingWork, Scaler
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.scaling import ScalingDecision
from pipeline.records import ImageTask, Shard
from pipeline.scaling_config import ScalingConfig
from pipeline.sharding import estimate_megapixels

IMAGE = ImageTask("a.jpg", "a.jpg", 1_000_000, "e")
MEGAPIXELS = estimate_megapixels(IMAGE)


class Job:
    """Shards of two equal images each, and a scaler on a clock that the test moves."""

    def __init__(self, num_shards: int, **limits: float) -> None:
        self.now = 0.0
        self.work = RemainingWork(num_shards, WorkSize(2 * num_shards, 2 * MEGAPIXELS * num_shards))
        self.book = LeaseBook(self.work.counted(self._shards(num_shards)), 4, clock=lambda: self.now)
        config = ScalingConfig.model_validate({"max_workers": 4, "interval_s": 5, "cool_down_s": 30} | limits)
        self.scaler = Scaler(config, 1.0, clock=lambda: self.now)

    @staticmethod
    def _shards(number: int) -> Iterator[Shard]:
        return (Shard(1, index, (IMAGE, IMAGE)) for index in range(number))

    def take(self, holder: str) -> Lease:
        lease = self.book.take(holder)
        assert lease is not None
        return lease

    def finish(self, lease: Lease, megapixels: float = 2 * MEGAPIXELS) -> None:
        assert self.book.complete(lease)
        self.work.finish(lease.shard, megapixels)

    def after(self, seconds: float, *busy: str, done: float = 0.0) -> ScalingDecision | None:
        self.now += seconds
        self.scaler.tick(busy)
        return self.scaler.decide(self.work, self.book, done)


def test_work_counts_down_as_shards_are_finished_not_as_they_are_taken() -> None:
    job = Job(3)
    whole = job.work.size
    first, second = job.take("a"), job.take("b")
    assert job.work.size == whole
    assert job.work.num_untouched(job.book) == 1
    job.finish(first)
    assert (job.work.size.num_images, job.work.size.megapixels) == (4, pytest.approx(4 * MEGAPIXELS))
    job.finish(second, megapixels=MEGAPIXELS)  # half as large as its file made believe: so are the others, by halves
    assert job.work.size.megapixels == pytest.approx(2 * MEGAPIXELS * 3 / 4)
    job.finish(job.take("a"))
    assert job.work.size == WorkSize(0, 0.0)


def test_a_plan_that_promised_too_much_ends_where_its_shards_end() -> None:
    job = Job(2)
    job.work = RemainingWork(9, WorkSize(18, 99.0))
    job.book = LeaseBook(job.work.counted(Job._shards(1)), 4)
    lease = job.take("a")
    assert job.book.take("b") is None
    assert job.work.num_untouched(job.book) == 0
    job.finish(lease)
    assert job.book.is_finished


def test_a_job_whose_last_worker_left_before_it_saw_the_end_gets_another() -> None:
    """Only a holder's look tells that nothing is left; without one the job would wait for ever."""
    job = Job(1)
    job.finish(job.take("a"))
    assert not job.book.is_finished
    decision = job.after(0)
    assert decision is not None
    assert decision.delta == 1


def test_the_number_follows_the_work_by_what_a_start_and_a_worker_were_measured_to_take() -> None:
    job = Job(1000)
    first = job.after(0)
    assert first is not None
    assert first.delta == 4  # hours at the rate that is believed; as many as are allowed
    job = Job(20)
    first = job.after(0)
    assert first is not None
    assert first.delta == 1, first.reason  # believed: 320 s of work, and 180 of starting
    job.scaler.asked("a")
    assert job.after(4) is None, "not before the interval is over"
    job.scaler.ready("a")
    job.take("a")
    second = job.after(1, "a")
    assert second is not None
    assert second.delta == 3
    assert "4 workers are allowed" in second.reason


def test_a_request_that_was_in_vain_is_no_start_and_costs_nothing() -> None:
    job = Job(20, budget_worker_s=1000.0)
    job.scaler.asked("a")
    job.now += 900
    job.scaler.asked("a")  # for another node, which comes at once
    job.now += 4
    job.scaler.ready("a")
    job.take("a")
    decision = job.after(1, "a")
    assert decision is not None
    assert decision.delta == 3, decision.reason


def test_idle_workers_leave_after_the_cool_down_the_longest_idle_first_and_starting_ones_at_once() -> None:
    job = Job(1)
    for name in "abc":
        job.scaler.asked(name)
    job.scaler.ready("a")
    job.scaler.ready("b")
    job.take("a")
    assert job.book.take("b") is None
    decision = job.after(0, "a")
    assert decision is not None
    assert decision.delta == -1
    assert job.scaler.leaving_order() == ["c", "b"]
    job.scaler.gone("c")
    decision = job.after(29, "a")
    assert decision is not None
    assert decision.delta == 0
    decision = job.after(5, "a")
    assert decision is not None
    assert decision.delta == -1
    assert job.scaler.leaving_order() == ["b"], "a holds a lease"


def test_a_worker_is_believed_to_do_what_it_was_seen_to_do_however_wrong_the_belief_was() -> None:
    """Large images are not slow workers: time without a finished one counts when the next one is."""
    job = Job(100, max_workers=100)
    job.scaler.asked("a")
    job.after(100)
    job.scaler.ready("a")
    job.take("a")

    def rate(decision: ScalingDecision | None) -> str:
        assert decision is not None
        return decision.reason.partition(" at ")[2].partition(" MP/s")[0]

    assert rate(job.after(5, "a", done=2.5)) == "1", "believed: 5 s say little"
    assert rate(job.after(5, "a", done=5.0)) == "0.5", "seen: 5 MP in 10 s"
    for _ in range(10):
        assert rate(job.after(5, "a", done=5.0)) == "0.5", "nothing was finished"
    assert rate(job.after(40, "a", done=50.0)) == "0.5"
    assert rate(job.after(120, "a", done=50.0 + 2.5 * 120)) == "1.5", "half of what is new, after a half-life"


def test_a_deadline_asks_for_no_more_than_it_needs() -> None:
    job = Job(1000, max_workers=100, deadline_s=36_000)
    decision = job.after(0)
    assert decision is not None
    assert 1 <= decision.delta < 10
    assert "the deadline in 36,000 s needs" in decision.reason or "deadline is in" in decision.reason


def test_deadline_and_budget_are_those_of_the_run_not_of_the_driver() -> None:
    config = ScalingConfig(max_workers=4, deadline_s=1000, budget_worker_s=2000.0)
    job = Job(1000)
    job.now = 5000.0
    job.scaler = Scaler(config, 1.0, started_at=4400.0, spent_s=1990.0, clock=lambda: job.now)
    assert job.scaler.spent_worker_s == 1990.0
    decision = job.after(0)
    assert decision is not None
    assert decision.delta == 0, decision.reason
    with pytest.raises(BudgetSpentError, match=r"0\.55 are spent"):
        job.scaler.require_affordable(decision)
    rich = config.model_copy(update={"budget_worker_s": None})
    job.scaler = Scaler(rich, 1.0, started_at=4400.0, clock=lambda: job.now)
    decision = job.after(0)
    assert decision is not None
    assert "deadline in 400 s" in decision.reason
    job.scaler.asked("a")
    job.now += 30
    assert job.scaler.spent_worker_s == 30.0
    job.scaler.gone("a")
    job.now += 30
    assert job.scaler.spent_worker_s == 30.0


def test_a_missed_deadline_is_news_once_and_so_is_its_end() -> None:
    job = Job(100, max_workers=1, deadline_s=1000)
    job.scaler.asked("a")
    job.scaler.ready("a")
    job.take("a")
    told, done = [], 0.0
    for megapixels_per_s, times in ((0.01, 3), (5.0, 3), (0.01, 3)):  # of 1,600 MP
        for _ in range(times):
            done += megapixels_per_s * 20
            decision = job.after(20, "a", done=done)
            assert decision is not None
            assert decision.delta == 0
            if decision.is_news:
                told.append(decision.reason)
    assert len(told) == 3, told
    assert "1 workers are allowed; this misses the deadline in 980 s by " in told[0]
    assert told[1].endswith("the deadline can be met after all")
    assert "misses the deadline in" in told[2]


def test_who_is_at_work_is_ended_for_the_budget_alone_and_last() -> None:
    job = Job(1000, budget_worker_s=1000.0, max_workers=2)
    first = job.after(0)
    assert first is not None
    assert first.delta == 1
    for name in "ab":
        job.scaler.asked(name)
        job.scaler.ready(name)
        job.take(name)
        job.now += 1
    busy = job.after(4, "a", "b")
    assert busy is not None
    assert not busy.ends_busy
    job.scaler.require_affordable(busy)  # somebody is there
    spent = job.after(495, "a", "b")
    assert spent is not None
    assert (spent.delta, spent.ends_busy) == (-2, True)
    assert "the budget's last 0 of 1,000 worker-seconds" in spent.reason
    assert job.scaler.leaving_order() == []
    assert job.scaler.leaving_order(with_busy=True) == ["b", "a"], "the latest first"
    for name in "ab":
        job.scaler.gone(name)
    with pytest.raises(BudgetSpentError, match=r"the budget of 0\.28 worker-hours pays for no worker any more: 0\.28 "):
        job.scaler.require_affordable(spent)


def test_a_budget_that_pays_for_no_start_is_said_to_be_spent_and_nobody_waits_for_ever() -> None:
    job = Job(10, budget_worker_s=100.0)
    decision = job.after(0)
    assert decision is not None
    assert decision.delta == 0
    with pytest.raises(BudgetSpentError, match="and work is left"):
        job.scaler.require_affordable(decision)
    unlimited = Job(10)
    decision = unlimited.after(0)
    assert decision is not None
    unlimited.scaler.require_affordable(decision)


def test_workers_that_can_help_with_the_last_shards_are_started_and_kept() -> None:
    job = Job(1)
    job.scaler.asked("a")
    job.scaler.ready("a")
    lease = job.take("a")
    assert job.book.take("b") is None
    job.scaler.asked("b")
    decision = job.after(5, "a")
    assert decision is not None
    assert decision.delta == -1, "nothing to do for it"
    job.now += 5
    decision = job.scaler.decide(job.work, job.book, 0.0, 1)
    assert decision is not None
    assert decision.delta == 0, decision.reason
    assert lease.shard.part == 0
