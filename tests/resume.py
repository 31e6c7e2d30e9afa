"""`--resume FOLDER`: a run of hours that was stopped or killed goes on where it was, as long as the code is the same.

With pytest-xdist the process that was started keeps the record; the others are told what to leave out.
What a test leaves in the folder for its own continuation lives as long as the run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

_PASSED = "hdrfleet_passed"


def state_of_code(root: Path) -> str:
    """What names the code below `root`: the commit, and a digest of what differs from it. Needs git.

    Of files that git does not know those count that it would not ignore and that are Python's: tests and what they use.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, timeout=60).stdout

    commit = git("rev-parse", "HEAD").decode().strip()
    digest = hashlib.sha256(git("diff", "HEAD"))
    for name in sorted(
        filter(None, git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py").split(b"\0"))
    ):
        content = (root / os.fsdecode(name)).read_bytes()
        digest.update(b"\0".join((name, str(len(content)).encode(), content)))
    return f"{commit} {digest.hexdigest()}"


class LeaveOut:
    """Leaves out the tests of these names."""

    def __init__(self, names: Collection[str]) -> None:
        self._passed = frozenset(names)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left_out = [item for item in items if item.nodeid in self._passed]
        items[:] = [item for item in items if item.nodeid not in self._passed]
        config.hook.pytest_deselected(items=left_out)


class Resume(LeaveOut):
    """Leaves out the tests that passed before, on this code, and records each that passes as soon as it has."""

    def __init__(self, folder: Path, state: str) -> None:
        self._folder, self._path = folder, folder / "passed"
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        if lines and lines[0] != state:
            shutil.rmtree(folder)
            lines = []
        # The last line of a run that was killed may be a part of a name: no test has it, so it is run again.
        super().__init__(lines[1:])
        self._called: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{line}\n" for line in (state, *sorted(self._passed))))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a process of xdist; one that takes the place of another has to leave out the same."""
        node.workerinput[_PASSED] = sorted(self._passed)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._called.add(report.nodeid)
        elif report.when == "teardown" and report.passed and report.nodeid in self._called:
            with self._path.open("a") as file:
                file.write(f"{report.nodeid}\n")
                file.flush()
                os.fsync(file.fileno())

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            shutil.rmtree(self._folder)  # all is done: the next run is a new one
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._passed:
            session.exitstatus = pytest.ExitCode.OK  # the last run was killed behind its last test


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--resume", metavar="FOLDER", help="go on with the run that recorded what passed in FOLDER")


def register(config: pytest.Config) -> None:
    folder = config.getoption("resume")
    if folder and hasattr(config, "workerinput"):
        config.pluginmanager.register(LeaveOut(config.workerinput[_PASSED]))
    elif folder:
        config.pluginmanager.register(Resume(Path(folder), state_of_code(config.rootpath)))
