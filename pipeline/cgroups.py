"""The control groups that bound this process, of the kernel's second version or its first; only Linux has any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class ControlGroup(NamedTuple):
    """The folder of one group, and whether its files are those of version 2."""

    folder: Path
    is_v2: bool


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[ControlGroup]:
    """Yield the groups of this process that `controller` (`memory`, `cpu`) may bound: its own, then those above it.

    The last one of each version is the mount point, where a container finds its own group's files although /proc names
    the host's path. A folder need not be there, nor have the controller's files. `root` is where /proc and /sys are
    looked for.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In version 1 each controller has a mount point of its own name, and those that share a tree link to it.
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            yield ControlGroup(folder, is_v2=not controllers)


def usable_cores(root: Path = Path("/")) -> float:
    """How many cores this process may keep busy: those that it may run on, and what its cpu groups let it have of them.

    `root` is where /proc and /sys are looked for.
    """
    quotas = (_quota_cores(group) for group in control_groups("cpu", root))
    return min((float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota is not None)))


def _quota_cores(group: ControlGroup) -> float | None:
    """The group's limit in cores; None where it has none."""
    try:
        if group.is_v2:
            quota, period = (group.folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group.folder / name).read_text(encoding="ascii") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no cpu group, or "max"
        return None
    return cores if cores > 0 else None  # version 1 says -1 for none
