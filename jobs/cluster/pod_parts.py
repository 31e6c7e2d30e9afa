"""The parts of a pod that have to fit each other: volumes and their mounts, requests and limits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")
_UNITS = {
    **dict(zip("numkMGTPE", (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18), strict=True)),
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)},
}
_BY_KUBERAY = ("ray-logs", "shared-mem")


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
