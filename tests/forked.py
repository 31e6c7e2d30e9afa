"""Run the command in processes that are forked from one that has loaded everything: fractions of a second each.

Killing such a process is as real as killing one that a shell has started.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "jobs.cli",
        "jobs.convert",
        "jobs.progress",
        "jobs.tables",
        "pipeline.execution.local",
        "pipeline.execution.worker",
    ]
)
_KEPT = ("AWS_", "HOME", "TMPDIR")


def start_forked(
    *arguments: str | Path, log: Path, faults: str = "", env: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `hdrfleet` with these arguments; both of its outputs go to `log`, and `faults` to pipeline.faults."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    values = {**kept, **(env or {})}
    process = _CONTEXT.Process(target=_run, args=([str(item) for item in arguments], str(log), faults, values))
    process.start()
    return process


def forked(
    *arguments: str | Path, log: Path, faults: str = "", env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> int:
    """Run `hdrfleet` to its end and return its exit code: negative for the signal that killed it."""
    process = start_forked(*arguments, log=log, faults=faults, env=env)
    return ended(process, log, timeout_s)


def ended(process: BaseProcess, log: Path, timeout_s: float = 60) -> int:
    """Wait for the end of a process that `start_forked` returned."""
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join(20)
        raise AssertionError(f"hdrfleet did not end within {timeout_s} s: {log.read_text()[-2000:]}")
    return process.exitcode


def _run(arguments: Sequence[str], log: str, faults: str, values: Mapping[str, str]) -> None:
    from jobs.cli import main
    from pipeline import faults as fault_points

    for name in [name for name in os.environ if name.startswith(_KEPT)]:
        del os.environ[name]
    os.environ.update(values)
    fault_points.arm(faults)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["hdrfleet", *arguments]
    main()
