"""Expressions that Prometheus takes, and some that it refuses."""

from __future__ import annotations

SOUND = [
    "up",
    'up{a="b",c!~"d.*",}',
    '{a=~".+"}',
    "sum by (a) (rate(up[5m])) / ignoring(b) group_left(c) sum(rate(x[1h30m])) without (b) > bool 0.1",
    "SUM(up) BY (a) AND ON(a) b unless c or d",
    "-2^-up % (x atan2 y)",
    "topk by (a) (3, up)",
    'count_values("a", up)',
    "max_over_time(sum(up)[1h:5m] offset 5m)",
    "up @ 1609746000 offset -5m",
    "rate(up[5m] @ end())",
    "histogram_quantile(0.9, rate(a:b[5m])) # a comment",
    'label_replace(up, "a", "$1", "b", "(.*)")',
    'label_join(up, "a", ",", "b", "c", "d")',
    "hour() + day_of_month(vector(time())) + round(up) + pi() + 0x1F + 1e3 + Inf + NaN + .5",
    "1 <= bool 2",
]
DEEP = "(" * 200 + "up" + ")" * 200
# What is wrong with it, in words of the message.
BROKEN = {
    "": "ends too early",
    "increse(up[5m])": "did you mean increase",
    "rate(up)": "argument 1 of rate is an instant vector",
    "rate(up[5x])": "cannot be read",
    "rate(up[0s])": "empty",
    "rate(up[a])": "no duration",
    "rate(up[5m]": "is missing at its end",
    "(up))": "left over",
    "up up": "left over",
    "up{a=b}": "needs quotes",
    "up{a}": "followed by",
    'up{1="b"}': "no label",
    'up{a=~"("}': "no regular expression",
    "{}": "need a matcher",
    '{a=""}': "need a matcher",
    "sum by a (up)": "belongs",
    "topk(up)": "takes 2 arguments, not 1",
    "abs(up, up)": "takes 1 arguments, not 2",
    "sum(up,)": "a comma",
    "1 == 1": "needs bool",
    "up + bool 1": "comparisons alone",
    "up and 1": "stands beside a number",
    "up and on(a) group_left(b) c": "does not go with and",
    '-"x"': "stands before text",
    "up[5m]": "a range vector",
    "sum(up)[5m]": "write [5m:]",
    "sum(up) offset 5m": "neither a metric nor a range",
    "up[5m:1m][5m:]": "a subquery",
    "up @ x": "@ needs",
    "or up": "stands where",
    "up by (1)": "left over",
    "sum(up) by (1)": "no label",
    DEEP: "too deeply",
    "$x": "cannot be read",
}
# Refused by us alone: Prometheus fails when it evaluates the first; nobody writes the second.
BY_US = frozenset({"up[5m]", DEEP})
