"""Labels in expressions of PromQL about hdrfleet's metrics: those that no series has, values that they never take."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import promql_parser as promql

from jobs.cluster.promql import names_of

if TYPE_CHECKING:
    from pipeline.execution.metrics import MetricDefinition

# Stands for a variable of Grafana in an expression: a label or a value that is not known before somebody chooses.
ANYTHING = "whatever_is_chosen"
_OF_HISTOGRAMS = ("_bucket", "_count", "_sum")
# What Ray, Prometheus and its operator put on every series; target labels that clash with a metric's own move it.
_ADDED = frozenset(
    {
        *("Component", "NodeAddress", "NodeId", "ReportedBy", "SessionName", "Version", "WorkerId", "ip"),
        *("__name__", "instance", "job", "prometheus", "prometheus_replica"),
        *("cluster", "container", "endpoint", "namespace", "node", "pod", "service"),
    }
)
_ADDED_PREFIXES = ("exported_", "ray_io_")
_KEEP_LABELS = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
_MAKE_LABELS = frozenset({"label_replace", "label_join"})
_LOSE_TRACK = frozenset({"absent", "absent_over_time", "info"})
_MATCH_NOTHING_TOO = frozenset({"or", "unless"})
_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels that series may have. `is_ours`: series of hdrfleet are among them; `is_open`: there may be others."""

    known: frozenset[str] = frozenset()
    is_ours: bool = False
    is_open: bool = False

    def __or__(self, other: _Labels) -> _Labels:
        return _Labels(self.known | other.known, self.is_ours or other.is_ours, self.is_open or other.is_open)

    def lack(self, label: str) -> str | None:
        """What `label` was meant to be, or an empty text, where no series has it; None where one may.

        Where there may be others, only what looks like a slip counts.
        """
        if not self.is_ours or label in self.known or label == ANYTHING or label.startswith(_ADDED_PREFIXES):
            return None
        by_small = {each.lower(): each for each in self.known - _ADDED}
        near = difflib.get_close_matches(label.lower(), by_small, 1, _NEAR)
        if near:
            return by_small[near[0]]
        return None if self.is_open else ""


def metrics_of_hdrfleet() -> dict[str, MetricDefinition]:
    """The names under which Prometheus has hdrfleet's metrics, and their definitions."""
    from pipeline.execution.metrics import DEFINITIONS, MetricKind

    names: dict[str, MetricDefinition] = {}
    for metric in DEFINITIONS:
        endings = _OF_HISTOGRAMS if metric.kind is MetricKind.HISTOGRAM else ("",)
        names |= {f"ray_{metric.name}{ending}": metric for ending in endings}
    return names


def check_labels(expression: promql.Expr, added: frozenset[str] | None) -> list[str]:
    """Say of each label of hdrfleet's metrics in an expression why it is never there, or never of that value.

    `added` are the labels that Prometheus is known to add; None where it is not known, and others may be there.
    """
    checker = _Checker(added)
    checker.labels_of(expression)
    return list(dict.fromkeys(checker.faults))


class _Checker:
    """Walks an expression from its selectors up. `faults` are sentences."""

    def __init__(self, added: frozenset[str] | None) -> None:
        self.faults: list[str] = []
        self._added = added
        self._metrics = metrics_of_hdrfleet()

    def labels_of(self, part: promql.Expr) -> _Labels:
        """The labels of the series that a part of an expression gives; notes what is wrong below it."""
        if isinstance(part, promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
            return self.labels_of(part.expr)
        if isinstance(part, promql.MatrixSelector | promql.VectorSelector):
            return self._of_selector(part if isinstance(part, promql.VectorSelector) else part.vector_selector)
        if isinstance(part, promql.AggregateExpr):
            return self._of_aggregate(part)
        if isinstance(part, promql.BinaryExpr):
            return self._of_binary(part)
        return self._of_call(part) if isinstance(part, promql.Call) else _Labels()

    def _of_selector(self, selector: promql.VectorSelector) -> _Labels:
        name, *others = names_of(selector) or [""]
        metric = self._metrics.get(name)
        if metric is None or others:
            return _Labels(is_open=True)
        buckets = {"le"} if name.endswith("_bucket") else set()
        known = frozenset({*metric.tag_keys, *_ADDED, *(self._added or ()), *buckets})
        labels = _Labels(known, is_ours=True, is_open=self._added is None)
        for matcher in selector.matchers.matchers:
            self._check_matcher(name, metric, matcher, labels)
        return labels

    def _check_matcher(self, name: str, metric: MetricDefinition, matcher: promql.Matcher, labels: _Labels) -> None:
        values = _values_of(metric, matcher.name)
        if ANYTHING in matcher.value:
            return
        if values:
            if not any(_meets(matcher, value) for value in values):
                self.faults.append(f"{matcher.name} of {name} is never {matcher.value!r}; it is {' or '.join(values)}")
        elif not _meets(matcher, ""):  # a label that is not there is as an empty one
            self._note_lack(matcher.name, labels, f"{name} has no label {matcher.name}, and so this never has a value")

    def _of_aggregate(self, part: promql.AggregateExpr) -> _Labels:
        inner, modifier = self.labels_of(part.expr), part.modifier
        if str(part.op) in _KEEP_LABELS:
            return inner
        if isinstance(part.param, promql.StringLiteral):  # count_values
            inner = replace(inner, known=inner.known | {part.param.val})
        if modifier is not None and modifier.type == promql.AggModifierType.Without:
            return replace(inner, known=inner.known - set(modifier.labels))
        kept = [] if modifier is None else modifier.labels
        for label in kept:
            self._note_lack(label, inner, f"{part.op} by ({label}): no series there has this label")
        made = {part.param.val} if isinstance(part.param, promql.StringLiteral) else set()
        return _Labels(frozenset({*kept, *made}), inner.is_ours)

    def _of_binary(self, part: promql.BinaryExpr) -> _Labels:
        sides = [self.labels_of(part.lhs), self.labels_of(part.rhs)]
        matching = part.modifier.matching if part.modifier else None
        is_on = matching is not None and matching.type == promql.LabelModifierType.Include
        if matching is not None and is_on and str(part.op) not in _MATCH_NOTHING_TOO:
            for label in matching.labels:
                for side in sides:
                    self._note_lack(label, side, f"on ({label}): no series of one side has this label")
        return sides[0] | sides[1]

    def _of_call(self, part: promql.Call) -> _Labels:
        labels: _Labels = reduce(lambda found, each: found | self.labels_of(each), part.args, _Labels())
        if part.func.name in _MAKE_LABELS and len(part.args) > 1 and isinstance(part.args[1], promql.StringLiteral):
            return replace(labels, known=labels.known | {part.args[1].val})
        return replace(labels, is_ours=False) if part.func.name in _LOSE_TRACK else labels

    def _note_lack(self, label: str, labels: _Labels, fault: str) -> None:
        meant = labels.lack(label)
        if meant is not None:
            self.faults.append(f"{fault}; did you mean {meant}?" if meant else fault)


def _values_of(metric: MetricDefinition, label: str) -> Iterable[str]:
    """What a label of a metric can be, as far as it is known; nothing where it is not, or is no label of it."""
    if label == "role":
        return tuple(role.value for role in metric.roles)
    return metric.tag_values if label == metric.tag else ()


def _meets(matcher: promql.Matcher, value: str) -> bool:
    """Whether a value meets a matcher; what denies always may be met."""
    if matcher.op == promql.MatchOp.Equal:
        return bool(matcher.value == value)
    if matcher.op != promql.MatchOp.Re:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.fullmatch(matcher.value, value) is not None
        except (
            re.error,
            Warning,
        ):  # what Prometheus' regular expressions have, and Python's have not or read otherwise
            return True
