"""The service accounts of a Ray cluster's pods, and whether the manifests that lie beside it make them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, reach
from jobs.cluster.network_reach import ray_groups

_ALWAYS_THERE = "default"


def check_accounts(value: dict[str, Any], beside: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield the accounts of a RayCluster or a RayJob that no file beside it makes, where files there make any."""
    names = {str(reach(each, "metadata", "name")) for each in beside if each.get("kind") == "ServiceAccount"}
    for place, template in _templates(value):
        name = reach(template, "spec", "serviceAccountName")
        if names and isinstance(name, str) and name not in {*names, _ALWAYS_THERE}:
            near = difflib.get_close_matches(name, sorted(names), 1)
            hint = f"did you mean {near[0]}?" if near else f"they make {', '.join(sorted(names))}"
            yield Finding(
                at(place, "spec", "serviceAccountName"),
                "no_account",
                f"no file beside this one makes {name}, without which no pod is made; {hint}",
            )


def _templates(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if value.get("kind") == "RayJob":
        yield "spec.submitterPodTemplate", reach(value, "spec", "submitterPodTemplate")
    for place, group, _ in ray_groups(value):
        yield at(place, "template"), group.get("template")
