"""The node types of a Ray cluster file: can they be had, and can a worker of hdrfleet run on them?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.accelerators import gpus_of_aws_instance, gpus_of_gcp_machine
from jobs.cluster.findings import Finding, at, listing, mapping, number
from jobs.cluster.market import is_spot

_TYPES = "available_node_types"
_START_RESOURCE = re.compile(r"--num-(cpus|gpus)[= ]\s*(\d+)")


def check_nodes(prepared: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with the node types of a prepared file, and the machines that are not known here."""
    types, head = prepared[_TYPES], prepared["head_node_type"]
    findings = [*_check_head(prepared, types[head])]
    notes: list[str] = []
    offered = 0.0
    for name, node_type in types.items():
        if name == head:
            continue
        findings += _check_limits(at(_TYPES, name), node_type, prepared["max_workers"])
        has = built_in_gpus(prepared["provider"]["type"], mapping(node_type["node_config"]))
        if has is None:
            notes.append(f"{at(_TYPES, name)}: how many GPUs this machine has is not known here")
        if node_type["min_workers"] > 0 and (has or is_spot(mapping(node_type["node_config"]))):
            place = at(_TYPES, name, "min_workers")
            said = f"{place}: is {node_type['min_workers']}: so many nodes are there"
            notes.append(f"{said}, and cost, whether or not there is work")
        faults = list(_check_gpus(at(_TYPES, name), mapping(node_type["resources"]), has, prepared))
        findings += faults
        asked = number(node_type["resources"].get("GPU"), has or 0)
        offered += 0 if faults or node_type["max_workers"] < 1 else asked
    if offered < 1:
        findings.append(
            Finding(
                _TYPES, "gpu_unsatisfiable", "no type can be started that offers a GPU, and each worker asks for one"
            )
        )
    return findings, notes


def built_in_gpus(provider: str, node_config: dict[str, Any]) -> int | None:
    """How many GPUs a node's machine has, 0 included; None where that is not known."""
    if provider == "aws":
        name = node_config.get("InstanceType")
        return gpus_of_aws_instance(name) if isinstance(name, str) else None
    if provider == "gcp":
        attached = sum(
            number(mapping(each).get("acceleratorCount")) for each in listing(node_config.get("guestAccelerators"))
        )
        name = node_config.get("machineType")
        built_in = gpus_of_gcp_machine(name) if isinstance(name, str) else None
        return int(attached) or built_in
    return None


def _check_head(prepared: dict[str, Any], head: dict[str, Any]) -> Iterator[Finding]:
    place = at(_TYPES, prepared["head_node_type"])
    resources = mapping(head["resources"])
    for resource, code in (("GPU", "head_gpu"), ("CPU", "head_cpu")):
        if resources.get(resource) != 0:
            said = (
                f"offers {resources[resource]} {resource}" if resource in resources else f"says nothing of {resource}"
            )
            yield Finding(
                at(place, "resources", resource),
                code,
                f"the head {said}; write {resource}: 0, so that no work is placed beside the control plane",
            )
    if head["max_workers"] > 0 or head["min_workers"] > 0:
        yield Finding(
            at(place, "max_workers"), "head_as_worker", "heads are started as workers, too; write max_workers: 0"
        )
    for index, command in enumerate(map(str, listing(prepared.get("head_start_ray_commands")))):
        for resource, value in _START_RESOURCE.findall(command):
            if int(value) > 0:
                yield Finding(
                    at("head_start_ray_commands", index),
                    f"head_{resource[:-1]}",
                    f"--num-{resource}={value} lets work be placed on the head; write --num-{resource}=0",
                )


def _check_limits(place: str, node_type: dict[str, Any], max_workers: int) -> Iterator[Finding]:
    lowest, highest = node_type["min_workers"], node_type["max_workers"]
    if highest > max_workers:
        yield Finding(
            at(place, "max_workers"),
            "max_workers",
            f"is {highest}, and the cluster's max_workers {max_workers}: it never gets there",
        )
    if lowest > highest:
        yield Finding(
            at(place, "min_workers"), "max_workers", f"is {lowest}, and max_workers of the same type {highest}"
        )
    if lowest < 0 or highest < 0:
        yield Finding(at(place, "max_workers"), "max_workers", "numbers of workers cannot be negative")


def _check_gpus(place: str, resources: dict[str, Any], has: int | None, prepared: dict[str, Any]) -> Iterator[Finding]:
    """A worker asks for one GPU and one CPU. `has` is what the machine has, where that is known."""
    gpus, cpus = resources.get("GPU"), resources.get("CPU")
    if gpus is None and has and prepared["provider"]["type"] != "aws":  # on AWS Ray looks machines up by itself
        yield Finding(
            at(place, "resources"), "gpu_unsatisfiable", f"the machine has {has} GPU and offers none; write GPU: {has}"
        )
    if gpus is not None and has is not None and gpus > has:
        yield Finding(
            at(place, "resources", "GPU"),
            "gpu_unsatisfiable",
            f"offers {gpus} GPU, and the machine has {has}: workers would wait for ever for the rest",
        )
    if gpus == 0 and has:
        yield Finding(
            at(place, "resources", "GPU"), "gpu_unsatisfiable", f"the machine has {has} GPU and offers none of it"
        )
    if gpus and cpus is not None and cpus < gpus:
        yield Finding(
            at(place, "resources", "CPU"),
            "cpu_unsatisfiable",
            f"offers {cpus} CPU for {gpus} GPU: each worker reserves one CPU beside its GPU",
        )
