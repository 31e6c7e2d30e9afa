"""Machines that their cloud may take back, and whether something on them turns its notice into a drain."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, number, reach
from jobs.cluster.market import is_spot, selects_spot_labels

_AGENT = "hdrfleet node-agent"
_AT_ONCE = "--now"
_WORKER_COMMANDS = "worker_start_ray_commands"
_GRACE_PERIOD_S = 30.0  # Kubernetes' own
_COST = "a node that is taken away costs its leases' attempt"


def check_launcher(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a prepared cluster file for Ray's launcher has spot types whose nodes run no agent."""
    types = mapping(prepared.get("available_node_types"))
    spot = [name for name, each in types.items() if is_spot(mapping(mapping(each).get("node_config")))]
    commands = list(map(str, listing(prepared.get(_WORKER_COMMANDS))))
    for index, command in enumerate(commands):
        if _AT_ONCE in command.partition(_AGENT)[2].split():
            where = at(_WORKER_COMMANDS, index)
            yield Finding(where, "no_node_agent", f"has {_AT_ONCE}: each node is drained as soon as it is there")
    if spot and not any(_AGENT in command for command in commands):
        yield Finding(
            _WORKER_COMMANDS,
            "no_node_agent",
            f"start no `{_AGENT}`, and {', '.join(spot)} may be taken back: {_COST} (docs/operations.md)",
        )


def check_group(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the pods of a worker group that is on spot nodes do not drain, or have no time to."""
    pod = mapping(reach(group, "template", "spec"))
    if not selects_spot_labels(mapping(pod.get("nodeSelector"))):
        return
    where = at(place, "template", "spec")
    containers = [mapping(each) for each in listing(pod.get("containers"))]
    command = listing(reach(containers[0] if containers else {}, "lifecycle", "preStop", "exec", "command"))
    words = " ".join(map(str, command)).split()
    if _AGENT not in " ".join(words) or _AT_ONCE not in words:
        yield Finding(
            at(where, "containers", 0, "lifecycle", "preStop"),
            "no_node_agent",
            f"does not run `{_AGENT} {_AT_ONCE}`, and the group's nodes may be taken back: {_COST}",
        )
        return
    has_s, wants_s = number(pod.get("terminationGracePeriodSeconds"), _GRACE_PERIOD_S), _grace_s(command)
    if wants_s >= has_s:
        yield Finding(
            at(where, "terminationGracePeriodSeconds"),
            "no_node_agent",
            f"is {has_s:g} s, and the agent may take {wants_s:g}: it is killed before Ray is told to stop",
        )


def _grace_s(command: list[Any]) -> float:
    """The agent's --grace in seconds; 0 where the command does not say it in a way that is read here."""
    words = " ".join(map(str, command)).replace("=", " ").split()
    after = dict(pairwise(words)).get("--grace", "")
    return number(after[:-1]) * {"s": 1, "m": 60, "h": 3600}.get(after[-1:], 0)
