"""Leases that came back, or parts of them, and the holder that each of them waits for. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Set
from dataclasses import dataclass

from pipeline.execution.elsewhere import Elsewhere
from pipeline.execution.lease import Lease
from pipeline.execution.lease_queue import ReturnQueue

# Those who hold nothing ask for leases once a second: a busy holder leaves them what they would take.
_IDLE_FIRST_S = 2.0
# A lease waits at least this long for those who have not refused it, and as long as any of them is at work.
OTHERS_FIRST_S = 10.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    lease: Lease
    struck_on: Set[str]
    is_refused: bool
    is_shared: bool
    due: float

    @property
    def is_for_busy(self) -> bool:
        """Whether holders that have leases may take it, too."""
        return self.lease.is_excused or self.is_shared

    def suits_busy(self, now: float) -> bool:
        """Whether they may by now: a shared one is left to those that hold nothing for a moment."""
        return self.lease.is_excused or (self.is_shared and now >= self.due + _IDLE_FIRST_S)


class WaitingLeases:
    """The first that suits a holder is taken first.

    Excused and shared ones suit those as well that are busy: they endanger nobody, and in a long job nobody is ever
    without a lease. All others suit those alone that hold nothing. Of several nodes, see `Elsewhere.prefers`: where
    workers that are always busy are waited for, as many of them as leases wait have to make room. One that `is_refused`
    by its last holder goes to other nodes, to other holders where there is but one node, and back once none of these is
    at work.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere
        self._queue: ReturnQueue[_Waiting] = ReturnQueue()
        self._num_for_busy = 0
        self._making_room: set[str] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def put(
        self,
        due: float,
        lease: Lease,
        struck_on: Set[str] = frozenset(),
        *,
        is_refused: bool = False,
        is_shared: bool = False,
    ) -> None:
        """Keep a lease until the time `due` and from then on; `struck_on` as in `Elsewhere.prefers`."""
        waiting = _Waiting(lease, struck_on, is_refused, is_shared, due)
        self._queue.put(due, waiting)
        self._num_for_busy += waiting.is_for_busy

    def take(
        self,
        now: float,
        holder: str,
        node: str,
        *,
        is_busy: bool,
        at_work: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> Lease | None:
        """Remove and return a lease for this holder on this node; None where none suits.

        `is_busy`: it has leases. `at_work` gives the holders that have any, or had some of late, and their nodes.
        """
        if not self._queue or (is_busy and not self._num_for_busy):
            return None
        others: list[tuple[str, str]] = []

        def is_left(waiting: _Waiting) -> bool:
            if now < waiting.due + OTHERS_FIRST_S:
                return False
            others.extend(() if others else at_work())
            return all(self._has_refused(waiting, *other) for other in others)

        def suits(waiting: _Waiting) -> bool:
            if is_busy and not waiting.suits_busy(now):
                return False
            if self._has_refused(waiting, holder, node) and not is_left(waiting):
                return False
            return self._prefers(waiting, node) is not False

        found = self._queue.take(now, suits)
        if found is None:
            return None
        self._num_for_busy -= found.is_for_busy
        self._making_room.discard(holder)
        return found.lease

    def needs_room(self, now: float, holder: str, node: str, busy: Container[str]) -> bool:
        """Whether this holder is to come to an end with what it has, for a lease that has to be alone on its node.

        `busy` has all holders that have a lease.
        """

        def waits_for_it(waiting: _Waiting) -> bool:
            return not self._has_refused(waiting, holder, node) and self._prefers(waiting, node) is True

        num_waiting = self._queue.num_due(now, waits_for_it)
        others = {other for other in self._making_room if other in busy and other != holder}
        self._making_room = others | {holder} if num_waiting > len(others) else others
        return holder in self._making_room

    def drop(self, is_void: Callable[[Lease], bool]) -> None:
        """Remove what nobody needs any more; takes linear time."""
        self._queue.drop(lambda waiting: is_void(waiting.lease))
        self._num_for_busy = self._queue.num_all(lambda waiting: waiting.is_for_busy)

    def _has_refused(self, waiting: _Waiting, holder: str, node: str) -> bool:
        """Whether it is this holder, or another one of its node, whose store failed the lease."""
        last = waiting.lease
        if not waiting.is_refused:
            return False
        return last.holder == holder or (last.place.node == node and self._elsewhere.has_others(node))

    def _prefers(self, waiting: _Waiting, node: str) -> bool | None:
        return self._elsewhere.prefers(waiting.lease.shard.key, node, waiting.struck_on)
