"""Amounts as people read them: decimal units, as disks and transfers are sold (memory is told in MiB elsewhere)."""

from __future__ import annotations

import math

_MAX_DECIMALS = 12


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.4 h`, `2.1 d`, the way a person says it."""
    if math.isinf(seconds):
        return "?"
    for size, unit, limit in ((1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172_800.0)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86_400:,.1f} d"


def money(amount: float, num_decimals: int = 2) -> str:
    """`1,234.50`; with more decimals below a cent, so that two digits mean something: `0.00012`."""
    if 0 < amount < 0.1:
        num_decimals = max(num_decimals, 1 - math.floor(math.log10(amount)))
    text = f"{amount:,.{min(num_decimals, _MAX_DECIMALS)}f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"


def money_apart(one: float, other: float) -> tuple[str, str]:
    """Two amounts with as many decimals as tell them apart, as far as that is possible."""
    for num_decimals in range(2, _MAX_DECIMALS):
        if money(one, num_decimals) != money(other, num_decimals):
            return money(one, num_decimals), money(other, num_decimals)
    return money(one), money(other)


def byte_size(amount: float) -> str:
    """`12 B`, `3.4 MB`: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} PB"


def megapixel_size(megapixels: float) -> str:
    """`1,234.5 MP`; below one, two digits that mean something: `0.0031 MP`."""
    return f"{megapixels:,.1f} MP" if megapixels >= 1 or megapixels == 0 else f"{megapixels:.2g} MP"
