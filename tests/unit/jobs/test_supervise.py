"""A driver that is killed is run again; one that ends by itself is not."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from jobs.supervise import missing_modules, supervise

DIES_UNTIL = """
import os, pathlib, signal, sys
counter = pathlib.Path(sys.argv[1])
num_runs = len(counter.read_text()) if counter.exists() else 0
counter.write_text("x" * (num_runs + 1))
if num_runs < int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


@pytest.mark.parametrize("code", [0, 1, 3])
def test_its_exit_code_is_that_of_a_driver_that_ended_by_itself(tmp_path: Path, naps: list[float], code: int) -> None:
    counter = tmp_path / "runs"
    assert supervise([sys.executable, "-c", DIES_UNTIL, str(counter), "0", str(code)]) == code
    assert len(counter.read_text()) == 1
    assert naps == []


def test_a_killed_one_is_run_again_ever_later(
    tmp_path: Path, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    counter = tmp_path / "runs"
    assert supervise([sys.executable, "-c", DIES_UNTIL, str(counter), "2", "3"], first_delay_s=4) == 3
    assert len(counter.read_text()) == 3
    assert naps == [4, 8]
    assert "killed by signal 9; it is started again in 8 s (2 of 5)" in capsys.readouterr().err


def test_where_the_driver_logs_json_so_does_who_watches_over_it(
    tmp_path: Path, naps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", DIES_UNTIL, str(tmp_path / "runs"), "1", "0", "--log-format=json"]
    assert supervise(command) == 0
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["level"], said["event"]) == ("warning", "driver_killed")
    assert said["message"].startswith("the driver was killed by signal 9; it is started again in 5 s")


def test_drivers_that_are_started_again_are_one_run_with_one_deadline_and_one_budget(
    tmp_path: Path, naps: list[float]
) -> None:
    """Each is told when the first began, and what those before it have spent."""
    driver = """
import os, pathlib, signal, sys
from pipeline.execution.account import open_account
account = open_account()
with pathlib.Path(sys.argv[1]).open("a") as log:
    log.write(f"{account.started_at} {account.spent_worker_s}\\n")
account.write(account.spent_worker_s + 100)
if account.spent_worker_s < 200:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    log = tmp_path / "log"
    before = time.monotonic()
    assert supervise([sys.executable, "-c", driver, str(log)]) == 0
    runs = [line.split() for line in log.read_text().splitlines()]
    assert [spent for _, spent in runs] == ["0.0", "100.0", "200.0"]
    (started_at,) = {float(started) for started, _ in runs}
    assert before <= started_at <= time.monotonic()


def test_there_is_an_end_to_it(tmp_path: Path, naps: list[float]) -> None:
    counter = tmp_path / "runs"
    command = [sys.executable, "-c", DIES_UNTIL, str(counter), "9", "0"]
    assert supervise(command, max_restarts=2, first_delay_s=1) == 128 + signal.SIGKILL
    assert len(counter.read_text()) == 3


def test_who_is_asked_to_stop_is_not_run_again(tmp_path: Path, naps: list[float]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stops = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"
    assert supervise([sys.executable, "-c", stops]) == 128 + signal.SIGTERM
    assert naps == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_this_python_has_what_a_driver_needs() -> None:
    assert missing_modules() == []
