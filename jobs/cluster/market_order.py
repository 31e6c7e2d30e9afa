"""Which of two groups of nodes with the same GPUs is asked for first: spot, by `priority`, where the file says one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobs.cluster.findings import Finding, at, mapping, number, reach
from jobs.cluster.market import is_spot, selects_spot

_PREFIX, _LABEL = "accelerator_type:", "ray.io/accelerator-type"


@dataclass(frozen=True, slots=True)
class _Group:
    place: str
    accelerator: str
    is_spot: bool
    priority: float


def check_launcher_order(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield the on-demand types of a prepared cluster file that Ray prefers to spot machines with the same GPUs."""
    groups = []
    for name, node_type in mapping(prepared.get("available_node_types")).items():
        if name != prepared.get("head_node_type"):
            node = mapping(mapping(node_type).get("node_config"))
            groups += _group(at("available_node_types", name), mapping(node_type), is_spot(node))
    yield from _check(groups)


def check_group_order(place: str, groups: list[Any]) -> Iterator[Finding]:
    """Yield the worker groups of KubeRay, listed at `place`, that Ray prefers to groups on spot nodes, likewise."""
    found = []
    for index, group in enumerate(map(mapping, groups)):
        is_of_spot = selects_spot(mapping(reach(group, "template", "spec")))
        if is_of_spot is not None:
            found += _group(at(place, index), group, is_of_spot)
    yield from _check(found)


def _group(place: str, group: dict[str, Any], is_of_spot: bool) -> list[_Group]:
    """The group, if it says which GPUs it has."""
    models = [str(key).removeprefix(_PREFIX) for key in mapping(group.get("resources")) if str(key).startswith(_PREFIX)]
    model = models[0] if models else reach(group, "labels", _LABEL)
    return [_Group(place, str(model), is_of_spot, number(group.get("priority")))] if model else []


def _check(groups: list[_Group]) -> Iterator[Finding]:
    for group in groups:
        later = [
            each
            for each in groups
            if each.is_spot and each.accelerator == group.accelerator and each.priority < group.priority
        ]
        if later and not group.is_spot:
            yield Finding(
                at(group.place, "priority"),
                "market",
                f"is {group.priority:g}, above that of {later[0].place}, {later[0].priority:g}: Ray asks for machines "
                "on demand before spot ones with the same GPUs",
            )
