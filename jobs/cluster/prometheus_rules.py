"""Prometheus' rule files: names, required fields, expressions, and whether hdrfleet has the metrics in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster import prometheus_keys as known
from jobs.cluster.findings import Finding, at, listing, mapping
from jobs.cluster.prometheus import check_duration
from jobs.cluster.promql import PromqlError, metrics_of, parse_expression
from jobs.cluster.promql_labels import check_labels, metrics_of_hdrfleet
from jobs.cluster.ray_yaml import unknown_keys
from jobs.cluster.scrape_labels import labels_added

_FILE_NAME = re.compile(r"(?:[\w.-]*[_.-])?rules\.ya?ml")
_METRIC = re.compile(r"[A-Za-z_:][\w:]*")
_LABEL = re.compile(r"[A-Za-z_]\w*")
_OURS = re.compile(r"(?:ray_)?hdrfleet_")  # Ray puts its own name before that of each metric


def is_rule_file(document: Any, path: Path) -> bool:
    """Whether a document is a file of rules: by its groups, or, where keys are misspelt, by its file's name."""
    keys = mapping(document).keys()
    if "apiVersion" in keys:
        return False
    has_rules = any("rules" in mapping(each) for each in listing(mapping(document).get("groups")))
    return has_rules or bool(keys and _FILE_NAME.fullmatch(path.name))


def check_rules(document: dict[str, Any], folder: Path | None = None) -> Iterator[Finding]:
    """Yield what is wrong with the groups of a rule file. `folder` is where Prometheus' configuration may lie."""
    added = labels_added(folder) if folder else None
    yield from unknown_keys("", document, ("groups",))
    groups = listing(document.get("groups"))
    if not groups:
        yield Finding("groups", "missing_key", "there is no group of rules")
    names: set[str] = set()
    for index, group in enumerate(map(mapping, groups)):
        place, name = at("groups", index), str(group.get("name"))
        yield from _check_group(place, group, added)
        if name in names:
            yield Finding(at(place, "name"), "not_unique", f"{name} is another group's, too; Prometheus refuses that")
        names.add(name)


def _check_group(place: str, group: dict[str, Any], added: frozenset[str] | None) -> Iterator[Finding]:
    yield from unknown_keys(place, group, known.GROUP)
    if not group.get("name"):
        yield Finding(at(place, "name"), "missing_key", "Prometheus needs it")
    for key in ("interval", "query_offset"):
        if key in group:
            yield from check_duration(at(place, key), group[key])
    if not listing(group.get("rules")):
        yield Finding(at(place, "rules"), "missing_key", "holds no rule")
    for index, rule in enumerate(listing(group.get("rules"))):
        yield from _check_rule(at(place, "rules", index), mapping(rule), added)


def _check_rule(place: str, rule: dict[str, Any], added: frozenset[str] | None) -> Iterator[Finding]:
    is_alert = "record" not in rule
    if is_alert and "alert" not in rule:
        yield Finding(place, "missing_key", "has neither alert nor record, and needs one of them")
    yield from unknown_keys(place, rule, known.ALERT if is_alert else known.RECORDING)
    if not is_alert and not _METRIC.fullmatch(str(rule["record"])):
        yield Finding(at(place, "record"), "unknown_value", f"{rule['record']!r} is no name of a metric")
    for key in ("for", "keep_firing_for"):
        if key in rule:
            yield from check_duration(at(place, key), rule[key])
    yield from _check_texts(place, rule)
    if not rule.get("expr"):
        yield Finding(at(place, "expr"), "missing_key", "Prometheus needs it")
    else:
        yield from check_expression(at(place, "expr"), str(rule["expr"]), added)


def _check_texts(place: str, rule: dict[str, Any]) -> Iterator[Finding]:
    for kind in ("labels", "annotations"):
        for name, text in mapping(rule.get(kind)).items():
            if not _LABEL.fullmatch(str(name)):
                yield Finding(at(place, kind, str(name)), "unknown_value", "is no name of a label")
            if not isinstance(text, str):
                yield Finding(at(place, kind, str(name)), "wrong_type", "must be text; quote it")
            elif text.count("{{") != text.count("}}"):
                yield Finding(
                    at(place, kind, str(name)), "promql", "opens a template that it does not close, or reverse"
                )


def check_expression(place: str, expression: str, added: frozenset[str] | None = None) -> Iterator[Finding]:
    """Yield why Prometheus would refuse an expression, or which metric, label or value of hdrfleet in it there is not.

    `added` are the labels that Prometheus adds, None where that is not known.
    """
    try:
        parsed = parse_expression(expression)
    except PromqlError as error:
        yield Finding(place, "promql", f"{error}; Prometheus refuses the expression")
        return
    ours = metrics_of_hdrfleet()
    for name in sorted(metrics_of(parsed)):
        if _OURS.match(name) and name not in ours:
            near = difflib.get_close_matches(name, ours, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Finding(place, "promql", f"hdrfleet has no metric {name}, and so this never has a value{hint}")
    for fault in check_labels(parsed, added):
        yield Finding(place, "promql", fault)
