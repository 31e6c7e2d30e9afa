"""What PromQL has: functions with what they take and give, aggregations, binary operators.

Source: Prometheus 3, "Query functions" and "Operators". A type is one letter: s scalar, v instant vector, m range
vector, t text.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPES = {"s": "a number", "v": "an instant vector", "m": "a range vector such as x[5m]", "t": "text"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes, of which the last `num_optional` may be left out or, where it is endless, repeated."""

    takes: str
    gives: str = "v"
    num_optional: int = 0
    is_endless: bool = False


_OF_VECTORS = """abs absent acos acosh asin asinh atan atanh ceil cos cosh deg exp floor histogram_avg histogram_count
histogram_stddev histogram_stdvar histogram_sum ln log10 log2 rad sgn sin sinh sort sort_desc sqrt tan tanh timestamp"""
_OF_RANGES = """absent_over_time avg_over_time changes count_over_time delta deriv first_over_time idelta increase irate
last_over_time mad_over_time max_over_time min_over_time present_over_time rate resets stddev_over_time
stdvar_over_time sum_over_time ts_of_first_over_time ts_of_last_over_time ts_of_max_over_time ts_of_min_over_time"""
_OF_TIMES = "day_of_month day_of_week day_of_year days_in_month hour minute month year"

FUNCTIONS: dict[str, Signature] = {
    **{name: Signature("v") for name in _OF_VECTORS.split()},
    **{name: Signature("m") for name in _OF_RANGES.split()},
    **{name: Signature("v", num_optional=1) for name in _OF_TIMES.split()},
    "clamp": Signature("vss"),
    "clamp_max": Signature("vs"),
    "clamp_min": Signature("vs"),
    "double_exponential_smoothing": Signature("mss"),
    "histogram_fraction": Signature("ssv"),
    "histogram_quantile": Signature("sv"),
    "holt_winters": Signature("mss"),
    "info": Signature("vv", num_optional=1),
    "label_join": Signature("vttt", num_optional=1, is_endless=True),
    "label_replace": Signature("vtttt"),
    "pi": Signature("", gives="s"),
    "predict_linear": Signature("ms"),
    "quantile_over_time": Signature("sm"),
    "round": Signature("vs", num_optional=1),
    "scalar": Signature("v", gives="s"),
    "sort_by_label": Signature("vt", num_optional=1, is_endless=True),
    "sort_by_label_desc": Signature("vt", num_optional=1, is_endless=True),
    "time": Signature("", gives="s"),
    "vector": Signature("s"),
}
# What stands before the vector in the brackets of an aggregation; most have nothing there.
AGGREGATIONS: dict[str, str] = {
    **dict.fromkeys(("avg", "count", "group", "max", "min", "stddev", "stdvar", "sum"), ""),
    **dict.fromkeys(("bottomk", "limit_ratio", "limitk", "quantile", "topk"), "s"),
    "count_values": "t",
}
# Loosest first. The last level binds to the right.
BINARY: tuple[frozenset[str], ...] = (
    frozenset({"or"}),
    frozenset({"and", "unless"}),
    frozenset({"==", "!=", "<", "<=", ">", ">="}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%", "atan2"}),
    frozenset({"^"}),
)
SETS = BINARY[0] | BINARY[1]
COMPARISONS = BINARY[2]
