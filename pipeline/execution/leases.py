"""Lease book-keeping: which shard is with which worker, and what happens when a worker fails. Pure, no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from time import monotonic

from pipeline.errors import HdrfleetError, StorageError, TransientStorageError, WorkerLostError
from pipeline.execution.bisection import Bisection
from pipeline.execution.lease_queue import ReturnQueue
from pipeline.records import Shard

# With this many shards given up since the last success, the job's surroundings are broken: go no further.
_HOPELESS_SHARDS = 3
# With this many failures of the store and nothing in between, no new shard is begun; with more, the store is gone.
# Two more for each worker, whose attempts fail at the same time.
_SUSPICIOUS_FAILURES = 3
_HOPELESS_FAILURES = 8
# A shard that has taken down this many workers is bisected: the first time may be a machine that went away.
_BISECT_AFTER_LOSSES = 2
# With this many workers lost in a row on shards that were alone on them, it is not the images. Two more for each
# worker: a whole cluster may go away, and once more while it comes back.
_HOPELESS_LOSSES = 12
_MAX_DELAY_S = 60.0
_KEPT = "Committed shards are kept: run the same command again once the cause is removed"

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder` to attempt a shard, or a probe of one. `attempt` counts from 1 in one run of the driver."""

    shard: Shard
    attempt: int
    holder: str


class LeaseBook:
    """Hands out every shard until it is completed or has failed `max_attempts` times.

    Owns the order of work and the attempt counts, not the workers. Draws from `shards` only as leases are taken, so
    a plan of any length costs memory for the outstanding leases alone. A shard that was given back goes to the next
    worker that holds nothing, before new ones, and is alone there, so that a shard that kills workers takes no
    neighbour along twice. One that does it again is bisected until the images that do it are known. While a store
    fails time and again, no new shard is begun. Not thread-safe: one scheduler owns it.
    """

    def __init__(
        self,
        shards: Iterator[Shard],
        max_attempts: int,
        *,
        num_workers: int = 1,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._shards = shards
        self._max_attempts = max_attempts
        self._hopeless_losses = _HOPELESS_LOSSES + 2 * num_workers
        self._hopeless_failures = _HOPELESS_FAILURES + 2 * num_workers
        self._clock = clock
        self._returned: ReturnQueue[Lease] = ReturnQueue()
        self._outstanding: dict[_Identity, Lease] = {}
        self._held: defaultdict[str, dict[_Identity, Lease]] = defaultdict(dict)
        self._failures: Counter[_Identity] = Counter()
        self._losses: Counter[_Identity] = Counter()
        self._bisections: dict[_Identity, Bisection] = {}
        self._given_up: dict[_Identity, str | StorageError] = {}
        self._num_given_up_in_a_row = 0
        self._num_lost_in_a_row = 0
        self._num_failed_in_a_row = 0
        self._exhausted = False
        self.num_completed = 0
        self.num_given_back = 0

    @property
    def num_outstanding(self) -> int:
        """Leases that are held now."""
        return len(self._outstanding)

    @property
    def num_returned(self) -> int:
        """Leases that came back and wait for another holder."""
        return len(self._returned)

    @property
    def is_exhausted(self) -> bool:
        """True once every shard was taken at least once. Known only after `take` returned None."""
        return self._exhausted

    @property
    def is_finished(self) -> bool:
        """True once nothing is left to take and nothing is held. Known only after `take` returned None."""
        return self._exhausted and not self._returned and not self._outstanding

    def take(self, holder: str) -> Lease | None:
        """Lease the next shard to `holder`; None when there is none for this holder at the moment."""
        held = self._held.get(holder, {})
        if any(lease.attempt > 1 for lease in held.values()):
            return None
        returned = None if held else self._returned.take(self._clock())
        if returned is not None:
            lease = replace(returned, holder=holder)
        else:
            if self._returned and self._num_failed_in_a_row >= _SUSPICIOUS_FAILURES:
                return None
            shard = None if self._exhausted else next(self._shards, None)
            if shard is None:
                self._exhausted = True
                return None
            lease = Lease(shard, 1, holder)
        self._outstanding[_identity(lease)] = self._held[holder][_identity(lease)] = lease
        return lease

    def complete(self, lease: Lease) -> bool:
        """Record that the lease's work is done: a shard is committed, a probe has passed.

        False when the lease was no longer this holder's.
        """
        if not self._end(lease):
            return False
        if not lease.shard.quarantined or len(lease.shard.quarantined) < len(lease.shard.tasks):
            self._num_lost_in_a_row = self._num_given_up_in_a_row = self._num_failed_in_a_row = 0
        if lease.shard.is_probe:
            self._return(lease, self._next_step(_identity(lease)))
            return True
        self._forget(_identity(lease))
        self.num_completed += 1
        return True

    def give_back(self, lease: Lease, error: StorageError, *, delay_s: float = 0.0) -> None:
        """Return a lease whose attempt failed for its store, its worker being sound; given up after `max_attempts`.

        `delay_s` holds the first retry back; it doubles with each further attempt, up to a minute. Raises the store's
        error, with how often it was met, when several shards in a row were given up, or so many attempts failed, and
        none succeeded in between.
        """
        if not self._end(lease):
            return
        self.num_given_back += 1
        self._count_failure(error)
        self._failures[_identity(lease)] += 1
        num_failures = self._failures[_identity(lease)]
        if num_failures < self._max_attempts:
            self._return(lease, lease.shard, delay_s * 2 ** (num_failures - 1))
        else:
            self._give_up(lease, error)

    def lose(self, lease: Lease, code: str, reason: str, suspects: Collection[str] = ()) -> None:
        """Return a lease whose worker went down with it; `code` is that of the QuarantinedError that it would be.

        `suspects` are sources that the worker did not come to an end with. The shard is tried again, then bisected.
        Raises WorkerLostError when so many were lost in a row that it cannot be the images.
        """
        if not self._end(lease):
            return
        self.num_given_back += 1
        key = _identity(lease)
        self._count_loss(lease, reason)
        if lease.shard.is_probe:
            self._bisections[key].lost(lease.shard, code, reason, suspects)
            self._return(lease, self._next_step(key))
            return
        self._losses[key] += 1
        suspects = {task.source for task in lease.shard.tasks}.intersection(suspects)
        if self._losses[key] < _BISECT_AFTER_LOSSES and not suspects:
            self._return(lease, lease.shard)
        elif self._losses[key] <= self._max_attempts:
            self._bisections[key] = Bisection(lease.shard, suspects)
            self._return(lease, self._next_step(key))
        else:
            self._give_up(lease, reason)

    def release(self, lease: Lease) -> None:
        """Return a lease whose holder has to leave: the shard failed nobody, and nothing is counted against it."""
        if self._end(lease):
            self.num_given_back += 1
            self._return(lease, lease.shard)

    def held_by(self, holder: str) -> list[Lease]:
        """The leases that `holder` has now."""
        return list(self._held.get(holder, {}).values())

    def raise_if_given_up(self) -> None:
        """Raise what the first shard that no attempt could finish was given up for; its work is not lost but undone.

        The store's error where that failed, which is more than the workers did, else WorkerLostError.
        """
        if not self._given_up:
            return
        (plan, shard), cause = next(iter(self._given_up.items()))
        others = f" and {len(self._given_up) - 1} more" if len(self._given_up) > 1 else ""
        failed = f"shard {shard} of plan {plan}{others} failed {self._max_attempts} times"
        if isinstance(cause, StorageError):
            raise _said(cause, f"{failed} for its store") from cause
        raise WorkerLostError(f"{failed}; the last time: {cause}. {_KEPT}")

    def _count_failure(self, error: StorageError) -> None:
        self._num_failed_in_a_row += 1
        if self._num_failed_in_a_row >= self._hopeless_failures:
            often = (
                f"{self._num_failed_in_a_row} attempts in a row failed for their store and none succeeded in between"
            )
            raise _said(error, often) from error

    def _count_loss(self, lease: Lease, reason: str) -> None:
        """A first loss says nothing: half of a cluster may go away at once."""
        self._num_lost_in_a_row += lease.attempt > 1
        if self._num_lost_in_a_row >= self._hopeless_losses:
            raise WorkerLostError(
                f"{self._num_lost_in_a_row} workers in a row were lost at work and nothing was converted in between; "
                f"the last one: {reason}. {_KEPT}"
            )

    def _next_step(self, key: _Identity) -> Shard:
        """The next probe of a shard under bisection, or the whole of it with what was found."""
        bisection = self._bisections[key]
        return bisection.next() or bisection.final()

    def _end(self, lease: Lease) -> bool:
        if self._outstanding.get(_identity(lease)) != lease:
            return False
        del self._outstanding[_identity(lease)]
        held = self._held[lease.holder]
        del held[_identity(lease)]
        if not held:
            del self._held[lease.holder]
        return True

    def _return(self, lease: Lease, shard: Shard, delay_s: float = 0.0) -> None:
        due = self._clock() + min(_MAX_DELAY_S, delay_s)
        self._returned.put(due, replace(lease, shard=shard, attempt=lease.attempt + 1))

    def _give_up(self, lease: Lease, cause: str | StorageError) -> None:
        self._forget(_identity(lease))
        self._given_up[_identity(lease)] = cause
        self._num_given_up_in_a_row += 1
        if self._num_given_up_in_a_row >= _HOPELESS_SHARDS:
            self.raise_if_given_up()

    def _forget(self, key: _Identity) -> None:
        for known in (self._failures, self._losses, self._bisections):
            known.pop(key, None)


def _said(error: StorageError, often: str) -> HdrfleetError:
    """The same error, whose text begins with the object that was asked for, saying how often it was met."""
    kept = "" if isinstance(error, TransientStorageError) else f". {_KEPT}"  # of those the command says so itself
    return type(error)(f"{error}; {often}{kept}")


def _identity(lease: Lease) -> _Identity:
    return lease.shard.plan, lease.shard.shard
