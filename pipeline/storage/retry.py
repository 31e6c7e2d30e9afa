"""The one level at which storage operations are retried."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import tenacity

from pipeline.config import StorageConfig
from pipeline.errors import TransientStorageError

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 20.0
SLOWEST_BYTES_PER_S = 128 * 2**10
"""Slower transfers than this count as stalled: it turns a size into the longest time that its transfer may take."""

T = TypeVar("T")

logger = logging.getLogger(__name__)

_retries_lock = threading.Lock()
_num_retries = 0


def num_retries() -> int:
    """How many requests this process has tried again so far, whatever the store."""
    return _num_retries


def asking_to_wait(error: TransientStorageError, retry_after: str | None) -> TransientStorageError:
    """Return `error` with what a Retry-After header asks for in seconds; a date is not looked at."""
    if retry_after and retry_after.isascii() and retry_after.isdigit():
        error.retry_after_s = float(retry_after)
    return error


class RetryPolicy:
    """Retries TransientStorageError and nothing else: exponential backoff with full jitter, bounded twice.

    No attempt starts after `max_attempts` tries or once `max_retry_s` seconds would have passed. Full jitter, that is
    a wait drawn evenly from 0 to min(20 s, 0.25 s * 2**n), keeps a fleet that was throttled together from coming
    back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). What a store asks for
    with Retry-After (at most 20 s of it) comes on top.
    """

    def __init__(
        self,
        *,
        max_attempts: int,
        max_retry_s: float,
        sleep: Callable[[float], None] = tenacity.nap.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_attempts = max_attempts
        self._max_retry_s = max_retry_s
        self._sleep = sleep
        self._clock = clock

    @classmethod
    def from_config(cls, config: StorageConfig) -> RetryPolicy:
        """Take the bounds of one store's configuration."""
        return cls(max_attempts=config.max_attempts, max_retry_s=config.max_retry_s)

    def call(self, operation: Callable[[], T]) -> T:
        """Run `operation` until it returns, fails for good, or the bounds are spent.

        Raises what the operation raised; for the last TransientStorageError a new one that says how long was tried.
        """
        started = self._clock()

        def is_spent(state: tenacity.RetryCallState) -> bool:
            elapsed_s = self._clock() - started
            return state.attempt_number >= self._max_attempts or elapsed_s + state.upcoming_sleep >= self._max_retry_s

        retrying = tenacity.Retrying(
            stop=is_spent,
            wait=_wait_s,
            retry=tenacity.retry_if_exception_type(TransientStorageError),
            before_sleep=_note_retry,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(operation)
        except TransientStorageError as error:
            num_attempts = int(retrying.statistics.get("attempt_number", 1))
            if num_attempts == 1:
                raise
            msg = f"{error}; gave up after {num_attempts} attempts in {self._clock() - started:.0f} s"
            raise TransientStorageError(msg) from error


_jittered_s = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)


def _wait_s(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, TransientStorageError) else 0.0
    return min(asked_s, _LONGEST_WAIT_S) + _jittered_s(state)


def _note_retry(state: tenacity.RetryCallState) -> None:
    global _num_retries  # noqa: PLW0603  a count of the process, like those of its memory
    with _retries_lock:
        _num_retries += 1
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0.0
    logger.info("storage attempt %d failed (%s); next in %.1f s", state.attempt_number, error, wait_s)
