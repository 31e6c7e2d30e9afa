"""The one level at which storage operations are retried."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import tenacity

from pipeline.config import StorageConfig
from pipeline.errors import TransientStorageError

_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 20.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class RetryPolicy:
    """Retries TransientStorageError and nothing else: exponential backoff with full jitter, bounded twice.

    No attempt starts after `max_attempts` tries or once `max_retry_s` seconds would have passed. Full jitter, that is
    a wait drawn evenly from 0 to min(20 s, 0.25 s * 2**n), keeps a fleet that was throttled together from coming
    back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    def __init__(
        self, *, max_attempts: int, max_retry_s: float, sleep: Callable[[float], None] = tenacity.nap.sleep
    ) -> None:
        self._max_attempts = max_attempts
        self._max_retry_s = max_retry_s
        self._sleep = sleep

    @classmethod
    def from_config(cls, config: StorageConfig) -> RetryPolicy:
        """Take the bounds of one store's configuration."""
        return cls(max_attempts=config.max_attempts, max_retry_s=config.max_retry_s)

    def call(self, operation: Callable[[], T]) -> T:
        """Run `operation` until it returns, fails for good, or the bounds are spent.

        Raises what the operation raised; for the last TransientStorageError a new one that says how long was tried.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._max_attempts) | tenacity.stop_before_delay(self._max_retry_s),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            retry=tenacity.retry_if_exception_type(TransientStorageError),
            before_sleep=_log_retry,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(operation)
        except TransientStorageError as error:
            num_attempts = int(retrying.statistics.get("attempt_number", 1))
            if num_attempts == 1:
                raise
            msg = f"{error}; gave up after {num_attempts} attempts"
            raise TransientStorageError(msg) from error


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = state.next_action.sleep if state.next_action else 0.0
    logger.info("storage attempt %d failed (%s); next in %.1f s", state.attempt_number, error, wait_s)
