"""The curves: means over the last tenth, in one pass."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from jobs.train_plot import _running_mean


def plain_mean(values: list[float], end: int) -> float:
    recent = [value for value in values[max(0, end - max(1, end // 10)) : end] if math.isfinite(value)]
    return math.fsum(recent) / len(recent) if recent else math.nan


@pytest.mark.parametrize("spike", [math.nan, math.inf, 1e30])
def test_the_mean_is_that_of_the_last_tenth(spike: float) -> None:
    rng = random.Random(1)
    values = [spike if rng.random() < 0.1 else rng.uniform(0.1, 10) for _ in range(700)]
    values[:3] = [spike] * 3
    expected = [plain_mean(values, end) for end in range(1, len(values) + 1)]
    assert _running_mean(values) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_no_value_is_summed_more_than_twice() -> None:
    sums = Counter[int]()

    class Counted(float):
        def __radd__(self, other: float) -> float:
            sums[id(self)] += 1
            return other + float(self)

    values = [Counted(number) for number in range(3000)]
    _running_mean(list[float](values))
    assert max(sums.values()) <= 2
    assert len(sums) == len(values)
