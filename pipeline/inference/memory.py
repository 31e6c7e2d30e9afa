"""How much memory inference may use, what the network needs, and how freed memory is kept. No torch here.

The budget follows from the cgroup's limit (v2, else v1) and the system's available memory; `bench/inference.py`
measures the needs.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.cgroups import control_groups

MIB = 2**20

# Peak bytes per computed pixel of the published width (64), measured with bench/inference.py --memory (PyTorch 2.13).
# CPU: growth of the resident set. One size alone took 1,250 (2,000 with freed memory retained), a mix of sizes 1,560
# (3,780 retained, through fragmentation); retained is how workers run.
CPU_BYTES_PER_PIXEL = 4096
# CUDA: live tensors at the peak are 1,171 in fp32 and 605 with a 16-bit trunk, counted without a card
# (tests/unit/inference/test_fake_cuda.py); half as much again for the caching allocator and cuDNN's workspaces.
# Where that is too little, the engine halves the tile.
CUDA_BYTES_PER_PIXEL = {"fp32": 1792, "bf16": 1024, "fp16": 1024}

# The rest is for decoded and encoded images in flight, the result, and whatever else runs there.
CPU_BUDGET_FRACTION = 0.5
CUDA_BUDGET_FRACTION = 0.85
# All decoder children of a worker together: what they may take, which is several times what they do take.
DECODERS_FRACTION = 0.25
# What waits for the encode threads, and what these work on, where it is more than a configuration's `queue_bytes`.
OUTPUT_FRACTION = 0.25

# For the environment of a process that starts, for example Ray's runtime_env: glibc then keeps freed memory instead of
# returning it and faulting it in again for every tensor. One arena, because threads' own arenas cannot hold blocks
# above 64 MiB and would map each one afresh.
MALLOC_ENV: dict[str, str] = {
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_ARENA_MAX": "1",
}

# Of a memory group: its limit, what it uses, and the field of memory.stat that says what of it is reclaimable cache.
_V2_FILES = ("memory.max", "memory.current", "inactive_file")
_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")

# mallopt(3) parameters and values of glibc's malloc.h. M_MMAP_MAX stands in for the threshold, which is an int here.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def retain_freed_memory() -> bool:
    """Make this process's malloc keep freed memory, as MALLOC_ENV does; True when it took effect (glibc only).

    Call it early: threads that already have an arena of their own keep it, and blocks above 64 MiB that they allocate
    are still mapped afresh.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1))
    results = [mallopt(parameter, value) for parameter, value in settings]
    return all(result == 1 for result in results)


def cpu_budget_bytes(num_workers: int = 1, *, root: Path = Path("/")) -> int:
    """Return the bytes that inference may use in one of `num_workers` processes of this node.

    Half of what is available: the least of the system's available memory and what is left below each cgroup limit.
    `root` is where /proc and /sys are looked for.
    """
    return int(_available_bytes(root) * CPU_BUDGET_FRACTION) // num_workers


def decoders_budget_bytes(num_workers: int = 1, *, root: Path = Path("/")) -> int:
    """Return the bytes that the decoder's child processes of one of `num_workers` workers of this node may take.

    A quarter of what is available, as for `cpu_budget_bytes`.
    """
    return int(_available_bytes(root) * DECODERS_FRACTION) // num_workers


def output_budget_bytes(
    queue_bytes: int, num_encode_threads: int, num_workers: int = 1, *, root: Path = Path("/")
) -> int:
    """Return the bytes of images between network and store in one of `num_workers` workers of this node.

    `queue_bytes` for every two encode threads, so that large images keep them all busy, but no more than a quarter of
    what is available, as for `cpu_budget_bytes`; `queue_bytes` at least, as it was given.
    """
    share = int(_available_bytes(root) * OUTPUT_FRACTION) // num_workers
    return max(queue_bytes, min(queue_bytes * num_encode_threads // 2, share))


def _available_bytes(root: Path) -> int:
    available: int = psutil.virtual_memory().available
    return min((available, *cgroup_headrooms(root)))


def cuda_budget_bytes(free_bytes: int, num_workers: int = 1) -> int:
    """Return the bytes of a card's free memory that inference may use in one of `num_workers` that share the card."""
    return int(free_bytes * CUDA_BUDGET_FRACTION) // num_workers


def max_region_pixels(budget_bytes: int, device_type: str, precision: str) -> int:
    """Return how many pixels a computed region may have within the budget. `device_type` is `cpu` or `cuda`."""
    return budget_bytes // bytes_per_pixel(device_type, precision)


def bytes_per_pixel(device_type: str, precision: str) -> int:
    """Return the network's peak memory per computed pixel."""
    return CPU_BYTES_PER_PIXEL if device_type == "cpu" else CUDA_BYTES_PER_PIXEL[precision]


def cgroup_headrooms(root: Path = Path("/")) -> Iterator[int]:
    """Yield what is left below each memory limit that applies to this process: limit - (usage - reclaimable cache).

    Covers cgroup v2 and v1, from this process's group up to the root, and a container's own view, where the group's
    files lie at the mount point although /proc names the host's path. Groups without a limit yield nothing.
    """
    for folder, is_v2 in control_groups("memory", root):
        headroom = _headroom(folder, *(_V2_FILES if is_v2 else _V1_FILES))
        if headroom is not None:
            yield headroom


def _headroom(folder: Path, limit_file: str, usage_file: str, cache_field: str) -> int | None:
    try:
        limit = int((folder / limit_file).read_text(encoding="ascii"))
        usage = int((folder / usage_file).read_text(encoding="ascii"))
    except (OSError, ValueError):  # not a memory group, or "max": no limit
        return None
    return max(limit - usage + _stat_field(folder / "memory.stat", cache_field), 0)


def _stat_field(path: Path, field: str) -> int:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(values.get(field, 0))
