"""`python -m jobs.supervise ARGUMENTS`: runs `hdrfleet ARGUMENTS`, and runs it again when something kills it.

Ray Jobs start an entry point once. A driver that is killed (by the kernel for memory, by hand) would end the job,
though the same command carries on where it stopped. Drivers that end by themselves, with whatever exit code, are not
run again: what they say needs a person, or nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from pipeline.execution.account import SPENT_VARIABLE, STARTED_VARIABLE

NEEDED = ("ray", "torch", "typer", "pydantic", "pyarrow", "fsspec", "OpenEXR", "imagecodecs")
LOGS_JSON = "--log-format=json"
MAX_RESTARTS = 5
FIRST_DELAY_S = 5.0
# A driver that worked this long before it was killed was not killed by what it did first.
FORGIVEN_AFTER_S = 1800.0


def supervise(command: Sequence[str], *, max_restarts: int = MAX_RESTARTS, first_delay_s: float = FIRST_DELAY_S) -> int:
    """Run `command` until it ends by itself, or was killed `max_restarts` times in short order; return its exit code.

    Restarts wait `first_delay_s` and twice as long each time. SIGTERM and SIGINT are passed on, and end the restarts. A
    command that was killed for the last time gives 128 and its signal's number, as shells do. All that is started here
    is one run with one deadline and one budget (`pipeline.execution.account`).
    """
    with tempfile.TemporaryDirectory(prefix="hdrfleet-run-", ignore_cleanup_errors=True) as folder:
        account = {STARTED_VARIABLE: repr(time.monotonic()), SPENT_VARIABLE: str(Path(folder) / "spent")}
        return _run_until_it_ends(command, {**os.environ, **account}, max_restarts, first_delay_s)


def _run_until_it_ends(
    command: Sequence[str], environment: Mapping[str, str], max_restarts: int, first_delay_s: float
) -> int:
    running: list[subprocess.Popen[bytes]] = []
    asked_to_stop: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked_to_stop.append(number)
        if running:
            running[0].send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    num_killed = 0
    try:
        while True:
            started = time.monotonic()
            with subprocess.Popen(command, env=environment) as process:  # noqa: S603  the command that was given to run
                running[:] = [process]
                if asked_to_stop:  # it came before there was a process to pass it on to
                    process.send_signal(asked_to_stop[-1])
                code = process.wait()
                running.clear()
            if code >= 0:
                return code
            num_killed = num_killed + 1 if time.monotonic() - started < FORGIVEN_AFTER_S else 1
            if asked_to_stop or num_killed > max_restarts:
                return 128 - code
            delay_s = first_delay_s * 2 ** (num_killed - 1)
            _say(
                f"the driver was killed by signal {-code}; it is started again in {delay_s:g} s "
                f"({num_killed} of {max_restarts})",
                as_json=LOGS_JSON in command,
            )
            time.sleep(delay_s)
            if asked_to_stop:
                return 128 + asked_to_stop[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str, *, as_json: bool) -> None:
    """Write one line for people, or one of the log that the driver writes, as `jobs.json_log` does."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"time": now, "level": "warning", "event": "driver_killed", "message": text}
    sys.stderr.write(f"{json.dumps(event) if as_json else f'hdrfleet: {text}'}\n")


def missing_modules() -> list[str]:
    """Which of the modules that a driver needs this Python lacks: where only the code was sent, they must be there."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


if __name__ == "__main__":
    if missing := missing_modules():
        sys.exit(
            f"hdrfleet: {sys.executable} lacks {', '.join(missing)}; this cluster's image has no hdrfleet installed"
        )
    sys.exit(supervise([sys.executable, "-m", "jobs.cli", *sys.argv[1:]]))
