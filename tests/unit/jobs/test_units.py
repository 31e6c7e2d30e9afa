"""Amounts as people read them."""

from __future__ import annotations

import math

import pytest

from jobs.units import byte_size, duration, megapixel_size, money, money_apart


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5e12, "5.0 TB"), (4.2e18, "4,200.0 PB")],
)
def test_byte_size(amount: float, said: str) -> None:
    assert byte_size(amount) == said


@pytest.mark.parametrize(
    ("megapixels", "said"),
    [(0, "0.0 MP"), (0.000012, "1.2e-05 MP"), (0.0031, "0.0031 MP"), (1, "1.0 MP"), (12_345.67, "12,345.7 MP")],
)
def test_megapixel_size(megapixels: float, said: str) -> None:
    assert megapixel_size(megapixels) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h"), (172_800, "2.0 d"), (math.inf, "?")],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        *[(0, "0.00"), (1234.5, "1,234.50"), (0.5, "0.50"), (0.05, "0.05"), (0.0123, "0.012"), (0.0001, "0.0001")],
        *[(1.26e-7, "0.00000013"), (1e-300, "0.00"), (1e15, "1,000,000,000,000,000.00")],
    ],
)
def test_money(amount: float, said: str) -> None:
    assert money(amount) == said


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (12.0, 0.0001, ("12.00", "0.0001")),
        (0.501, 0.5, ("0.501", "0.50")),
        (0.00013, 0.0001, ("0.00013", "0.0001")),
        (100.00004, 100.0, ("100.00004", "100.00")),
        (1.0, 1.0, ("1.00", "1.00")),
    ],
)
def test_amounts_are_told_apart(one: float, other: float, said: tuple[str, str]) -> None:
    assert money_apart(one, other) == said
