"""Lease book-keeping: which shard is with which worker, and what happens when a worker fails. Pure, no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from pipeline.errors import StorageError, SystemicError, may_pass
from pipeline.execution.activity import Activity
from pipeline.execution.bisection import Bisection
from pipeline.execution.elsewhere import Elsewhere
from pipeline.execution.lease import Lease
from pipeline.execution.node_health import NOWHERE, NodeHealth, Place, said
from pipeline.execution.patience import Patience
from pipeline.execution.splits import SplitShard, without
from pipeline.execution.waiting import OTHERS_FIRST_S, WaitingLeases
from pipeline.records import ImageResult, ImageTask, Shard, ShardKey

__all__ = ["Lease", "LeaseBook"]

# A shard that has taken down this many workers is bisected: the first time may be a machine that went away.
_BISECT_AFTER_LOSSES = 2
# Devices that so many workers lost with the same shard: half of a cluster may be broken, but no shard meets that only.
_MAX_EXCUSES = 8
_MAX_DELAY_S = 60.0


class LeaseBook:
    """Hands out every shard until it is completed or has failed `max_attempts` times.

    Owns the order of work and the attempt counts, not the workers. Draws from `shards` only as leases are taken, so
    a plan of any length costs memory for the outstanding leases alone. A shard that came back is begun before new ones:
    the next worker with room takes it, where its store failed it or its worker had to leave. One that was lost with its
    worker goes to the next that holds nothing, and is alone there, so that a shard that kills workers takes no
    neighbour along twice. One that does it again is bisected until the images that do it are known, on another node
    than the last time wherever there are two: for such a shard, workers there make room. One whose worker lost its
    device is excused, and goes to any worker of another node, beside what that has. A worker whose store failed a
    shard, and others of its node, get it back only when nobody else is at work: they may be the ones that cannot
    reach the store. While a store fails time and again, no new shard is begun. A shard can be split among workers: its
    parts are leased as shards are, and once the rows of all are in, the shard is leased to be committed. Not
    thread-safe: one scheduler owns it.
    """

    def __init__(
        self,
        shards: Iterator[Shard],
        max_attempts: int,
        *,
        num_workers: int = 1,
        clock: Callable[[], float] = monotonic,
        health: NodeHealth | None = None,
        has_several_nodes: bool = False,
    ) -> None:
        self._shards = shards
        self._max_attempts = max_attempts
        self._has_others = num_workers > 1
        self._clock = clock
        self._patience = Patience(num_workers=num_workers, max_attempts=max_attempts)
        health = health or NodeHealth(num_workers=num_workers)
        self._elsewhere = Elsewhere(clock, health, has_several_nodes=has_several_nodes)
        self._returned = WaitingLeases(self._elsewhere)
        self._activity = Activity(OTHERS_FIRST_S)
        self._outstanding: dict[ShardKey, Lease] = {}
        self._held: defaultdict[str, dict[ShardKey, Lease]] = defaultdict(dict)
        self._failures: Counter[ShardKey] = Counter()
        self._losses: Counter[ShardKey] = Counter()
        self._excuses: Counter[ShardKey] = Counter()
        self._bisections: dict[ShardKey, Bisection] = {}
        self._splits: dict[ShardKey, SplitShard] = {}
        self._exhausted = False
        self.num_completed = 0
        self.num_given_back = 0
        self.num_split = 0

    @property
    def num_outstanding(self) -> int:
        """Leases that are held now."""
        return len(self._outstanding)

    @property
    def num_returned(self) -> int:
        """Leases that came back, or parts of them, and wait for another holder."""
        return len(self._returned)

    @property
    def is_exhausted(self) -> bool:
        """True once every shard was taken at least once. Known only after `take` returned None."""
        return self._exhausted

    @property
    def is_finished(self) -> bool:
        """True once nothing is left to take and nothing is held. Known only after `take` returned None."""
        return self._exhausted and not self._returned and not self._outstanding

    def see(self, nodes: Collection[str]) -> None:
        """Take note of which nodes have workers at the moment; to be said about once a second."""
        self._elsewhere.see(nodes)

    def take(self, holder: str, place: Place = NOWHERE) -> Lease | None:
        """Lease the next shard to `holder`, at `place`; None when there is none for this holder at the moment."""
        held, now = self._held.get(holder, {}), self._clock()
        if any(lease.is_alone for lease in held.values()):
            return None
        at_work = partial(self._activity.recent, now)
        returned = self._returned.take(now, holder, place.node, is_busy=bool(held), at_work=at_work)
        if returned is not None:
            return self._begin(replace(returned, holder=holder, place=place))
        if self._returned and self._patience.suspects_store:
            return None
        if held and self._returned and self._returned.needs_room(now, holder, place.node, self._held):
            return None
        shard = None if self._exhausted else next(self._shards, None)
        if shard is None:
            self._exhausted = True
            return None
        return self._begin(Lease(shard, 1, holder, place=place))

    def split(self, lease: Lease, ceded: Sequence[Collection[ImageTask]]) -> Lease | None:
        """Take note of images that the lease's holder has given up, in groups for one worker each.

        Returns the lease that it has from now on, of which the rows have to come back; None when the lease was no
        longer this holder's, and nothing changed.
        """
        if not self._end(lease):
            return None
        key = lease.shard.whole_key
        if lease.shard.part and key not in self._splits:
            # Given up for another part of it: what is ceded is for the next run.
            return self._begin(replace(lease, shard=without(lease.shard, ceded)))
        if key not in self._splits:
            self._splits[key] = SplitShard(lease.shard)
            self.num_split += 1
        kept, parts = self._splits[key].cut(lease.shard, ceded)
        for known in (self._losses, self._failures):  # one of them may hold what took the worker down
            if number := known.pop(lease.shard.key, 0):
                known.update({part.key: number for part in (kept, *parts)})
        for part in (kept, *parts):
            self._elsewhere.inherit(lease.shard.key, part.key)
        for part in parts:
            self._returned.put(self._clock(), Lease(part, lease.attempt, "", is_suspect=lease.is_suspect))
        return self._begin(replace(lease, shard=kept))

    def complete(self, lease: Lease, rows: Sequence[ImageResult] | None = None) -> bool:
        """Record that the lease's work is done: a shard is committed, a probe has passed, the `rows` of a part are in.

        Rows can lack images that the holder has given up without this book's knowledge: these are for others then.
        False when the lease was no longer this holder's.
        """
        if rows is not None:
            there = {row.task.source for row in rows}
            lacking = [task for task in lease.shard.tasks if task.source not in there]
            lease = (self.split(lease, [lacking]) or lease) if lacking else lease
        if not self._end(lease):
            return False
        if not lease.shard.quarantined or len(lease.shard.quarantined) < len(lease.shard.tasks):
            self._patience.succeeded()
            is_whole = not (lease.shard.is_probe or lease.shard.quarantined)
            if not lease.rows:
                self._elsewhere.converted(lease.shard.key, lease.place, is_whole=is_whole)
        if lease.shard.is_probe:
            self._return(lease, self._next_step(lease.shard.key))
            return True
        self._forget(lease.shard.key)
        if rows is None:
            self.num_completed += 1
        else:
            self._collect(lease, rows)
        return True

    def _collect(self, lease: Lease, rows: Sequence[ImageResult]) -> None:
        split = self._splits.get(lease.shard.whole_key)
        if split is None:
            return  # the shard was given up for another part of it
        split.add(rows, lease.attempt)
        whole = split.whole()
        if whole is not None:
            del self._splits[lease.shard.whole_key]
            self._returned.put(self._clock(), Lease(whole[0], split.attempt, "", whole[1]))

    def give_back(self, lease: Lease, error: StorageError, *, delay_s: float = 0.0) -> None:
        """Return a lease whose attempt failed for its store, its worker being sound.

        Given up after `max_attempts`, or at once where no further attempt can mend it.
        `delay_s` holds the first retry back; it doubles with each further attempt, up to a minute. Raises the store's
        error, with how often it was met, when several shards in a row were given up, or so many attempts failed, and
        none succeeded in between.
        """
        if not self._end(lease):
            return
        self.num_given_back += 1
        self._patience.failed(error)
        self._failures[lease.shard.key] += 1
        num_failures = self._failures[lease.shard.key]
        if num_failures < self._max_attempts and may_pass(error):
            self._return(lease, lease.shard, delay_s * 2 ** (num_failures - 1), is_refused=self._has_others)
        else:
            self._give_up(lease, error)

    def lose(
        self, lease: Lease, code: str, reason: str, suspects: Collection[str] = (), *, is_proven: bool = False
    ) -> None:
        """Return a lease whose worker went down with it; `code` is that of the QuarantinedError that it would be.

        `suspects` are sources that the worker did not come to an end with. The shard is tried again, then bisected.
        Raises WorkerLostError when so many were lost in a row that it cannot be the images; what `is_proven` to be a
        suspect's doing does not count there.
        """
        if not self._end(lease):
            return
        self.num_given_back += 1
        key = lease.shard.key
        lease = replace(lease, is_suspect=True)
        self._elsewhere.lost(key, lease.holder, lease.place)
        if is_proven:
            self._patience.proven()
        else:
            self._patience.lost(reason, is_first=lease.attempt == 1)
        if lease.shard.is_probe:
            self._bisections[key].lost(lease.shard, code, reason, suspects, lease.place.node)
            self._return(lease, self._next_step(key))
            return
        self._losses[key] += 1
        suspects = {task.source for task in lease.shard.tasks}.intersection(suspects)
        if self._losses[key] < _BISECT_AFTER_LOSSES and not suspects:
            self._return(lease, lease.shard)
        elif self._losses[key] <= self._max_attempts:
            self._bisections[key] = Bisection(lease.shard, suspects, lease.place.node)
            self._return(lease, self._next_step(key))
        else:
            self._give_up(lease, reason)

    def excuse(self, lease: Lease, error: SystemicError) -> None:
        """Return a lease whose holder lost its device, or cannot decode any more: no image does that.

        Nothing is counted against any; a shard that so many workers failed with is left undone, for this error.
        """
        if not self._end(lease):
            return
        self.num_given_back += 1
        key = lease.shard.key
        lease = replace(lease, is_suspect=True)
        self._elsewhere.lost(key, lease.holder, lease.place, is_excused=True)
        self._excuses[key] += 1
        # Time and again it may have lain beside what did it: from then on it is alone.
        is_excused = not (self._losses[key] or self._failures[key] or key in self._bisections)
        is_excused &= self._excuses[key] < _MAX_EXCUSES // 2
        if self._excuses[key] < _MAX_EXCUSES:
            self._return(lease, lease.shard, is_excused=is_excused)
        else:
            self._give_up(lease, said(error, f"{_MAX_EXCUSES} workers failed like this with the same shard"))

    def release(self, lease: Lease) -> None:
        """Return a lease whose holder has to leave: the shard failed nobody, and nothing is counted against it."""
        if self._end(lease):
            self.num_given_back += 1
            self._return(lease, lease.shard, is_excused=lease.is_excused)

    def held_by(self, holder: str) -> list[Lease]:
        """The leases that `holder` has now."""
        return list(self._held.get(holder, {}).values())

    def raise_if_given_up(self) -> None:
        """See `Patience.raise_if_given_up`."""
        self._patience.raise_if_given_up()

    def _next_step(self, key: ShardKey) -> Shard:
        """The next probe of a shard under bisection, or the whole of it with what was found."""
        bisection = self._bisections[key]
        return bisection.next() or bisection.final()

    def _begin(self, lease: Lease) -> Lease:
        lease = replace(lease, is_last=self._failures[lease.shard.key] + 1 >= self._max_attempts)
        self._activity.began(lease.holder, lease.place.node)
        self._outstanding[lease.shard.key] = self._held[lease.holder][lease.shard.key] = lease
        return lease

    def _end(self, lease: Lease) -> bool:
        if self._outstanding.get(lease.shard.key) != lease:
            return False
        del self._outstanding[lease.shard.key]
        held = self._held[lease.holder]
        del held[lease.shard.key]
        if not held:
            del self._held[lease.holder]
            self._activity.ended(self._clock(), lease.holder, lease.place.node)
        return True

    def _return(
        self, lease: Lease, shard: Shard, delay_s: float = 0.0, *, is_excused: bool = False, is_refused: bool = False
    ) -> None:
        due = self._clock() + min(_MAX_DELAY_S, delay_s)
        rows = lease.rows if shard == lease.shard else ()  # what was stored is adopted after a bisection
        again = replace(lease, shard=shard, attempt=lease.attempt + 1, rows=rows, is_excused=is_excused)
        bisection = self._bisections.get(shard.key)
        struck_on = bisection.struck_on(shard) if bisection else frozenset()
        # One that nobody was lost with endangers nobody, whoever has it beside other work.
        self._returned.put(due, again, struck_on, is_refused=is_refused, is_shared=not lease.is_suspect)

    def _give_up(self, lease: Lease, cause: str | StorageError | SystemicError) -> None:
        """Of a part: the others are not begun any more, and what comes of those at work is for the next run."""
        key = lease.shard.whole_key
        self._forget(lease.shard.key)
        self._splits.pop(key, None)
        self._returned.drop(lambda other: other.shard.whole_key == key)
        self._patience.gave_up(key, cause)

    def _forget(self, key: ShardKey) -> None:
        for known in (self._failures, self._losses, self._excuses, self._bisections):
            known.pop(key, None)
        self._elsewhere.forget(key)
