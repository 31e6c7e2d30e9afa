"""Lease book-keeping: which shard is with which worker, and what happens when a worker fails. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic

from pipeline.errors import WorkerLostError
from pipeline.records import Shard

# With this many shards given up since the last success, the job's surroundings are broken: go no further.
_HOPELESS_SHARDS = 3
_MAX_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder` to attempt one shard. `attempt` counts from 1 within one run of the driver."""

    shard: Shard
    attempt: int
    holder: str


class LeaseBook:
    """Hands out every shard until it is completed or has failed `max_attempts` times.

    Owns the order of work and the attempt counts, not the workers. Draws from `shards` only as leases are taken, so
    a plan of any length costs memory for the outstanding leases alone. Shards that were given back go before new
    ones, so that a failing shard is known before the end of the job, and each of them alone on its worker, so that a
    shard that kills workers takes no neighbour along twice. Not thread-safe: one scheduler owns it.
    """

    def __init__(self, shards: Iterator[Shard], max_attempts: int, *, clock: Callable[[], float] = monotonic) -> None:
        self._shards = shards
        self._max_attempts = max_attempts
        self._clock = clock
        self._returned: list[tuple[float, Lease]] = []
        self._outstanding: dict[tuple[int, int], Lease] = {}
        self._given_up: dict[tuple[int, int], str] = {}
        self._num_given_up_in_a_row = 0
        self._exhausted = False
        self.num_completed = 0
        self.num_given_back = 0

    @property
    def num_outstanding(self) -> int:
        """Leases that are held now."""
        return len(self._outstanding)

    @property
    def is_finished(self) -> bool:
        """True once nothing is left to take and nothing is held. Known only after `take` returned None."""
        return self._exhausted and not self._returned and not self._outstanding

    def take(self, holder: str) -> Lease | None:
        """Lease the next shard to `holder`; None when there is none for this holder at the moment."""
        held = self.held_by(holder)
        if any(lease.attempt > 1 for lease in held):
            return None
        lease = None if held else self._take_returned(holder)
        if lease is None:
            shard = None if self._exhausted else next(self._shards, None)
            if shard is None:
                self._exhausted = True
                return None
            lease = Lease(shard, 1, holder)
        self._outstanding[_identity(lease)] = lease
        return lease

    def _take_returned(self, holder: str) -> Lease | None:
        now = self._clock()
        for index, (due, lease) in enumerate(self._returned):
            if due <= now:
                del self._returned[index]
                return replace(lease, holder=holder)
        return None

    def complete(self, lease: Lease) -> bool:
        """Record that the shard is committed; False when the lease was no longer this holder's."""
        if self._outstanding.get(_identity(lease)) != lease:
            return False
        del self._outstanding[_identity(lease)]
        self.num_completed += 1
        self._num_given_up_in_a_row = 0
        return True

    def give_back(self, lease: Lease, reason: str, *, delay_s: float = 0.0) -> None:
        """Return a lease whose attempt failed. Its shard is tried again, or given up after `max_attempts`.

        `delay_s` holds the first retry back; it doubles with each further attempt, up to a minute. Raises
        WorkerLostError when several shards in a row were given up and none succeeded in between.
        """
        if self._outstanding.get(_identity(lease)) != lease:
            return
        del self._outstanding[_identity(lease)]
        self.num_given_back += 1
        if lease.attempt < self._max_attempts:
            due = self._clock() + min(_MAX_DELAY_S, delay_s * 2 ** (lease.attempt - 1))
            self._returned.append((due, replace(lease, attempt=lease.attempt + 1)))
            return
        self._given_up[_identity(lease)] = reason
        self._num_given_up_in_a_row += 1
        if self._num_given_up_in_a_row >= _HOPELESS_SHARDS:
            self.raise_if_given_up()

    def held_by(self, holder: str) -> list[Lease]:
        """The leases that `holder` has now."""
        return [lease for lease in self._outstanding.values() if lease.holder == holder]

    def raise_if_given_up(self) -> None:
        """Raise WorkerLostError naming the shards that no attempt could finish; their work is not lost but undone."""
        if not self._given_up:
            return
        (plan, shard), reason = next(iter(self._given_up.items()))
        others = f" and {len(self._given_up) - 1} more" if len(self._given_up) > 1 else ""
        raise WorkerLostError(
            f"shard {shard} of plan {plan}{others} failed {self._max_attempts} times; the last time: {reason}. "
            "Committed shards are kept: run the same command again once the cause is removed"
        )


def _identity(lease: Lease) -> tuple[int, int]:
    return lease.shard.plan, lease.shard.shard
