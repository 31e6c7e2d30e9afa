"""Stopping on Ctrl-C and SIGTERM: cleanly at first, at once when the user insists."""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import InterruptedJobError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@functools.cache
def heed_none_at_exit() -> None:
    """Let no signal change how this process ends once all is said and its threads have ended.

    The interpreter takes handlers back before its last steps, which take a moment with large libraries: a second Ctrl-C
    would kill it there, without a word and with another exit code. Call it before anything else registers for the exit.
    """
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS])


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Turn the first signal into InterruptedJobError; later ones do not disturb the clean-up, but the third one quits.

    What was asked to stop is left to end: its handlers stay, so that a second signal does not kill the process before
    it has said how to go on. Works in the main thread only, as signals do.
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
        if num_signals == 0:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def noting_signals(message: str) -> Iterator[Callable[[], bool]]:
    """Yield a question: was a stop asked for? For work that must end at a point of its own choice.

    The first signal writes `message` and only makes the answer yes; the second raises KeyboardInterrupt, which
    `stopping_on_signals` around this turns into InterruptedJobError; the third quits. Main thread only.
    """
    num_signals = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals == 1:
            sys.stderr.write(f"{message}\n")
        elif num_signals == 2:
            raise KeyboardInterrupt
        else:
            os._exit(1)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield lambda: num_signals > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
