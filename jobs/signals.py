"""Stopping on Ctrl-C and SIGTERM: once to stop cleanly, again to be told to wait, a third time to quit at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import InterruptedJobError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn the first signal into InterruptedJobError; later ones do not disturb the clean-up, but the third one quits.

    Works in the main thread only, as signals do.
    """
    num_signals = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals == 1:
            raise KeyboardInterrupt
        if num_signals > 2:
            os._exit(1)
        sys.stderr.write("stopping; once more quits at once (committed work is safe either way)\n")

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedJobError("interrupted") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
