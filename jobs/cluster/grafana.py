"""Grafana's dashboards: panels with queries, a data source that is there, expressions that Prometheus takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, one_of, reach
from jobs.cluster.prometheus_rules import check_expression
from jobs.cluster.promql_labels import ANYTHING
from jobs.cluster.scrape_labels import labels_added

_TELLING = frozenset({"panels", "templating", "schemaVersion", "timepicker", "annotations"})
_WITHOUT_QUERIES = frozenset({"row", "text", "news", "dashlist", "alertlist", "welcome"})
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")
_BUILT_IN = re.compile(r"__\w+")
_PROMETHEUS = "prometheus"


def looks_like_dashboard(path: Path) -> bool:
    """Whether a file's name says that it is a dashboard: in a folder other JSON files are somebody else's."""
    return path.suffix == ".json" and "dashboard" in path.name


def is_dashboard(document: Any, path: Path) -> bool:
    """Whether a document is a dashboard as Grafana exports it, or lies where one should be."""
    keys = mapping(document).keys()
    return looks_like_dashboard(path) or (path.suffix == ".json" and len(keys & _TELLING) >= 2)


def check_dashboard(document: Any, folder: Path | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a dashboard; its queries are checked where they are for Prometheus.

    `folder` is where Prometheus' configuration may lie, which says what labels there are.
    """
    dashboard, added = mapping(document), labels_added(folder) if folder else None
    for key in ("title", "schemaVersion"):
        if not dashboard.get(key):
            yield Finding(key, "missing_key", "Grafana needs it")
    panels = [each for each in _panels(dashboard) if not one_of(each[1].get("type"), _WITHOUT_QUERIES)]
    if not panels:
        yield Finding("panels", "missing_key", "holds no panel with a query")
    variables = {
        str(mapping(each).get("name")): mapping(each) for each in listing(reach(dashboard, "templating", "list"))
    }
    for name, variable in variables.items():
        if variable.get("type") == "query":
            place = at("templating", "list", list(variables).index(name))
            yield from _check_source(place, variable.get("datasource"), variables)
    ids: set[Any] = set()
    for place, panel in panels:
        if not isinstance(panel.get("type"), str) or not panel["type"]:
            yield Finding(at(place, "type"), "missing_key", "Grafana needs it")
        if isinstance(panel.get("id"), int) and panel["id"] in ids:
            yield Finding(at(place, "id"), "not_unique", f"{panel['id']} is another panel's, too")
        ids.add(panel.get("id") if isinstance(panel.get("id"), int) else None)
        yield from _check_panel(place, panel, variables, added)


def _panels(parent: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All panels, those within rows too, with their places."""
    for index, panel in enumerate(map(mapping, listing(parent.get("panels")))):
        where = at(place, "panels", index)
        yield where, panel
        yield from _panels(panel, where)


def _check_panel(
    place: str, panel: dict[str, Any], variables: dict[str, Any], added: frozenset[str] | None
) -> Iterator[Finding]:
    targets = listing(panel.get("targets"))
    if not targets:
        yield Finding(at(place, "targets"), "missing_key", "asks for nothing")
    for index, target in enumerate(map(mapping, targets)):
        where = at(place, "targets", index)
        source = target.get("datasource", panel.get("datasource"))
        yield from _check_source(place if "datasource" not in target else where, source, variables)
        if _is_prometheus(source, variables):
            expression = target.get("expr")
            if not isinstance(expression, str) or not expression:
                yield Finding(at(where, "expr"), "missing_key", "asks for nothing")
                continue
            yield from _check_variables(at(where, "expr"), expression, variables)
            yield from check_expression(at(where, "expr"), _filled(expression), added)


def _check_source(place: str, source: Any, variables: dict[str, Any]) -> Iterator[Finding]:
    """The dashboard is to work in another Grafana: a source by a variable, or the default one, not one's own uid."""
    where = at(place, "datasource")
    uid = source if isinstance(source, str) else mapping(source).get("uid")
    if not source:
        yield Finding(where, "missing_key", "is not set: the query goes to whatever source Grafana has as its default")
    elif not uid:
        yield Finding(at(where, "uid"), "missing_key", "names no data source")
    else:
        yield from _check_variables(where if isinstance(source, str) else at(where, "uid"), str(uid), variables)


def _check_variables(place: str, text: str, variables: dict[str, Any]) -> Iterator[Finding]:
    for braced, plain in _VARIABLE.findall(text):
        name = braced or plain
        if not _BUILT_IN.fullmatch(name) and name not in variables:
            yield Finding(place, "unknown_variable", f"${name} is no variable of the dashboard (templating.list)")


def _is_prometheus(source: Any, variables: dict[str, Any]) -> bool:
    kind = mapping(source).get("type")
    if kind is None:
        uid = source if isinstance(source, str) else mapping(source).get("uid")
        found = _VARIABLE.fullmatch(str(uid))
        kind = mapping(variables.get(found[1] or found[2])).get("query") if found else None
    return kind in (_PROMETHEUS, None)


def _filled(expression: str) -> str:
    """The expression with something for Grafana's variables: a duration for its own, else any name."""
    return _VARIABLE.sub(lambda match: "5m" if _BUILT_IN.fullmatch(match[1] or match[2]) else ANYTHING, expression)
