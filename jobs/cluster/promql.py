"""Expressions of PromQL: whether Prometheus would take them, and which metrics they name (GreptimeTeam's parser)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser

# The parser is recursive and native: depth would end the process. Nobody's rule has so many.
_MAX_BRACKETS = 200
_MAX_OPERATORS = 200
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_OPERATOR = re.compile(r"[-+*/%^<>]|[=!]=|\b(?:and|or|unless|atan2)\b", re.IGNORECASE)
_NOT_SHOWN = {
    promql_parser.MatrixSelector: "a range vector",
    promql_parser.SubqueryExpr: "a range vector",
    promql_parser.StringLiteral: "text",
}


class PromqlError(ValueError):
    """What is wrong with an expression."""


def parse_expression(expression: str) -> promql_parser.Expr:
    """The expression as a tree. Raises PromqlError where it is none that Prometheus takes."""
    if sum(expression.count(bracket) for bracket in "([{") > _MAX_BRACKETS:
        raise PromqlError(f"it has more than {_MAX_BRACKETS} brackets")
    if len(_OPERATOR.findall(_TEXT.sub("", expression))) > _MAX_OPERATORS:
        raise PromqlError(f"it has more than {_MAX_OPERATORS} operators")
    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        raise PromqlError(str(error)) from error
    while isinstance(parsed, promql_parser.ParenExpr):
        parsed = parsed.expr
    if kind := _NOT_SHOWN.get(type(parsed)):
        raise PromqlError(f"it gives {kind}, and a rule or a panel needs a number for each series")
    return parsed


def metrics_of(expression: promql_parser.Expr) -> set[str]:
    """The names of the metrics in an expression."""
    selectors = (each for each in _parts(expression) if isinstance(each, promql_parser.VectorSelector))
    return {name for each in selectors for name in names_of(each)}


def _parts(expression: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    """An expression and all below it. The parser's own `walk` takes seconds where operators follow each other."""
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        yield part
        for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
            below = getattr(part, name, None)
            if below is not None:
                waiting.append(below)
        waiting += getattr(part, "args", ())


def names_of(selector: promql_parser.VectorSelector) -> set[str]:
    """The names that a selector says its metric has: before the braces, and within."""
    equal = promql_parser.MatchOp.Equal
    said = {each.value for each in selector.matchers.matchers if each.name == "__name__" and each.op == equal}
    return said | ({selector.name} if selector.name else set())
