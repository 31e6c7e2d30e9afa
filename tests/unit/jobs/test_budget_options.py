"""`--budget` and the price that it is reckoned with: what they buy has to be a number."""

from __future__ import annotations

import pytest

from jobs.options import scaling
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("budget", "price"),
    [(1e308, 1e-300), (1e-300, 1e308), (0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))],
)
def test_budget_that_buys_no_number_is_refused_in_one_line(budget: float, price: float) -> None:
    with pytest.raises(ConfigError, match="buys nothing that can be reckoned with") as refused:
        scaling(4, None, None, budget=budget, price_per_worker_hour=price)
    assert str(refused.value).startswith("--budget ")
    assert "\n" not in str(refused.value)


def test_budget_is_worker_seconds() -> None:
    assert scaling(4, None, None, budget=30.0, price_per_worker_hour=1.5) == {
        "max_workers": 4,
        "budget_worker_s": 72_000,
    }
