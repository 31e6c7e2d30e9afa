from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.scaling import (
    DeadlineOutlook,
    Observation,
    ScalingLimits,
    Throughput,
    budget_in_worker_s,
    decide,
)
from pipeline.scaling_config import ScalingConfig

RATE = Throughput(10.0)
SHARD_MP = 200.0


def seen(num_waiting: int, **values: object) -> Observation:
    num_leased = int(values.get("num_busy", 0))  # type: ignore[call-overload]
    megapixels = (num_waiting + num_leased) * SHARD_MP
    base = Observation(num_waiting, num_leased, 64 * (num_waiting + num_leased), megapixels, RATE)
    return replace(base, **values)  # type: ignore[arg-type]


def limits(max_workers: int = 100, **values: float) -> ScalingLimits:
    return ScalingLimits(max_workers=max_workers, **values)  # type: ignore[arg-type]


def test_the_first_workers_are_as_many_as_work_for_as_long_as_they_start() -> None:
    decision = decide(seen(90), limits())  # 18,000 MP are 1,800 worker-seconds: ten starts of 180 s
    assert decision.delta == 10
    assert decision.reason == (
        "start 10 beside 0: 90 shards wait, 18,000 MP are left; one at 10 MP/s takes 1,800 s, a start takes 180 s and "
        "pays off for 10 more"
    )


def test_a_small_job_still_gets_one_worker_and_none_once_it_has_one() -> None:
    assert decide(seen(1), limits()).delta == 1
    one = decide(seen(5, num_busy=1), limits())
    assert one.delta == 0
    assert "1 workers at 10 MP/s take 120 s, a start takes 180 s" in one.reason


def test_no_more_workers_than_shards_that_wait_for_one() -> None:
    many = decide(seen(4, num_leased=0, megapixels=1e6), limits())
    assert many.delta == 4
    assert "4 shards give no more workers anything to do" in many.reason
    assert decide(seen(4, megapixels=1e6, num_starting=3, idle_s=(0.0,)), limits()).delta == 0


def test_no_work_ends_starts_and_what_has_cooled_down_but_for_the_minimum() -> None:
    idle = seen(0, num_busy=2, idle_s=(59.0, 61.0, 200.0), num_starting=4)
    assert decide(idle, limits()).delta == -6
    assert decide(idle, limits(min_workers=5)).delta == -4
    assert decide(replace(idle, num_starting=0, idle_s=(59.0,)), limits()).delta == 0


def test_a_worker_that_has_just_started_is_not_ended() -> None:
    assert decide(seen(0, idle_s=(0.0, 1.0)), limits()).delta == 0


def test_nothing_is_ended_while_shards_wait() -> None:
    assert decide(seen(1, num_busy=50, idle_s=(500.0,) * 20), limits()).delta == 0


def test_a_minimum_is_kept_without_work() -> None:
    assert decide(seen(0), limits(min_workers=3)).delta == 3


def test_a_lowered_maximum_ends_no_busy_worker() -> None:
    assert decide(seen(9, num_busy=8, idle_s=(1.0,), num_starting=1), limits(max_workers=4)).delta == -2


def test_a_deadline_takes_the_fewest_that_meet_it() -> None:
    # 90,000 worker-seconds; of 3,600 s, nine tenths less a shard of 20 s and a start of 180 s: 90,000 / 3,040 = 29.6.
    decision = decide(seen(4500, time_left_s=3600.0), limits())
    assert decision.delta == 30
    assert "the deadline in 3,600 s needs 30 more" in decision.reason
    assert decide(seen(4500, time_left_s=36_000.0), limits()).delta == 3


def test_a_deadline_that_cannot_be_met_says_so() -> None:
    decision = decide(seen(4500, time_left_s=150.0, num_busy=4), limits())
    assert decision.delta == 96
    late = decide(seen(4500, time_left_s=150.0, num_busy=4), limits(max_workers=1000))
    # 90,080 worker-seconds and 492 starts of 180 s, by 496 workers, take 360 s.
    assert "is too near for a start of 180 s to help; this misses the deadline in 150 s by 210 s" in late.reason
    assert late.deadline is DeadlineOutlook.MISSED


@pytest.mark.parametrize(
    ("bounds", "state"),
    [
        ({"max_workers": 3}, {"num_busy": 3}),
        ({"max_workers": 3}, {}),
        ({"budget_worker_s": 50_000.0}, {"num_busy": 3}),
        ({"max_workers": 9, "min_workers": 4}, {"num_busy": 3}),
    ],
    ids=["maximum", "first workers", "budget", "minimum"],
)
def test_whatever_bounds_the_decision_a_missed_deadline_is_told(
    bounds: dict[str, float], state: dict[str, int]
) -> None:
    decision = decide(seen(4500, time_left_s=3600.0, **state), limits(**bounds))
    assert decision.deadline is DeadlineOutlook.MISSED
    assert "misses the deadline in 3,600 s by " in decision.reason


def test_a_deadline_is_met_where_the_work_fits_with_the_margin_and_close_without_it() -> None:
    in_time = {"num_busy": 3, "megapixels": 30_000.0}  # 1,000 s for three
    for time_left_s, outlook in ((1200.0, DeadlineOutlook.MET), (1050.0, DeadlineOutlook.CLOSE)):
        decision = decide(seen(9, time_left_s=time_left_s, **in_time), limits(max_workers=3))
        assert decision.deadline is outlook
        assert "misses" not in decision.reason
    assert decide(seen(9, **in_time), limits(max_workers=3)).deadline is DeadlineOutlook.NOT_KNOWN


def test_idle_workers_do_not_help_with_the_last_shard() -> None:
    last = decide(seen(0, num_busy=1, idle_s=(1.0,) * 9, megapixels=1000.0, time_left_s=50.0), limits())
    assert "no shard waits" in last.reason
    assert last.reason.endswith("this misses the deadline in 50 s by 50 s")
    assert (
        "that has passed by 100 s"
        in decide(replace(seen(0, num_busy=1), megapixels=1000.0, time_left_s=0.0), limits()).reason
    )


def test_a_budget_keeps_back_what_the_work_costs() -> None:
    # Nine tenths of 12,600 worker-seconds, less 9,000 for the work, pay for 13 starts.
    assert decide(seen(450), limits(budget_worker_s=12_600.0)).delta == 13
    short = decide(seen(450), limits(budget_worker_s=1000.0))
    assert short.delta == 1  # it does what it can
    none = decide(seen(450), limits(budget_worker_s=100.0))
    assert (none.delta, "the budget pays for no more starts" in none.reason) == (0, True)


def test_a_spent_budget_ends_busy_workers_too() -> None:
    decision = decide(seen(9, num_busy=8, spent_worker_s=965.0), limits(budget_worker_s=1000.0))
    assert decision.delta == -5
    assert "last 35 of 1,000 worker-seconds pay for 3 of 8 workers" in decision.reason


def test_money_buys_worker_seconds() -> None:
    assert budget_in_worker_s(30.0, 1.5) == 72_000
    with pytest.raises(ValueError, match="price"):
        budget_in_worker_s(30.0, 0.0)


def test_the_throughput_forgets_its_prior() -> None:
    half = Throughput(10.0, half_life_s=600.0).updated(20.0 * 600, 600.0)
    assert half.megapixels_per_s == pytest.approx(15.0)
    assert half.updated(0.0, 50.0) == half
    with pytest.raises(ValueError, match="above 0"):
        Throughput(0.0)


@pytest.mark.parametrize("bad", [{"min_workers": 5, "max_workers": 4}, {"max_workers": 0}, {"payback": 0.0}])
def test_limits_that_contradict_each_other_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ScalingLimits(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["payback", "interval_s", "cool_down_s", "budget_worker_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_limits_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="must be numbers, and not infinite"):
        ScalingLimits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["interval_s", "cool_down_s", "budget_worker_s", "deadline_s", "node_start_timeout_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_configuration_that_holds_no_numbers_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ScalingConfig(max_workers=4, **{name: value})


observations = st.builds(
    lambda waiting, busy, idle, starting, start_s, left_s: seen(
        waiting, num_busy=busy, idle_s=tuple(idle), num_starting=starting, start_s=start_s, time_left_s=left_s
    ),
    st.integers(0, 100_000),
    st.integers(0, 60),
    st.lists(st.floats(0, 1000), max_size=20),
    st.integers(0, 60),
    st.floats(0, 2000),
    st.none() | st.floats(0, 1e6),
)


@given(observations, st.integers(0, 50), st.integers(1, 1000))
def test_never_below_the_minimum_nor_above_the_maximum(now: Observation, low: int, high: int) -> None:
    allowed = limits(max_workers=max(low, high), min_workers=low)
    after = now.num_workers + decide(now, allowed).delta
    assert after >= min(low, now.num_workers)
    assert after <= max(allowed.max_workers, now.num_workers)


@given(observations, st.integers(1, 10_000))
def test_more_work_never_asks_for_fewer_workers(now: Observation, more: int) -> None:
    work = (now.num_waiting + more + now.num_leased) * SHARD_MP
    larger = replace(now, num_waiting=now.num_waiting + more, megapixels=work)
    assert decide(larger, limits(max_workers=500)).delta >= decide(now, limits(max_workers=500)).delta


@given(observations)
def test_what_starts_longer_than_the_rest_lasts_is_not_started(now: Observation) -> None:
    if now.num_workers and now.work_s <= now.num_workers * now.start_s:
        assert decide(now, limits(max_workers=500)).delta <= 0


@given(observations)
def test_a_decision_is_one_line_and_the_next_one_adds_nothing(now: Observation) -> None:
    """Right after a decision, with all else the same, there is nothing left to decide."""
    decision = decide(now, limits(max_workers=500))
    assert "\n" not in decision.reason
    if decision.delta > 0:
        after = replace(now, num_starting=now.num_starting + decision.delta)
        assert decide(after, limits(max_workers=500)).delta == 0


@dataclass
class Cluster:
    """Workers that start, work on whole shards and idle, under the policy; one step is one interval."""

    waiting: int
    allowed: ScalingLimits
    start_s: float = 180.0
    deadline_s: float | None = None
    arrivals: int = 0
    now_s: float = 0.0
    spent_s: float = 0.0
    ready_at: list[float] = field(default_factory=list)
    busy_until: list[float] = field(default_factory=list)
    idle_since: list[float] = field(default_factory=list)
    deltas: list[int] = field(default_factory=list)
    done: int = 0

    def step(self) -> None:
        now, shard_s = self.now_s, SHARD_MP / RATE.megapixels_per_s
        self.idle_since += [at for at in self.ready_at if at <= now]
        self.ready_at = [at for at in self.ready_at if at > now]
        finished = [at for at in self.busy_until if at <= now]
        self.done += len(finished)
        self.idle_since += finished
        self.busy_until = [at for at in self.busy_until if at > now]
        self.waiting += self.arrivals
        while self.waiting and self.idle_since:
            self.idle_since.pop()
            self.waiting -= 1
            self.busy_until.append(now + shard_s)
        left = self.waiting + len(self.busy_until)
        observation = Observation(
            self.waiting,
            len(self.busy_until),
            left,
            left * SHARD_MP,
            RATE,
            num_busy=len(self.busy_until),
            idle_s=tuple(now - at for at in self.idle_since),
            num_starting=len(self.ready_at),
            start_s=self.start_s,
            time_left_s=None if self.deadline_s is None else self.deadline_s - now,
            spent_worker_s=self.spent_s,
        )
        self._apply(decide(observation, self.allowed).delta)
        num = len(self.ready_at) + len(self.busy_until) + len(self.idle_since)
        self.spent_s += num * self.allowed.interval_s
        self.now_s += self.allowed.interval_s

    def _apply(self, delta: int) -> None:
        self.deltas.append(delta)
        self.ready_at += [self.now_s + self.start_s] * max(0, delta)
        for _ in range(-min(0, delta)):
            if self.ready_at:
                self.ready_at.pop()
            elif self.idle_since:
                self.idle_since.remove(min(self.idle_since))
            else:
                self.busy_until.pop()
                self.waiting += 1

    def run(self, max_steps: int = 20_000) -> None:
        for _ in range(max_steps):
            self.step()
            if not (self.waiting or self.busy_until or self.ready_at or self.idle_since):
                return


@given(st.integers(1, 3000), st.integers(1, 200))
def test_a_job_goes_from_zero_to_zero_and_turns_once(num_shards: int, most: int) -> None:
    """Up while there is work, then down: a start after an end would be flapping."""
    cluster = Cluster(num_shards, limits(max_workers=most))
    cluster.run()
    assert cluster.done == num_shards
    signs = [delta > 0 for delta in cluster.deltas if delta]
    assert signs == sorted(signs, reverse=True)


@given(st.integers(1, 8))
def test_constant_load_settles(arrivals: int) -> None:
    """As many shards arrive in each interval as `2 x arrivals` workers do in it."""
    cluster = Cluster(0, limits(max_workers=200), arrivals=arrivals)
    for _ in range(1000):
        cluster.step()
    settled = cluster.deltas[500:]
    assert sum(delta != 0 for delta in settled) <= 1
    assert len(cluster.busy_until) >= 2 * arrivals - 1


@given(st.integers(1, 2000), st.floats(600, 20_000))
def test_a_deadline_that_can_be_met_is_met(num_shards: int, deadline_s: float) -> None:
    cluster = Cluster(num_shards, limits(max_workers=500), deadline_s=deadline_s)
    work_s, shard_s, interval_s = num_shards * 20.0, 20.0, 10.0
    usable_s = 0.9 * deadline_s - shard_s - 180.0 - 2 * interval_s
    feasible = usable_s > 0 and work_s / usable_s < 500 and num_shards >= work_s / usable_s
    finished_s = None
    while feasible and finished_s is None:
        cluster.step()
        if cluster.done == num_shards:
            finished_s = cluster.now_s
    assert finished_s is None or finished_s <= deadline_s


@given(st.integers(1, 2000), st.floats(0, 60_000), st.integers(0, 5))
def test_a_budget_is_never_exceeded(num_shards: int, budget_s: float, low: int) -> None:
    cluster = Cluster(num_shards, limits(max_workers=300, min_workers=low, budget_worker_s=budget_s))
    for _ in range(600):
        cluster.step()
        assert cluster.spent_s <= budget_s + 1e-6
    if budget_s >= num_shards * 20.0 * 1.2 + 600 and not low:
        cluster.run()
        assert cluster.done == num_shards
