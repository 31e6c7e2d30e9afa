"""What the kernel's memory killer ends is told from what crashes, in a memory group with a limit of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import environment, rows_of, wait_until
from photographs import jpeg, picture

from pipeline.execution.oom_kills import vanished_code

SMALL_BYTES = 256 * 2**20
# Ray's own processes and one worker take 2 GiB of it.
RAY_BYTES = 5 * 2**30
COUNT = "from pipeline.execution.oom_kills import count_oom_kills; print(count_oom_kills(), flush=True)\n"
ALLOCATE = "blocks = []\nwhile True: blocks.append(b'1' * 2**22)\n"
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
Limit = Callable[[int], Path]


def own_group() -> tuple[Path, str]:
    """The group of this process below the mount of the memory controller, and the name of its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/"), "memory.limit_in_bytes"
        if not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max"
    return Path("/sys/fs/cgroup"), "memory.max"


@pytest.fixture
def limit_memory() -> Iterator[Limit]:
    """Makes a group with a limit of so many bytes, below the group of this process, and removes it at the end."""
    made: list[Path] = []

    def make(num_bytes: int) -> Path:
        parent, limit = own_group()
        group = parent / f"hdrfleet-test-{os.getpid()}"
        try:
            group.mkdir()
            made.append(group)
            (group / limit).write_text(str(num_bytes))
        except OSError as error:
            pytest.skip(f"no memory group can be made here: {error}")
        return group

    yield make
    for group in made:
        wait_until(lambda group=group: not (group / "cgroup.procs").read_text(), "the group is empty")
        with suppress(FileNotFoundError):
            group.rmdir()


def run_in(group: Path, *command: str, timeout_s: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(
        [sys.executable, *command],
        preexec_fn=join,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize(("end", "code"), [(ALLOCATE, "worker_oom"), (KILL, "worker_crash")])
def test_the_kernels_count_tells_what_ended_a_process(limit_memory: Limit, end: str, code: str) -> None:
    """Both die of the same signal. Whoever looks afterwards is of the same group, as a node's next task is."""
    group = limit_memory(SMALL_BYTES)
    died = run_in(group, "-c", COUNT + end)
    after = run_in(group, "-c", COUNT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert vanished_code(int(died.stdout), int(after.stdout)) == code


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_image_that_takes_all_memory_of_its_node_is_quarantined_as_such(limit_memory: Limit, tmp_path: Path) -> None:
    """The kernel is first, for Ray's memory monitor is off; another image crashes its worker beside it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(6):
        (photos / f"{index}.jpg").write_bytes(jpeg(picture(24, 16, seed=index)))
    faults = {
        "HDRFLEET_FAULTS": "image.decoded@1.jpg=hog,image.decoded@4.jpg=segv",
        "RAY_memory_monitor_refresh_ms": "0",
    }
    command = ("-m", "jobs.cli", "convert", str(photos), str(tmp_path / "out"), "--weights", "identity")
    options = ("--precision", "fp32", "--device", "cpu", "--shard-images", "3", "--workers", "1")
    env = environment(tmp_path / "home", faults)
    result = run_in(limit_memory(RAY_BYTES), *command, *options, timeout_s=350, env=env)
    assert result.returncode == 3, result.stderr
    codes = {row["source"]: row["error_code"] for row in rows_of(tmp_path / "out")}
    assert codes == {**{f"{index}.jpg": None for index in range(6)}, "1.jpg": "worker_oom", "4.jpg": "worker_crash"}
