"""Pods, wherever a manifest describes them: who they run as, what of their node they see, what they may use up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, number, one_of, reach
from jobs.cluster.images import check_image
from jobs.cluster.pod_parts import check_mounts, check_quantities

GPU = "nvidia.com/gpu"
_SECCOMP = frozenset({"RuntimeDefault", "Localhost"})
_HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")


def check_pod(place: str, pod: dict[str, Any], *, needs_api: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with the pod spec at `place`. `needs_api`: it talks to Kubernetes' API server."""
    for name in _HOST_NAMESPACES:
        if pod.get(name):
            yield Finding(at(place, name), "host_access", "shares the node's own; hdrfleet needs no such right")
    for index, volume in enumerate(listing(pod.get("volumes"))):
        if "hostPath" in mapping(volume):
            yield Finding(at(place, "volumes", index, "hostPath"), "host_access", "mounts a folder of the node")
    if not needs_api and pod.get("automountServiceAccountToken") is not False:
        yield Finding(
            at(place, "automountServiceAccountToken"),
            "api_token",
            "is not false: the pod gets a key to Kubernetes' API for nothing",
        )
    containers = listing(pod.get("containers"))
    if not containers:
        yield Finding(at(place, "containers"), "missing_key", "a pod needs a container")
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(listing(pod.get(kind))):
            where = at(place, kind, index)
            yield from check_container(where, mapping(container), mapping(pod.get("securityContext")))
            yield from check_image(at(where, "image"), mapping(container).get("image"))
            yield from check_mounts(at(where, "volumeMounts"), mapping(container).get("volumeMounts"), pod)


def check_container(place: str, container: dict[str, Any], pod_security: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with one container; what it does not say of itself, its pod says."""
    yield from check_security(at(place, "securityContext"), mapping(container.get("securityContext")), pod_security)
    yield from check_resources(at(place, "resources"), mapping(container.get("resources")))
    for index, port in enumerate(listing(container.get("ports"))):
        if "hostPort" in mapping(port):
            yield Finding(at(place, "ports", index, "hostPort"), "public_port", "opens the port on the node itself")


def check_security(place: str, own: dict[str, Any], pod: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a container's security context gives more than hdrfleet needs, which is nothing."""
    user = own.get("runAsUser", pod.get("runAsUser"))
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True or user == 0:
        said = "the user is 0" if user == 0 else "runAsNonRoot is not true"
        yield Finding(at(place, "runAsNonRoot"), "root_user", f"{said}, here or for the whole pod: it may run as root")
    if own.get("privileged"):
        yield Finding(
            at(place, "privileged"), "privileged", "gives the container its node; hdrfleet needs no such right"
        )
    if own.get("allowPrivilegeEscalation") is not False:
        yield Finding(
            at(place, "allowPrivilegeEscalation"), "privileged", "is not false: set-uid programs give more rights"
        )
    if "ALL" not in listing(reach(own, "capabilities", "drop")):
        yield Finding(
            at(place, "capabilities", "drop"), "privileged", "does not hold ALL: the container keeps rights of root"
        )
    if own.get("readOnlyRootFilesystem") is not True:
        yield Finding(
            at(place, "readOnlyRootFilesystem"),
            "writable_root",
            "is not true: who gets in can change the programs; mount an emptyDir where files are written",
        )
    profile = mapping(own.get("seccompProfile", pod.get("seccompProfile"))).get("type")
    if not one_of(profile, _SECCOMP):
        yield Finding(
            at(place, "seccompProfile"),
            "no_seccomp",
            "is not RuntimeDefault, here or for the whole pod: every system call of the node's kernel is open",
        )


def check_resources(place: str, resources: dict[str, Any]) -> Iterator[Finding]:
    """Yield limits that are missing, and requests for GPUs that no scheduler can satisfy."""
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for name in ("cpu", "memory"):
        if name not in limits:
            yield Finding(at(place, "limits", name), "no_limit", "is not set: the container may use up its node")
    yield from check_quantities(place, resources)
    if GPU in requests and number(requests[GPU], -1) != number(limits.get(GPU), -1):
        yield Finding(
            at(place, "requests", GPU),
            "gpu_unsatisfiable",
            "differs from the limit, or has none: Kubernetes refuses that",
        )
    if GPU in limits and number(limits[GPU], 0.5) % 1 != 0:
        yield Finding(at(place, "limits", GPU), "gpu_unsatisfiable", f"{limits[GPU]!r} is no whole number of GPUs")


def gpus_of(pod: dict[str, Any]) -> float:
    """The GPUs that a pod's first container, the one that runs Ray, is limited to."""
    containers = listing(pod.get("containers"))
    return number(reach(containers[0], "resources", "limits", GPU)) if containers else 0.0
