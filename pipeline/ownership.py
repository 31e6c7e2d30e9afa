"""Whether this process may still write at a destination: its driver may have been taken over while it slept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # a laptop that was closed slept as well


def _now_s() -> float:
    return time.clock_gettime(_CLOCK)


class Ownership:
    """Asks the store before a write, unless it did so within the last `fresh_s` seconds. Safe for threads.

    A driver is taken over only when it was silent for much longer than that. So a process that slept through a takeover
    asks when it wakes, and one that works asks so seldom that it costs nothing. `ask` raises LeaseLostError where
    another driver owns the destination, and StorageError where it cannot be asked.
    """

    def __init__(self, ask: Callable[[], None], fresh_s: float, clock: Callable[[], float] = _now_s) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking = threading.Lock()

    def require(self) -> None:
        """Raise as `ask` does, if the last answer is not fresh any more."""
        with self._asking:
            if self._clock() - self._asked_at >= self._fresh_s:
                self._confirm()

    def confirm(self) -> None:
        """Raise as `ask` does, now: for what must not be done on an answer of a while ago."""
        with self._asking:
            self._confirm()

    def _confirm(self) -> None:
        asked_at = self._clock()
        self._ask()
        self._asked_at = asked_at


OWNED = Ownership(lambda: None, float("inf"))
"""Of a destination that nobody else can own."""
