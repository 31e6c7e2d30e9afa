"""The kernel's count of killed processes, read from made-up groups; a real one is in chaos/test_worker_memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.execution.oom_kills import count_oom_kills, vanished_code


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (0, 1, "worker_oom"),
        (3, 5, "worker_oom"),
        (3, 3, "worker_crash"),
        (3, 0, "worker_crash"),  # another container took its place
        (None, 4, "worker_crash"),
        (4, None, "worker_crash"),
        (None, None, "worker_crash"),
    ],
)
def test_only_a_rise_is_evidence(before: int | None, after: int | None, code: str) -> None:
    assert vanished_code(before, after) == code


def test_version_2_counts_in_the_group_of_the_process(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/jobs/worker\n")
    write(tmp_path, "sys/fs/cgroup/jobs/memory.events", "low 0\nhigh 0\nmax 9\noom 9\noom_kill 9\n")
    write(tmp_path, "sys/fs/cgroup/jobs/worker/memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\n")
    assert count_oom_kills(tmp_path) == 2


def test_version_1_counts_where_its_controller_is(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/pod/abc\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory/pod/abc/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert count_oom_kills(tmp_path) == 4


def test_a_container_that_sees_its_group_at_the_mount_point(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/kubepods/pod7/abc\n")
    write(tmp_path, "sys/fs/cgroup/memory.events", "oom 1\noom_kill 1\noom_group_kill 0\n")
    assert count_oom_kills(tmp_path) == 1


def test_where_nothing_counts_nothing_is_known(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path) is None
    write(tmp_path, "proc/self/cgroup", "0::/jobs\n4:memory:/old\n")
    write(tmp_path, "sys/fs/cgroup/memory/old/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")  # an old kernel
    write(tmp_path, "sys/fs/cgroup/jobs/memory.events", "\0 nonsense")
    assert count_oom_kills(tmp_path) is None
