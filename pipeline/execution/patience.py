"""When a job ends because nothing works any more: what failed in a row, and what was given up. Pure, no I/O."""

from __future__ import annotations

from pipeline.errors import (
    HdrfleetError,
    StorageError,
    SystemicError,
    TransientStorageError,
    WorkerLostError,
    may_pass,
)
from pipeline.records import ShardKey

# With this many shards given up since the last success, the job's surroundings are broken: go no further.
_HOPELESS_SHARDS = 3
# With this many failures of the store and nothing in between, no new shard is begun; with more, the store is gone.
# Two more for each worker, whose attempts fail at the same time.
_SUSPICIOUS_FAILURES = 3
_HOPELESS_FAILURES = 8
# With this many workers lost in a row on shards that were alone on them, it is not the images. Two more for each
# worker: a whole cluster may go away, and once more while it comes back.
HOPELESS_LOSSES = 12
KEPT = "Committed shards are kept: run the same command again once the cause is removed"


class Patience:
    """Counts what went wrong since the last success, and raises where there were too many of a kind."""

    def __init__(self, *, num_workers: int, max_attempts: int) -> None:
        self._hopeless_losses = HOPELESS_LOSSES + 2 * num_workers
        self._hopeless_failures = _HOPELESS_FAILURES + 2 * num_workers
        self._max_attempts = max_attempts
        self._given_up: dict[ShardKey, str | StorageError | SystemicError] = {}
        self._num_given_up_in_a_row = 0
        self._num_lost_in_a_row = 0
        self._num_failed_in_a_row = 0

    @property
    def suspects_store(self) -> bool:
        """Whether attempts failed for their store time and again, and none succeeded in between."""
        return self._num_failed_in_a_row >= _SUSPICIOUS_FAILURES

    def succeeded(self) -> None:
        """Something was converted."""
        self._num_lost_in_a_row = self._num_given_up_in_a_row = self._num_failed_in_a_row = 0

    def proven(self) -> None:
        """A worker was lost through a known image, right after its device had converted something."""
        self._num_lost_in_a_row = 0

    def failed(self, error: StorageError) -> None:
        """An attempt failed for its store. Raises the error, saying how often, where it is gone."""
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row >= self._hopeless_failures:
            often = (
                f"{self._num_failed_in_a_row} attempts in a row failed for their store and none succeeded in between"
            )
            raise _said(error, often) from error

    def lost(self, reason: str, *, is_first: bool) -> None:
        """A worker went down with a lease. Raises WorkerLostError where so many did that it cannot be the images.

        A first loss says nothing: half of a cluster may go away at once.
        """
        self._num_lost_in_a_row += not is_first
        if self._num_lost_in_a_row >= self._hopeless_losses:
            raise WorkerLostError(
                f"{self._num_lost_in_a_row} workers in a row were lost at work and nothing was converted in between; "
                f"the last one: {reason}. {KEPT}"
            )

    def gave_up(self, key: ShardKey, cause: str | StorageError | SystemicError) -> None:
        """No attempt at a shard is left; of several parts of it the first one counts. Raises as `raise_if_given_up`."""
        if key in self._given_up:
            return
        self._given_up[key] = cause
        self._num_given_up_in_a_row += 1
        if self._num_given_up_in_a_row >= _HOPELESS_SHARDS:
            self.raise_if_given_up()

    def raise_if_given_up(self) -> None:
        """Raise what the first shard that no attempt could finish was given up for; its work is not lost but undone.

        The store's error where that failed, which is more than the workers did, the device's likewise, else
        WorkerLostError.
        """
        if not self._given_up:
            return
        (plan, shard, _), cause = next(iter(self._given_up.items()))
        others = f" and {len(self._given_up) - 1} more" if len(self._given_up) > 1 else ""
        times = f"{self._max_attempts} times"
        failed = f"shard {shard} of plan {plan}{others} failed"
        if isinstance(cause, StorageError):
            raise _said(cause, f"{failed} {times if may_pass(cause) else 'at once'} for its store") from cause
        if isinstance(cause, SystemicError):
            raise type(cause)(f"{cause}; so shard {shard} of plan {plan}{others} is left undone") from cause
        raise WorkerLostError(f"{failed} {times}; the last time: {cause}. {KEPT}")


def _said(error: StorageError, often: str) -> HdrfleetError:
    """The same error, whose text begins with the object that was asked for, saying how often it was met."""
    kept = "" if isinstance(error, TransientStorageError) else f". {KEPT}"  # of those the command says so itself
    return type(error)(f"{error}; {often}{kept}")
