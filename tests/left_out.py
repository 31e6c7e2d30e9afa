"""What a run left out, and why: a green run that lacks its hardest parts says so at its end.

`--left-out FILE` adds the same lines to a file, which `make test-long` shows when everything has run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--left-out", metavar="FILE", help="add to FILE which tests were skipped and why")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = Counter(_part(report) for report in terminalreporter.getreports("skipped"))
    lines = [f"{number} skipped in {file}: {reason}" for (file, reason), number in sorted(skipped.items())]
    if lines:
        terminalreporter.section("left out")
        terminalreporter.write("".join(f"{line}\n" for line in lines))
    path = config.getoption("left_out")
    if path and not hasattr(config, "workerinput"):  # of xdist's processes, the one that was started
        with Path(path).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


def _part(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str]:
    """The file of a skipped test, and the first line of why it was."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = said.removeprefix("Skipped: ").strip()
    return report.nodeid.partition("::")[0], reason.splitlines()[0] if reason else "no reason given"
