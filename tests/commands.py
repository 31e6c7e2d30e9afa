"""Run the `hdrfleet` command as a user does: its own process, its own home, bounded in time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_NUM_"))}
    return {**kept, "HOME": str(home), "RAY_AUTH_MODE": "disabled", "COLUMNS": "160", **(extra or {})}


def hdrfleet(
    *arguments: str | Path,
    home: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 100,
    max_data_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. `max_data_bytes` is what it and each process below it may allocate."""

    def limit() -> None:
        if max_data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (max_data_bytes, max_data_bytes))

    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        env=environment(home, env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        preexec_fn=limit,
    )


def hdrfleet_here(*arguments: str | Path) -> int:
    """Run the command within this process and return its exit code; much faster than a process of its own."""
    from unittest.mock import patch

    from jobs.cli import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with patch.object(sys, "argv", ["hdrfleet", *map(str, arguments)]):
            main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def start_hdrfleet(
    *arguments: str | Path, home: Path, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
            env=environment(home, env),
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,  # noqa: PLW1509
        )


def heed_interrupts() -> None:
    """In a child before it starts: a shell in the background hands on that SIGINT is ignored, a user's does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(0.05)


def descendants(pid: int, title: str = "") -> list[psutil.Process]:
    """Processes below `pid` whose command line contains `title`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def wait_for_workers(home: Path) -> None:
    """Until the Ray workers of a driver with this home, which outlive it for a moment, are gone."""

    def is_one(process: psutil.Process) -> bool:
        try:
            return "ray::RayWorker" in " ".join(process.cmdline()) and process.environ().get("HOME") == str(home)
        except psutil.Error:
            return False

    wait_until(lambda: not any(map(is_one, psutil.process_iter())), "the workers of a dead driver are gone", 60)


def end(processes: list[psutil.Process]) -> None:
    """Make sure that these processes are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=20)


def rows_of(dst: Path) -> list[dict[str, object]]:
    """Every row of the manifest in a folder."""
    return open_manifest(open_store(str(dst), StorageConfig())).history.to_pylist()
