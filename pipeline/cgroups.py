"""The control groups that bound this process, of the kernel's second version or its first; only Linux has any."""

from __future__ import annotations

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
