"""Values of a query's result as JSON and as text: the same text wherever one is shown as text."""

from __future__ import annotations

import json
import math
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

# From here on `.6g` has no digits left for what follows the point, and would round what stands before it.
_ALL_DIGITS_FROM, _EXPONENT_FROM = 1e5, 1e15


def plain(value: Any) -> Any:
    """What JSON has for a value: null for NaN and infinity, floats for decimals with a point, and else text.

    Times are ISO 8601 with T, as `--json` has them everywhere; bytes are hex, intervals as DuckDB writes them.
    """
    match value:
        case Decimal():
            return float(value) if value.as_tuple().exponent else int(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
    return _text(value)


def _text(value: Any) -> Any:
    match value:
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case bytes():
            return value.hex()
        case pa.MonthDayNano():  # a tuple to Python
            return _interval(value)
        case tuple():  # an entry of a map
            return [plain(item) for item in value]
    return value


def as_text(value: object) -> str:
    """A value in a table or in CSV: the items of a list are joined with semicolons, what lies deeper is JSON."""
    if value is None:
        return ""
    if isinstance(value, float):
        is_long = _ALL_DIGITS_FROM <= abs(value) < _EXPONENT_FROM
        return f"{value:.0f}" if is_long else f"{value:.6g}"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list):
        return ";".join(map(_item, value))
    if isinstance(value, dict):
        return _as_json(value)
    return str(plain(value))


def _item(value: object) -> str:
    if isinstance(value, float):
        return str(value)
    is_nested = isinstance(value, dict | list | tuple) and not isinstance(value, pa.MonthDayNano)
    return _as_json(value) if is_nested else as_text(value)


def _as_json(value: object) -> str:
    return json.dumps(plain(value), default=str, ensure_ascii=False)


def _interval(value: Any) -> str:
    years, months = _apart(value.months, 12)
    parts = [
        f"{number} {unit}" if abs(number) == 1 else f"{number} {unit}s"
        for number, unit in ((years, "year"), (months, "month"), (value.days, "day"))
        if number
    ]
    microseconds = abs(value.nanoseconds) // 1000
    if microseconds or not parts:
        seconds, fraction = divmod(microseconds, 1_000_000)
        sign = "-" if value.nanoseconds < 0 else ""
        digits = f".{fraction:06d}".rstrip("0") if fraction else ""
        parts.append(f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{digits}")
    return " ".join(parts)


def _apart(value: int, size: int) -> tuple[int, int]:
    """Quotient and remainder, both with the value's sign."""
    quotient, remainder = divmod(abs(value), size)
    return (quotient, remainder) if value >= 0 else (-quotient, -remainder)
