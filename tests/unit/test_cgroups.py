"""Which groups bound a process, by made-up /proc files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cgroups import control_groups, usable_cores

MIXED = "12:pids:/a\n5:cpu,cpuacct:/box/x\n4:memory:/pod\n0::/jobs/worker\n"


def groups(root: Path, controller: str) -> list[tuple[str, bool]]:
    found = control_groups(controller, root)
    return [(str(folder.relative_to(root / "sys/fs/cgroup")), is_v2) for folder, is_v2 in found]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def test_its_own_group_comes_first_and_the_mount_point_last(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/jobs/worker\n")
    assert groups(root, "memory") == [("jobs/worker", True), ("jobs", True), (".", True)]


def test_version_1_has_a_tree_for_each_controller(root: Path) -> None:
    (root / "proc/self/cgroup").write_text(MIXED)
    v2 = [("jobs/worker", True), ("jobs", True), (".", True)]
    assert groups(root, "memory") == [("memory/pod", False), ("memory", False), *v2]
    assert groups(root, "cpu") == [("cpu/box/x", False), ("cpu/box", False), ("cpu", False), *v2]


@pytest.mark.parametrize("path", ["/", "/a:b/c"])
def test_odd_paths_are_followed(root: Path, path: str) -> None:
    (root / "proc/self/cgroup").write_text(f"0::{path}\n")
    assert groups(root, "memory")[0] == (path.lstrip("/") or ".", True)


def test_where_there_is_no_proc_there_are_none(tmp_path: Path) -> None:
    assert groups(tmp_path, "memory") == []


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/pod\n", {}, 96),
        ("0::/pod\n", {"pod/cpu.max": "max 100000\n"}, 96),
        ("0::/pod\n", {"pod/cpu.max": "700000 100000\n"}, 7),
        ("0::/pod/box\n", {"pod/cpu.max": "150000 100000\n", "pod/box/cpu.max": "700000 100000\n"}, 1.5),
        ("0::/kubepods/pod7\n", {"cpu.max": "400000 100000\n"}, 4),  # a container's own view
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 96),
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("0::/pod\n", {"pod/cpu.max": "what\n"}, 96),
        ("0::/pod\n", {"pod/cpu.max": "1 0\n"}, 96),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    root: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], cores: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    assert usable_cores(root) == cores


def test_this_machine_has_cores() -> None:
    assert 0 < usable_cores() <= len(os.sched_getaffinity(0))
