"""Did the kernel's memory killer end a worker? It leaves a count in the memory group of the process that it took.

Nothing else tells: to Ray, as to a parent on another machine, every process that vanished looks alike.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.cgroups import control_groups
from pipeline.errors import WorkerCrashError, WorkerOutOfMemoryError


def count_oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this process's memory group the kernel has killed for memory; None where none says so.

    Reads `oom_kill` of memory.events (cgroup v2) or of memory.oom_control (v1, where the kernel is not too old). `root`
    is where /proc and /sys are looked for.
    """
    # The group of this process comes first, and then what a container sees of it.
    for folder, is_v2 in control_groups("memory", root):
        path = folder / ("memory.events" if is_v2 else "memory.oom_control")
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
