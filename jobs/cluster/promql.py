"""Expressions of PromQL: whether Prometheus would take them, and which metrics they name (GreptimeTeam's parser)."""

from __future__ import annotations

import promql_parser

# The parser is recursive and native: depth would end the process. Nobody's rule has so many.
_MAX_BRACKETS = 200
_NOT_SHOWN = {
    promql_parser.MatrixSelector: "a range vector",
    promql_parser.SubqueryExpr: "a range vector",
    promql_parser.StringLiteral: "text",
}


class PromqlError(ValueError):
    """What is wrong with an expression."""


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in an expression. Raises PromqlError where it is none that Prometheus takes."""
    if sum(expression.count(bracket) for bracket in "([{") > _MAX_BRACKETS:
        raise PromqlError(f"it has more than {_MAX_BRACKETS} brackets")
    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        raise PromqlError(str(error)) from error
    while isinstance(parsed, promql_parser.ParenExpr):
        parsed = parsed.expr
    if kind := _NOT_SHOWN.get(type(parsed)):
        raise PromqlError(f"it gives {kind}, and a rule or a panel needs a number for each series")
    metrics: set[str] = set()

    def note(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            part = part.vector_selector
        if isinstance(part, promql_parser.VectorSelector):
            metrics.update(_names_of(part))

    promql_parser.walk(parsed, note)
    return metrics


def _names_of(selector: promql_parser.VectorSelector) -> set[str]:
    equal = promql_parser.MatchOp.Equal
    said = {each.value for each in selector.matchers.matchers if each.name == "__name__" and each.op == equal}
    return said | ({selector.name} if selector.name else set())
