"""The interpreter writes what is buffered at its end: a result that cannot be written may not fail there once more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

COMMAND = [sys.executable, "-m", "jobs.cli", "weights", "inspect", "identity", "--json"]


@pytest.mark.timeout(100)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(tmp_path: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            COMMAND,
            env=environment(tmp_path, {"PYTHONUNBUFFERED": unbuffered}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("hdrfleet: cannot write to standard output: No space left on device")
    assert ended.stderr.count("\n") == 1


@pytest.mark.timeout(100)
def test_a_reader_that_has_gone_away_is_no_error(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        ended = subprocess.run(
            COMMAND,
            env=environment(tmp_path, {"PYTHONUNBUFFERED": ""}),
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, "")
