"""The command of a RayJob: whether a conversion in a new cluster finds workers, or asks for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, listing, mapping, number, reach
from jobs.cluster.pods import gpus_of

_CONVERTS = re.compile(r"\bhdrfleet\s+convert\b")
_MAX_WORKERS = re.compile(r"(?<!\S)--max-workers\b")
_WORKERS = re.compile(r"(?<!\S)--workers\b")
_WITHOUT_RAY = re.compile(r"--executor[=\s]+['\"]?local\b")
_WANTS_GPU = re.compile(r"--device[=\s]+['\"]?cuda|--workers-per-gpu\b|--accelerator-type\b")
_MODEL = re.compile(r"--accelerator-type[=\s]+['\"]?([\w.-]+)")
_LABEL = re.compile(r"(?<!\S)--label[=\s]+['\"]?([^\s='\"]+)=([^\s'\"]+)")
_INSTEAD = "write --max-workers, which has the autoscaler bring them"


def check_entrypoint(spec: dict[str, Any]) -> Iterator[Finding]:
    """Yield why the conversion of a RayJob's spec would not start: it takes what is up unless it has --max-workers.

    A new cluster has the workers that its groups begin with; KubeRay waits for those. Unasked, no more come.
    """
    command = str(spec.get("entrypoint", ""))
    if not is_elastic(spec) or not _CONVERTS.search(command) or _MAX_WORKERS.search(command):
        return
    if not _WORKERS.search(command):
        yield Finding(
            "spec.entrypoint",
            "not_elastic",
            "has no --max-workers: the job asks the autoscaler for nothing, and a new cluster has no workers",
        )
    elif not _WITHOUT_RAY.search(command) and not any(_fits(each, command) for each in _groups(spec)):
        yield Finding(
            "spec.entrypoint",
            "not_elastic",
            f"has --workers, and no group begins with a worker that the job can use: each try ends at once; {_INSTEAD}",
        )


def lacks_device(spec: dict[str, Any]) -> bool:
    """Whether a conversion in a new cluster leaves the choice of the device to its driver."""
    command = str(spec.get("entrypoint", ""))
    is_new = "rayClusterSpec" in spec and is_elastic(spec)
    return is_new and _CONVERTS.search(command) is not None and "--device" not in command


def is_elastic(spec: dict[str, Any]) -> bool:
    """Whether a group of the cluster that a RayJob's spec brings may have no workers."""
    return any(number(each.get("minReplicas")) < 1 for each in _groups(spec))


def _groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [mapping(each) for each in listing(reach(spec, "rayClusterSpec", "workerGroupSpecs"))]


def _fits(group: dict[str, Any], command: str) -> bool:
    """Whether a group begins with a worker that the command's options allow."""
    lowest = number(group.get("minReplicas"))
    begins_with = min(max(number(group.get("replicas"), lowest), lowest), number(group.get("maxReplicas"), lowest))
    if begins_with < 1 or group.get("suspend") is True:
        return False
    if _WANTS_GPU.search(command) and gpus_of(mapping(reach(group, "template", "spec"))) < 1:
        return False
    if (model := _MODEL.search(command)) and f"accelerator_type:{model[1]}" not in mapping(group.get("resources")):
        return False
    labels = mapping(group.get("labels"))
    return all(str(labels.get(key)) == value for key, value in _LABEL.findall(command))
