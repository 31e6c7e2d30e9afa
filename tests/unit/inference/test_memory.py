from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline.inference import memory

GIB = 2**30


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB))
    return tmp_path


def test_without_cgroups_the_systems_memory_counts(system: Path) -> None:
    assert list(memory.cgroup_headrooms(system)) == []
    assert memory.cpu_budget_bytes(root=system) == 8 * GIB
    assert memory.cpu_budget_bytes(4, root=system) == 2 * GIB
    assert memory.decoders_budget_bytes(4, root=system) == GIB


@pytest.mark.parametrize(
    ("num_threads", "num_workers", "expected"),
    [
        (2, 1, GIB),  # as it was configured
        (7, 1, 3.5 * GIB),  # large images for each pair of threads
        (16, 1, 4 * GIB),  # but no more than a quarter of 16 GiB
        (7, 4, GIB),
        (1, 100, GIB),  # and no less than was asked for
    ],
)
def test_what_waits_for_the_store_follows_threads_and_memory(
    system: Path, num_threads: int, num_workers: int, expected: float
) -> None:
    assert memory.output_budget_bytes(GIB, num_threads, num_workers, root=system) == expected


def test_v2_takes_the_tightest_limit_up_the_tree(system: Path) -> None:
    write(system, "proc/self/cgroup", "0::/jobs/worker\n")
    write(system, "sys/fs/cgroup/jobs/worker/memory.max", "max\n")
    write(system, "sys/fs/cgroup/jobs/worker/memory.current", "123\n")
    write(system, "sys/fs/cgroup/jobs/memory.max", f"{6 * GIB}\n")
    write(system, "sys/fs/cgroup/jobs/memory.current", f"{3 * GIB}\n")
    write(system, "sys/fs/cgroup/jobs/memory.stat", f"anon 5\ninactive_file {GIB}\nactive_file 7\n")
    assert list(memory.cgroup_headrooms(system)) == [4 * GIB]
    assert memory.cpu_budget_bytes(root=system) == 2 * GIB


def test_v2_in_a_container_reads_the_mount_point(system: Path) -> None:
    write(system, "proc/self/cgroup", "0::/kubepods/pod7/abc\n")
    write(system, "sys/fs/cgroup/memory.max", f"{2 * GIB}\n")
    write(system, "sys/fs/cgroup/memory.current", "0\n")
    assert memory.cpu_budget_bytes(root=system) == GIB


def test_v1_limits_count(system: Path) -> None:
    write(system, "proc/self/cgroup", "5:cpu:/x\n4:memory:/box\n0::/\n")
    write(system, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{4 * GIB}\n")
    write(system, "sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{3 * GIB}\n")
    write(system, "sys/fs/cgroup/memory/box/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB}\n")
    write(system, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(system, "sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n")
    assert memory.cpu_budget_bytes(root=system) == GIB


def test_a_group_over_its_limit_has_nothing_left(system: Path) -> None:
    write(system, "proc/self/cgroup", "0::/\n")
    write(system, "sys/fs/cgroup/memory.max", f"{GIB}\n")
    write(system, "sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert list(memory.cgroup_headrooms(system)) == [0]
    assert memory.decoders_budget_bytes(root=system) == 0


def test_pixels_follow_from_bytes() -> None:
    assert memory.max_region_pixels(GIB, "cpu", "fp32") == GIB // memory.CPU_BYTES_PER_PIXEL
    assert memory.max_region_pixels(GIB, "cuda", "fp16") > memory.max_region_pixels(GIB, "cuda", "fp32")
    assert memory.cuda_budget_bytes(100 * GIB, 2) == int(42.5 * GIB)


REUSE = """
import ctypes, resource, sys, threading
from pipeline.inference.memory import retain_freed_memory

if sys.argv[1] == "call":
    print(retain_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def touch():
    block = libc.malloc(200 * 2**20)
    libc.memset(block, 1, 200 * 2**20)
    libc.free(block)

def count():
    touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def faults(how: str, **env: str) -> int:
    command = [sys.executable, "-c", REUSE, how]
    result = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_without_new_page_faults() -> None:
    """200 MiB are 51,200 pages of 4 KiB; even huge pages of 2 MiB would be 100."""
    assert faults("not") >= 100
    assert faults("call") < 20
    assert faults("env", **memory.MALLOC_ENV) < 20


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.retain_freed_memory() is False


def test_a_libc_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert memory.retain_freed_memory() is False
