"""Bounds on what one worker holds in memory while its stages overlap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic


class ByteBudget:
    """A semaphore that counts bytes and serves in order of arrival. One item larger than the budget passes, but alone.

    Stages hold one budget each and only ever wait for the budget of the next stage, so they cannot deadlock; order of
    arrival keeps many small items from starving a large one. A wait ends when what is ahead has passed: its bound is
    the bound of that work, which the scheduler sets per shard.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = max(1, capacity_bytes)  # without room, one at a time
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """Bytes that are held now."""
        return self._used

    def acquire(self, num_bytes: int) -> int:
        """Wait for one's turn and for room; return the bytes to release later. None need no turn."""
        if not num_bytes:
            return 0
        num_bytes = min(num_bytes, self._capacity)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._used + num_bytes <= self._capacity)
                self._used += num_bytes
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return num_bytes

    def release(self, num_bytes: int) -> None:
        """Give back what `acquire` returned."""
        with self._changed:
            self._used -= num_bytes
            self._changed.notify_all()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Hold `num_bytes` for the length of a `with` block."""
        held = self.acquire(num_bytes)
        try:
            yield
        finally:
            self.release(held)


# A stage of the largest images takes minutes on a CPU: 20 s a megapixel were never seen, 4 s were.
STAGE_S_PER_MEGAPIXEL = 30.0


class StageWatch:
    """Knows which images are being worked on, and which of them have been for too long.

    One image may spend `timeout_s` in one stage, and 30 s more for each of its megapixels. Waiting for a budget, for
    the device or for a store, which has bounds of its own, does not count. A thread cannot be ended from outside:
    whoever owns the process asks `overdue` about once a second and ends that.
    """

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadlines: dict[object, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, source: str, num_pixels: int = 0) -> Iterator[None]:
        """Work on `source` within this context counts against its deadline."""
        token = object()
        deadline = self._clock() + self._timeout_s + STAGE_S_PER_MEGAPIXEL * num_pixels / 1e6
        with self._lock:
            self._deadlines[token] = source, deadline
        try:
            yield
        finally:
            with self._lock:
                del self._deadlines[token]

    def overdue(self) -> tuple[str, ...]:
        """The sources that are in a stage for too long."""
        now = self._clock()
        with self._lock:
            return tuple(source for source, deadline in self._deadlines.values() if now > deadline)
