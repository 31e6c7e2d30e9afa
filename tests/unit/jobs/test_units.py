"""Amounts as people read them."""

from __future__ import annotations

import math

import pytest

from jobs.units import byte_size, duration, megapixel_size


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
