"""Relabelling in Prometheus' configuration: keys, actions, and rules that take hdrfleet's metrics away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster import prometheus_keys as known
from jobs.cluster.findings import Finding, at, listing, mapping, one_of
from jobs.cluster.promql_labels import metrics_of_hdrfleet
from jobs.cluster.ray_yaml import unknown_keys

LIST_OF_RAY = "prom_metrics_service_discovery.json"  # which Ray writes of its nodes
_NAME = "__name__"
_OF_METRICS = "metric_relabel_configs"


def check_relabelling(place: str, scrape: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the relabelling of the scrape configuration at `place`."""
    for name in ("relabel_configs", _OF_METRICS):
        for index, rule in enumerate(map(mapping, listing(scrape.get(name)))):
            where = at(place, name, index)
            yield from unknown_keys(where, rule, known.RELABEL)
            if not one_of(rule.get("action", "replace"), known.RELABEL_ACTIONS):
                yield Finding(at(where, "action"), "unknown_value", f"there is no {rule['action']!r}")
            elif name == _OF_METRICS and (lost := _lost(rule, is_of_ray=_is_of_ray(scrape))):
                more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                said = f"takes {lost[0]}{more} away, and so rules and panels of hdrfleet never have a value"
                yield Finding(at(where, "regex" if "regex" in rule else "action"), "promql", said)


def _lost(rule: dict[str, Any], *, is_of_ray: bool) -> list[str]:
    """The metrics of hdrfleet that a rule about names drops, does not keep, or gives another name."""
    if listing(rule.get("source_labels")) != [_NAME]:
        return []
    try:
        pattern = re.compile(str(rule.get("regex", "(.*)")))
    except re.error:  # what Prometheus' regular expressions have, and Python's have not
        return []
    names, action = metrics_of_hdrfleet(), rule.get("action", "replace")
    if action == "keep":  # for other targets it is meant
        return [name for name in names if not pattern.fullmatch(name)] if is_of_ray else []
    takes = action == "drop" or (action == "replace" and rule.get("target_label") == _NAME)
    return [name for name in names if takes and pattern.fullmatch(name)]


def _is_of_ray(scrape: dict[str, Any]) -> bool:
    files = [name for each in listing(scrape.get("file_sd_configs")) for name in listing(mapping(each).get("files"))]
    return any(Path(str(name)).name == LIST_OF_RAY for name in files)
