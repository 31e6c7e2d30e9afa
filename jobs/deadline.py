"""A bound on work that nothing within this process can stop: its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer

from jobs.explain import tell
from pipeline.errors import HdrfleetError

GRACE_S = 2.0


@contextmanager
def ending_with(error: HdrfleetError, seconds: float) -> Iterator[None]:
    """Where the block takes longer than `seconds` and a grace, say `error` as `main` does, and end the process.

    For a call into native code that heeds no interrupt, of a command that has nothing to put back. The block must have
    written nothing to standard output. It has to let go of the interpreter's lock while it works.
    """
    has_ended = False
    deciding = Lock()

    def end() -> None:
        with deciding:
            if has_ended:
                return
            code = tell(error)
            sys.stderr.flush()
            os._exit(code)

    timer = Timer(seconds + GRACE_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with deciding:
            has_ended = True
        timer.cancel()
