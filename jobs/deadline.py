"""A bound on work that nothing within this process can stop: its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import NoReturn, TypeVar

from jobs.explain import tell
from pipeline.errors import HdrfleetError, InterruptedJobError

GRACE_S = 2.0

_Result = TypeVar("_Result")


def done_within(seconds: float, error: HdrfleetError, work: Callable[[], _Result]) -> _Result:
    """What `work` returns or raises. Where it takes longer than `seconds` and a grace, say `error` and end the process.

    So does Ctrl-C, at once. For a call into native code that heeds no interrupt, of a command that has nothing to put
    back: `work` runs in a thread that is left behind. It must have written nothing to standard output, and has to let
    go of the interpreter's lock while it works.
    """
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as failure:  # noqa: BLE001  whoever waits raises it
            outcome.set_exception(failure)

    Thread(target=run, name="work", daemon=True).start()
    try:
        return outcome.result(seconds + GRACE_S)
    except TimeoutError:
        if outcome.done():  # the work's own
            raise
        _end(error)
    except KeyboardInterrupt:
        _end(InterruptedJobError("interrupted"))


def _end(error: HdrfleetError) -> NoReturn:
    """As `main` would, but without waiting for threads."""
    code = tell(error)
    sys.stderr.flush()
    os._exit(code)
