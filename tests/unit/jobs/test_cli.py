"""What the command says to options and arguments that are none: one line on standard error, exit code 2."""

from __future__ import annotations

import os
import signal

import pytest
from commands import hdrfleet_here

AKIA = "AKIA" + "Q" * 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert", "--bogus"], "No such option: --bogus"),
        (["convert"], "Missing argument 'SRC'"),
        (["convert", "a", "b", "c"], "unexpected extra argument"),
        (["convert", "a", "b", "--budget"], "'--budget' requires an argument"),
        (["convert", "a", "b", "--resolution", "x"], "No such option: --resolution"),
        (["query", "a", "--timeout", "0"], "Invalid value for '--timeout'"),
        (["query", "a", "--timeout", "inf"], "Invalid value for '--timeout'"),
        (["weights", "inspect"], "Missing argument 'FILE'"),
        (["nosuch"], "No such command 'nosuch'"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("hdrfleet: ")
    assert says in err
    assert err.endswith("; the command with -h lists what there is [bad_usage]\n")


def test_what_is_said_of_misuse_holds_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"https://me:hunter2@host/w?X-Amz-Signature=abc&X-Amz-Credential={AKIA}"
    assert hdrfleet_here("weights", "inspect", "identity", url) == 2
    err = capsys.readouterr().err
    assert "host/w" in err
    assert not any(secret in err for secret in ("hunter2", "abc", AKIA))


@pytest.mark.parametrize("group", [[], ["weights"], ["cluster"]])
def test_a_group_by_itself_lists_its_commands(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here(*group) == 2
    assert "Commands" in "".join(capsys.readouterr())


def test_version_and_help_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("--version") == 0
    assert hdrfleet_here("convert", "--help") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["convert", "", "out"], "SRC is empty; give one that is not"),
        (["convert", "in", ""], "DST is empty; give one that is not"),
        (["convert", "in", "out", "--weights", ""], "--weights is empty; give one that is not"),
        (["plan", ""], "SRC is empty; give one that is not"),
    ],
)
def test_an_empty_argument_is_called_empty(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here(*arguments) == 2
    assert capsys.readouterr().err == f"hdrfleet: {says} [bad_config]\n"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "", "out"], "DATA"),
        (["evaluate", ""], "HDR_FOLDER"),
        (["evaluate", "--pairs", ""], "--pairs"),
        (["evaluate", "in", "--sheets", ""], "--sheets"),
        (["demo", ""], "FOLDER"),
    ],
)
def test_an_empty_folder_is_not_the_current_one(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here(*arguments) == 2
    assert f"Invalid value for '{name}': is empty; give one that is not" in capsys.readouterr().err


# What each command calls once it is at work.
AT_WORK = [
    (["query", "dst"], "jobs.cli.open_destination"),
    (["query", "dst", "select 1"], "jobs.cli.open_destination"),
    (["status", "dst"], "jobs.cli.open_destination"),
    (["plan", "src"], "jobs.plan.make_plan"),
    (["weights", "inspect", "identity"], "jobs.weights.describe_weights"),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("arguments", "at_work"), AT_WORK, ids=lambda value: value if isinstance(value, str) else None)
def test_a_command_that_is_stopped_says_so_in_one_line(
    number: signal.Signals,
    arguments: list[str],
    at_work: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(at_work, lambda *_, **__: os.kill(os.getpid(), number))
    assert hdrfleet_here(*arguments) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("hdrfleet: interrupted; ")
    assert err.endswith(" [interrupted]\n")


def test_one_that_is_not_at_its_work_yet_does_so_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.maintenance.open_destination", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert hdrfleet_here("verify", "dst") == 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith(" [interrupted]\n")
