"""What the command says to options and arguments that are none: one line on standard error, exit code 2."""

from __future__ import annotations

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
