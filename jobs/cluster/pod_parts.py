"""The parts of a pod that have to fit each other: volumes and their mounts, requests and limits."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, reach

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_UNITS = {
    **dict(zip("numkMGTPE", (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18), strict=True)),
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)},
}
_BY_KUBERAY = ("ray-logs", "shared-mem")
_LOGS = "/tmp/ray"  # noqa: S108 - Ray's own, in a container
_NEVER_WRITTEN = ("configMap", "secret", "projected", "downwardAPI", "image")


def quantity(value: Any) -> float | None:
    """A quantity of Kubernetes (`500m`, `16Gi`) as a number; None where it is none."""
    match = None if isinstance(value, bool) else _QUANTITY.fullmatch(str(value))
    if match is None:
        return None
    return float(match[1] + (match[2] or "")) * _UNITS.get(match[3] or "", 1.0)


def check_quantities(place: str, resources: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is no quantity, and requests above their limits, which the API server refuses."""
    limits = mapping(resources.get("limits"))
    for kind in ("limits", "requests"):
        for name, value in mapping(resources.get(kind)).items():
            where = at(place, kind, str(name))
            asked, limit = quantity(value), quantity(limits.get(name))
            if asked is None:
                yield Finding(where, "wrong_type", f"{value!r} is no quantity; write one such as 500m or 16Gi")
            elif limit is not None and asked > limit:
                yield Finding(
                    where, "above_limit", f"{value} is above the limit, {limits[name]}: Kubernetes refuses it"
                )


def check_mounts(place: str, mounts: Any, pod: dict[str, Any]) -> Iterator[Finding]:
    """Yield the mounts at `place` of volumes that the pod does not have."""
    names = [str(mapping(each).get("name")) for each in listing(pod.get("volumes"))]
    for index, mount in enumerate(map(mapping, listing(mounts))):
        name = str(mount.get("name"))
        if name not in names and name not in _BY_KUBERAY:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names) or 'none'}"
            yield Finding(at(place, index, "name"), "no_volume", f"the pod has no volume {name}{hint}")


def check_ray_folder(place: str, group: dict[str, Any], *, is_brought: bool) -> Iterator[Finding]:
    """Yield where Ray cannot write its sessions: the root is read-only, and nothing is mounted where they are.

    `group` is a head or a worker group at `place`, whose first container is Ray's. `is_brought`: KubeRay mounts the
    volume ray-logs at /tmp/ray, as it does for a head with an autoscaler.
    """
    pod = mapping(reach(group, "template", "spec"))
    container = next(map(mapping, listing(pod.get("containers"))), {})
    folder = _ray_folder(container, mapping(group.get("rayStartParams")))
    if reach(container, "securityContext", "readOnlyRootFilesystem") is not True or folder is None:
        return
    if is_brought and (folder == _LOGS or folder.startswith(f"{_LOGS}/")):
        return
    over = [each for each in map(mapping, listing(container.get("volumeMounts"))) if _holds(each, folder)]
    nearest = max(over, key=lambda each: len(str(each["mountPath"])), default=None)
    if nearest is None or _is_read_only(nearest, pod):
        said = "nothing is mounted there" if nearest is None else f"what is mounted at {nearest['mountPath']} is, too"
        yield Finding(
            at(place, "template", "spec", "containers", 0, "volumeMounts"),
            "no_volume",
            f"Ray writes to {folder}, the root is read-only, and {said}: Ray ends at once; mount an emptyDir at /tmp",
        )


def _ray_folder(container: dict[str, Any], start: dict[str, Any]) -> str | None:
    """Where Ray keeps its sessions; None where a variable from elsewhere says so."""
    if start.get("temp-dir"):
        return posixpath.normpath(str(start["temp-dir"]))
    said = {
        each.get("name"): each
        for each in map(mapping, listing(container.get("env")))
        if isinstance(each.get("name"), str)
    }
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in said:
            value = said[name].get("value")
            return posixpath.normpath(f"{value}/ray") if isinstance(value, str) and "$(" not in value else None
    return _LOGS


def _holds(mount: dict[str, Any], folder: str) -> bool:
    path = posixpath.normpath(str(mount.get("mountPath")))
    return folder == path or folder.startswith(f"{path.rstrip('/')}/")


def _is_read_only(mount: dict[str, Any], pod: dict[str, Any]) -> bool:
    volumes = [each for each in map(mapping, listing(pod.get("volumes"))) if each.get("name") == mount.get("name")]
    sources = [each for volume in volumes for each in volume.items()]
    is_kind = any(kind in _NEVER_WRITTEN or mapping(source).get("readOnly") is True for kind, source in sources)
    return mount.get("readOnly") is True or is_kind
