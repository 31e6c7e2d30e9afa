"""Amounts as people read them: decimal units, as disks and transfers are sold (memory is told in MiB elsewhere)."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.4 h`, `2.1 d`, the way a person says it."""
    if math.isinf(seconds):
        return "?"
    for size, unit, limit in ((1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172_800.0)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86_400:,.1f} d"


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
