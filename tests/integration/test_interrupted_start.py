"""Signals before the command is at its work, and behind it: while modules are read, arguments, and all is torn down."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, heed_interrupts

# Any thread may be given the signal; the main one hears of it a moment later.
INTERRUPT = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(folder: Path, code: str, *, is_ignored: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `python -m jobs --version` after what `code` does to it, where SIGINT is heeded or ignored from outside."""
    (folder / "sitecustomize.py").write_text(code)
    env = environment(folder, {})
    env["PYTHONPATH"] = f"{folder}:{env.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "jobs", "--version"]
    return subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=ignore_interrupts if is_ignored else heed_interrupts,
    )


def at_import_of_typer(code: str) -> str:
    """Code that does this when the command line's modules are being read."""
    lines = "".join(f"            {line}\n" for line in code.splitlines())
    hook = "import sys\nclass Hook:\n    def find_spec(self, name, *_):\n        if name == 'typer':\n"
    return f"{hook}{lines}sys.meta_path.insert(0, Hook())\n"


@pytest.mark.timeout(100)
def test_while_its_modules_are_read(tmp_path: Path) -> None:
    """The shell says of a program that a signal ended what there is to say."""
    ended = start(tmp_path, at_import_of_typer(INTERRUPT))
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.timeout(100)
def test_where_a_shell_said_that_it_is_to_be_ignored_it_is(tmp_path: Path) -> None:
    """A job in the background, that the terminal's Ctrl-C is not for."""
    ended = start(tmp_path, at_import_of_typer(INTERRUPT.replace("sleep(20)", "sleep(0.1)")), is_ignored=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("hdrfleet ")


@pytest.mark.timeout(100)
def test_while_its_arguments_are_read(tmp_path: Path) -> None:
    lines = "".join(f"    {line}\n" for line in INTERRUPT.splitlines())
    ended = start(tmp_path, f"import typer\ndef echo(*_, **__):\n{lines}    raise AssertionError\ntyper.echo = echo\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_interpreter_takes_everything_down(tmp_path: Path, number: signal.Signals) -> None:
    """By then it has no handlers any more; what the process has said is how it ends."""
    late = f"class Late:\n    def __del__(self, kill=os.kill, pid=os.getpid()):\n        kill(pid, {int(number)})\n"
    ended = start(tmp_path, f"import os, sys\n{late}sys.late = Late()\n")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("hdrfleet ")
