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
DEEP = "(" * 300 + "up" + ")" * 300
# What is wrong with it, in words of the message.
BROKEN = {
    "": "no expression found in input",
    "increse(up[5m])": "unknown function with name 'increse'",
    "rate(up)": "expected type matrix in call to function 'rate', got vector",
    "rate(up[5x])": "bad number or duration syntax: 5x",
    "rate(up[0s])": "duration must be greater than 0",
    "rate(up[a])": "unexpected character inside brackets: 'a'",
    "rate(up[5m]": "unclosed left parenthesis",
    "(up))": "unexpected right parenthesis ')'",
    "up up": "invalid promql query",
    "up{a=b}": "unexpected identifier 'b' in label matching, expected string",
    "up{a}": "invalid label matcher, expected label matching operator after 'a'",
    'up{1="b"}': "unexpected character inside braces: '1'",
    'up{a=~"("}': "illegal regex for (",
    "{}": "vector selector must contain at least one non-empty matcher",
    '{a=""}': "vector selector must contain at least one non-empty matcher",
    "sum by a (up)": "invalid promql query",
    "topk(up)": "wrong number of arguments for aggregate expression provided, expected 2, got 1",
    "abs(up, up)": "expected 1 argument(s) in call to 'abs', got 2",
    "sum(up,)": "trailing commas not allowed in function call args",
    "1 == 1": "comparisons between scalars must use BOOL modifier",
    "up + bool 1": "bool modifier can only be used on comparison operators",
    "up and 1": "set operator 'and' not allowed in binary scalar expression",
    "up and on(a) group_left(b) c": "no grouping allowed for 'and' operation",
    '-"x"': "unary expression only allowed on expressions of type scalar or vector, got: string",
    "up[5m]": "a range vector",
    "sum(up)[5m]": "ranges only allowed for vector selectors",
    "sum(up) offset 5m": "offset modifier must be preceded by an vector selector or matrix selector or a subquery",
    "up[5m:1m][5m:]": "subquery is only allowed on vector, got matrix instead",
    "up @ x": "invalid promql query",
    "or up": "invalid promql query",
    "up by (1)": "invalid promql query",
    "sum(up) by (1)": "invalid promql query",
    DEEP: "more than 200 brackets",
    "$x": "unexpected character: '$'",
}
# Refused by us alone: Prometheus fails when it evaluates the first; nobody writes the second.
BY_US = frozenset({"up[5m]", DEEP})
