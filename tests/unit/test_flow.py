from __future__ import annotations

import threading

import pytest

from pipeline.errors import DeviceLostError
from pipeline.flow import ByteBudget


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


def test_a_stall_ends_in_an_error() -> None:
    budget = ByteBudget(100, stall_timeout_s=0.01)
    budget.acquire(100)
    with pytest.raises(DeviceLostError, match="no progress"):
        budget.acquire(1)
