from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.base import WorkSize
from pipeline.execution.tail import (
    RemainingLease,
    num_busy_at_most,
    num_helpers_at_most,
    num_worth_starting,
    split_tail,
    tail_s,
)

leases = st.lists(
    st.builds(RemainingLease, st.integers(0, 64), st.integers(0, 2000).map(lambda tenths: tenths / 10)), max_size=6
)


def largest(remaining: list[RemainingLease], parts: tuple[int, ...]) -> float:
    return max((lease.megapixels / num for lease, num in zip(remaining, parts, strict=True)), default=0.0)


def test_idle_workers_help_the_straggler() -> None:
    remaining = [RemainingLease(10, 50.0), RemainingLease(64, 600.0), RemainingLease(20, 180.0)]
    assert split_tail(remaining, 3) == (1, 4, 1)
    assert split_tail(remaining, 4) == (1, 4, 2)


@pytest.mark.parametrize(
    ("num_images", "megapixels", "num_shards", "num_workers"),
    [(64, 256.0, 1, 5), (64, 256.0, 9, 9), (3, 256.0, 1, 3), (64, 47.9, 1, 1), (0, 0.0, 0, 1)],
)
def test_workers_are_worth_a_start_for_each_shard_or_for_enough_work_of_fewer(
    num_images: int, megapixels: float, num_shards: int, num_workers: int
) -> None:
    assert num_worth_starting(WorkSize(num_images, megapixels), num_shards, 2.4) == num_workers


def test_a_single_image_and_a_small_rest_are_left_alone() -> None:
    assert split_tail([RemainingLease(1, 250.0)], 5) == (1,)
    assert split_tail([RemainingLease(40, 100.0)], 9, min_part_megapixels=30.0) == (3,)
    assert split_tail([], 3) == ()


@given(leases, st.integers(0, 12))
def test_a_split_is_as_even_as_any_can_be(remaining: list[RemainingLease], num_idle: int) -> None:
    parts = split_tail(remaining, num_idle)
    assert sum(parts) - len(remaining) <= num_idle
    assert all(num == 1 or num <= lease.num_images for lease, num in zip(remaining, parts, strict=True))
    small = remaining[:3]
    best = min(
        (
            largest(small, choice)
            for choice in product(range(1, 8), repeat=len(small))
            if sum(choice) - len(small) <= min(num_idle, 6)
            and all(num == 1 or num <= lease.num_images for lease, num in zip(small, choice, strict=True))
        ),
        default=0.0,
    )
    assert largest(small, split_tail(small, min(num_idle, 6))) == pytest.approx(best)


@given(leases, st.integers(0, 12))
def test_one_more_idle_worker_never_makes_the_tail_longer(remaining: list[RemainingLease], num_idle: int) -> None:
    assert largest(remaining, split_tail(remaining, num_idle + 1)) <= largest(
        remaining, split_tail(remaining, num_idle)
    )


def test_who_can_be_busy_at_the_end() -> None:
    remaining = [RemainingLease(3, 9.0), RemainingLease(2, 4.0), RemainingLease(0, 0.0)]
    assert num_busy_at_most(remaining, 10, can_split=False) == 2
    assert num_busy_at_most(remaining, 10, can_split=True) == 5
    assert num_busy_at_most(remaining, 4, can_split=True) == 4


@given(leases, st.integers(1, 8))
def test_a_tail_lies_between_the_bounds_of_list_scheduling(remaining: list[RemainingLease], num_workers: int) -> None:
    """Graham 1966: at most the even share plus one job, and never less than either."""
    total, longest = sum(lease.megapixels for lease in remaining), largest(remaining, (1,) * len(remaining))
    seconds = tail_s(remaining, num_workers, 2.0)
    assert seconds >= max(total / num_workers, longest) / 2 - 1e-9
    assert seconds <= (total / num_workers + longest) / 2 + 1e-9


def test_nobody_finishes_nothing() -> None:
    with pytest.raises(ValueError, match="finish nothing"):
        tail_s([], 0, 1.0)


@given(leases, st.sampled_from([0.0, 0.5, 30.0]))
def test_no_more_workers_are_said_to_be_of_help_than_get_something(
    remaining: list[RemainingLease], least: float
) -> None:
    real = [lease for lease in remaining if lease.megapixels > 0]
    num = num_helpers_at_most(real, min_part_megapixels=least)
    assert num == sum(split_tail(real, 1000, min_part_megapixels=least)) - len(real)
