"""Did the kernel's memory killer end a worker? It leaves a count in the memory group of the process that it took.

Nothing else tells: to Ray, as to a parent on another machine, every process that vanished looks alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import WorkerCrashError, WorkerOutOfMemoryError


def count_oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this process's memory group the kernel has killed for memory; None where none says so.

    Reads `oom_kill` of memory.events (cgroup v2) or of memory.oom_control (v1, where the kernel is not too old). `root`
    is where /proc and /sys are looked for.
    """
    for path in _event_files(root):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
            return int(dict(line.split() for line in lines)["oom_kill"])
        except (OSError, ValueError, KeyError):
            continue
    return None


def vanished_code(kills_before: int | None, kills_after: int | None) -> str:
    """The code of the QuarantinedError for an image whose worker vanished without a word.

    `kills_before` is the count of its group at its last sign of life, `kills_after` the one after its death. Only a
    rise is evidence: `worker_crash` is what is said where nothing is known.
    """
    if kills_before is None or kills_after is None or kills_after <= kills_before:
        return WorkerCrashError.code
    return WorkerOutOfMemoryError.code


def _event_files(root: Path) -> Iterator[Path]:
    """Where the group of this process counts, or what a container sees of it: its files lie at the mount point."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.events"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.oom_control"
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            yield folder / name
