"""A result that standard output does not take: one line and exit code 1, or silence where the reader has gone away."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import duckdb
import pytest
from commands import hdrfleet_here

from jobs.stdout import guarded_stdout
from jobs.tables import print_arrow
from pipeline.errors import StandardOutputError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this machine has no /dev/full")


@needs_full
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["weights", "inspect", "identity"], ["weights", "inspect", "identity", "--json"]],
    ids=" ".join,
)
def test_a_full_disk_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert hdrfleet_here(*arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("hdrfleet: cannot write to standard output: No space left on device")
    assert err.endswith(" [standard_output]\n")
    assert err.count("\n") == 1


@needs_full
@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_every_format_of_a_query_meets_it(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = duckdb.sql("select range, repeat('x', 100) from range(1000)").to_arrow_table()
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(StandardOutputError, match="No space left"), guarded_stdout():
            print_arrow(rows, style)
        assert sys.stdout is full


def test_a_reader_that_has_gone_away_is_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert hdrfleet_here("weights", "inspect", "identity", "--json") == 1
    assert capsys.readouterr().err == ""


def test_an_encoding_that_lacks_a_character_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = duckdb.sql("select 'caf' || chr(233) as name").to_arrow_table()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with guarded_stdout():
        print_arrow(rows, "json")
    wanted = r"its encoding, ascii, has no U\+00E9; set PYTHONIOENCODING=utf-8, or use --json"
    with pytest.raises(StandardOutputError, match=wanted), guarded_stdout():
        print_arrow(rows, "table")
