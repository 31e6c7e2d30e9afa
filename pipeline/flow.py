"""Bounds on what one worker holds in memory while its stages overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import DeviceLostError


class ByteBudget:
    """A semaphore that counts bytes. One item larger than the whole budget passes, but alone.

    Stages hold one budget each and only ever wait for the budget of the next stage, so they cannot deadlock.
    """

    def __init__(self, capacity_bytes: int, stall_timeout_s: float = 1800.0) -> None:
        self._capacity = capacity_bytes
        self._stall_timeout_s = stall_timeout_s
        self._used = 0
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """Bytes that are held now."""
        return self._used

    def acquire(self, num_bytes: int) -> int:
        """Wait for room and return the bytes to release later. Raises DeviceLostError after `stall_timeout_s`."""
        num_bytes = min(num_bytes, self._capacity)
        deadline = time.monotonic() + self._stall_timeout_s
        with self._changed:
            while self._used + num_bytes > self._capacity:
                if not self._changed.wait(timeout=max(0.0, deadline - time.monotonic())):
                    raise DeviceLostError(f"the worker made no progress for {self._stall_timeout_s:.0f} s")
            self._used += num_bytes
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
