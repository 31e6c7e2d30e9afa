"""A query that is stopped while DuckDB computes ends as every command does: one line, exit code 1."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from commands import hdrfleet_here, start_hdrfleet, wait_until
from photographs import write_library

HEAVY = {
    "many_rows": "select sum(hash(a.range + b.range)) from range(10000000) a, range(10000000) b",
    "one_expression": "select levenshtein(repeat('a', 400000), repeat('b', 400000)) from manifest",
}
_COMPUTING_S = 3.0  # of processors: more than opening the manifest takes


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interrupted")
    write_library(root / "photos", num_photos=1)
    arguments = ("--executor", "local", "--weights", "identity", "--quiet")
    assert hdrfleet_here("convert", root / "photos", root / "out", *arguments) == 3
    return root / "out"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sql", HEAVY.values(), ids=HEAVY)
def test_a_query_that_is_stopped_ends_in_one_line(
    destination: Path, tmp_path: Path, sql: str, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    process = start_hdrfleet("query", destination, sql, home=tmp_path / "home", log=log)
    try:
        watched = psutil.Process(process.pid)
        wait_until(lambda: _is_caught(process.pid, signal.SIGTERM), "the command is at work")
        begun_s = watched.cpu_times().user
        wait_until(lambda: watched.cpu_times().user - begun_s > _COMPUTING_S, "DuckDB computes")
        process.send_signal(number)
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert said.startswith("hdrfleet: interrupted; ")
    assert said.endswith(" [interrupted]\n")
    assert said.count("\n") == 1


def _is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether the process has set a handler for the signal (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
