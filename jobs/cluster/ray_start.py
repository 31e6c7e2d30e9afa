"""Whether the commands of a cluster file start Ray, and the nodes find each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, reach

_START = re.compile(r"\bray\s+start\b([^;&|]*)")
_BLOCKS = re.compile(r"\bray\s+start\b(?:[^;&|]|\d>&\d)*\s--block\b(?:[^;&|]|\d>&\d)*(?:$|[;|]|&&)")
_HEAD_PORT = re.compile(r"--port[= ]\s*['\"]?(\d+)")
_ADDRESS = re.compile(r"--address[= ]\s*['\"]?([^\s'\"]+)")
_HEAD = re.compile(r"\$\{?RAY_HEAD_IP\}?")
_DEFAULT_PORT = "6379"
_AGENT_CLOUD = re.compile(r"\bhdrfleet\s+node-agent\b[^;&|]*--cloud[= ]\s*(\w+)")
_HEAD_COMMANDS, _WORKER_COMMANDS = "head_start_ray_commands", "worker_start_ray_commands"


def check_starts(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield where nodes of a prepared cluster file come up and are never part of the cluster."""
    heads, workers = _starts(prepared, _HEAD_COMMANDS), _starts(prepared, _WORKER_COMMANDS)
    for name, starts in ((_HEAD_COMMANDS, heads), (_WORKER_COMMANDS, workers)):
        if not starts:
            yield Finding(name, "no_join", "has no `ray start`: the node costs and is not part of the cluster")
        yield from _check_returns(name, prepared)
    if heads and not any("--head" in options.split() for _, options in heads):
        yield Finding(heads[0][0], "no_join", "ray start has no --head: there is no cluster to join")
    ports = {port for _, options in heads for port in _HEAD_PORT.findall(options)} or {_DEFAULT_PORT}
    for place, options in workers:
        yield from _check_worker(place, options, ports)
    kind = reach(prepared, "provider", "type")
    for index, command in enumerate(map(str, listing(prepared.get(_WORKER_COMMANDS)))):
        for cloud in _AGENT_CLOUD.findall(command):
            if kind in {"aws", "gcp"} and cloud != kind:
                yield Finding(
                    at(_WORKER_COMMANDS, index),
                    "no_node_agent",
                    f"listens for notices of {cloud}, and the nodes are of {kind}; write --cloud {kind}",
                )


def _check_returns(name: str, prepared: dict[str, Any]) -> Iterator[Finding]:
    """The launcher runs one command after the other, and the node is ready when the last one has ended."""
    for index, command in enumerate(map(str, listing(prepared.get(name)))):
        if _BLOCKS.search(command):
            yield Finding(
                at(name, index),
                "never_ready",
                "ray start has --block and never ends: the launcher waits for it, and what follows never runs; drop it",
            )


def _check_worker(place: str, options: str, ports: set[str]) -> Iterator[Finding]:
    if "--head" in options.split():
        yield Finding(place, "no_join", "ray start has --head: each worker would be a cluster of its own")
        return
    address = _ADDRESS.search(options)
    if address is None or not _HEAD.search(address[1]):
        yield Finding(place, "no_join", "ray start does not join the head; write --address=$RAY_HEAD_IP:6379")
        return
    port = address[1].rpartition(":")[2] if ":" in address[1] else _DEFAULT_PORT
    if port.isdigit() and port not in ports:
        yield Finding(
            place,
            "no_join",
            f"joins on port {port}, and the head listens on {', '.join(sorted(ports))}",
        )


def _starts(prepared: dict[str, Any], name: str) -> list[tuple[str, str]]:
    commands = enumerate(map(str, listing(prepared.get(name))))
    return [(at(name, index), options) for index, command in commands for options in _START.findall(command)]
