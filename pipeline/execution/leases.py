"""Lease book-keeping: which shard is with which worker, and what happens when a worker fails. Pure, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.errors import WorkerLostError
from pipeline.records import Shard

# With this many shards given up and none finished, the job is misconfigured: go no further.
_HOPELESS_SHARDS = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `holder` to attempt one shard. `attempt` counts from 1 within one run of the driver."""

    shard: Shard
    attempt: int
    holder: str


class LeaseBook:
    """Hands out every shard until it is completed or has failed `max_attempts` times.

    Owns the order of work and the attempt counts, not the workers. Draws from `shards` only as leases are taken, so
    a plan of any length costs memory for the outstanding leases alone. Shards that were given back go first, so
    that a failing shard is known before the end of the job. Not thread-safe: one scheduler owns it.
    """

    def __init__(self, shards: Iterator[Shard], max_attempts: int) -> None:
        self._shards = shards
        self._max_attempts = max_attempts
        self._returned: deque[Lease] = deque()
        self._outstanding: dict[tuple[int, int], Lease] = {}
        self._given_up: dict[tuple[int, int], str] = {}
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
        """Lease the next shard to `holder`; None when there is none to take at the moment."""
        if self._returned:
            lease = replace(self._returned.popleft(), holder=holder)
        else:
            shard = None if self._exhausted else next(self._shards, None)
            if shard is None:
                self._exhausted = True
                return None
            lease = Lease(shard, 1, holder)
        self._outstanding[_identity(lease)] = lease
        return lease

    def complete(self, lease: Lease) -> bool:
        """Record that the shard is committed; False when the lease was no longer this holder's."""
        if self._outstanding.get(_identity(lease)) != lease:
            return False
        del self._outstanding[_identity(lease)]
        self.num_completed += 1
        return True

    def give_back(self, lease: Lease, reason: str) -> None:
        """Return a lease whose attempt failed. Its shard is tried again, or given up after `max_attempts`.

        Raises WorkerLostError at once when several shards were given up and none ever succeeded.
        """
        if self._outstanding.get(_identity(lease)) != lease:
            return
        del self._outstanding[_identity(lease)]
        self.num_given_back += 1
        if lease.attempt < self._max_attempts:
            self._returned.append(replace(lease, attempt=lease.attempt + 1))
            return
        self._given_up[_identity(lease)] = reason
        if self.num_completed == 0 and len(self._given_up) >= _HOPELESS_SHARDS:
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
