from __future__ import annotations

import contextlib
import threading

import pytest

from pipeline.flow import ByteBudget, StageWatch


def test_what_is_held_is_counted_and_given_back() -> None:
    budget = ByteBudget(100)
    with budget.hold(60):
        assert budget.used_bytes == 60
    assert budget.used_bytes == 0


def test_a_failing_block_gives_back() -> None:
    budget = ByteBudget(100)
    with pytest.raises(RuntimeError), budget.hold(60):
        raise RuntimeError
    assert budget.used_bytes == 0


def test_an_item_larger_than_the_budget_passes_alone() -> None:
    budget = ByteBudget(100)
    with budget.hold(10_000):
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


def test_a_full_budget_makes_others_wait_until_there_is_room() -> None:
    budget = ByteBudget(100)
    held = budget.acquire(80)
    passed = threading.Event()

    def take() -> None:
        with budget.hold(50):
            passed.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not passed.wait(0.05)
    budget.release(held)
    assert passed.wait(10)
    thread.join(10)
    assert budget.used_bytes == 0


def test_small_items_do_not_starve_a_large_one() -> None:
    budget = ByteBudget(100)
    held = budget.acquire(60)
    order: list[str] = []
    arrived = [threading.Event() for _ in range(2)]

    def take(name: str, num_bytes: int, event: threading.Event) -> None:
        event.set()
        with budget.hold(num_bytes):
            order.append(name)

    large = threading.Thread(target=take, args=("large", 100, arrived[0]))
    large.start()
    arrived[0].wait(10)
    while not budget._waiting:  # the large item is in the queue
        pass
    small = threading.Thread(target=take, args=("small", 10, arrived[1]))
    small.start()
    arrived[1].wait(10)
    small.join(0.05)
    assert order == []
    budget.release(held)
    large.join(10)
    small.join(10)
    assert order == ["large", "small"]


def test_an_image_is_overdue_when_its_stage_takes_longer_than_its_size_allows() -> None:
    now = [0.0]
    watch = StageWatch(10, clock=lambda: now[0])
    with watch.stage("small"), watch.stage("large", 2_000_000):
        now[0] = 10.0
        assert watch.overdue() == ()
        now[0] = 10.1
        assert watch.overdue() == ("small",)
        now[0] = 70.1
        assert watch.overdue() == ("small", "large")
    assert watch.overdue() == ()


def test_each_stage_has_the_whole_time_and_a_failed_one_is_over() -> None:
    now = [0.0]
    watch = StageWatch(10, clock=lambda: now[0])
    for _ in range(3):
        with contextlib.suppress(RuntimeError), watch.stage("image"):
            now[0] += 6
            assert watch.overdue() == ()
            raise RuntimeError
    now[0] += 100
    assert watch.overdue() == ()


def test_what_takes_nothing_waits_for_nothing() -> None:
    budget = ByteBudget(10)
    budget.acquire(10)
    assert budget.acquire(0) == 0
    assert budget.used_bytes == 10


def test_without_any_room_one_item_passes_at_a_time() -> None:
    budget = ByteBudget(0)
    held = budget.acquire(1000)
    assert held == budget.used_bytes == 1
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (budget.acquire(1000), entered.set()))
    thread.start()
    assert not entered.wait(0.05)
    budget.release(held)
    thread.join(10)
    assert entered.is_set()
