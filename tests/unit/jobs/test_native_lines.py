"""What native code writes to descriptor 2 while a command logs JSON: whole lines, none lost, and nobody hangs."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs.json_log import json_log


def messages(text: str, event: str = "output") -> list[str]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return [line["message"] for line in lines if line["event"] == event]


def test_lines_are_events_of_the_job_and_come_before_the_last_one(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very/secret+key")
    with json_log() as reporter:
        reporter.job("job-1")
        os.write(2, b"one\n\ntwo of very/secret+key, \xff\nhalf")
        reporter.finished(0, 1.0)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line.get("message")) for line in lines] == [
        ("job_opened", None),
        ("output", "one"),
        ("output", "two of ***, �"),
        ("finished", None),
        ("output", "half"),
    ]
    assert {line["job_id"] for line in lines} == {"job-1"}


def test_lines_of_a_process_that_logs_as_we_do_stay_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    event = '{"time": "2026-11-29T00:00:00+00:00", "level": "info", "event": "node_draining", "node": "n"}'
    with json_log():
        os.write(2, f'{event}\n{{"event": "no"}}\n{{"event"\n'.encode())
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == event
    assert messages("\n".join(lines)) == ['{"event": "no"}', '{"event"']


def test_descriptor_2_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with json_log(quiet=True):
        os.write(2, b"not shown\n")
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"


def test_native_code_that_holds_the_interpreter_while_it_fills_the_pipe_ends(capfd: pytest.CaptureFixture[str]) -> None:
    data = b"remark\n" * 2**14
    held = ctypes.PyDLL(None)  # unlike CDLL, keeps all other threads of Python from running
    with json_log():
        assert held.write(2, data, len(data)) == len(data)
    assert messages(capfd.readouterr().err) == ["remark"] * 2**14


def test_prints_in_pieces_by_several_threads_are_whole_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with json_log(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: print("remark", number, "of", "many"), range(50)))  # noqa: T201
        sys.stderr.write("no end")
    assert sorted(messages(capfd.readouterr().err)) == sorted(
        ["no end", *(f"remark {number} of many" for number in range(50))]
    )


def test_a_fault_of_ours_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, json_log(quiet=True):
        raise ZeroDivisionError("a mistake")
    assert caught.value.code == 1
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (line["event"], line["code"], line["exit_code"]) == ("error", "unexpected", 1)
    assert "ZeroDivisionError: a mistake" in line["message"]
