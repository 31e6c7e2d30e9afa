"""Leases that came back, or parts of them, and the holder that each of them waits for. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Container, Set
from dataclasses import dataclass

from pipeline.execution.elsewhere import Elsewhere
from pipeline.execution.lease import Lease
from pipeline.execution.lease_queue import ReturnQueue

# Those who hold nothing ask for leases once a second: whoever is left after this long is alone.
_OTHERS_FIRST_S = 10.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    lease: Lease
    struck_on: Set[str]
    is_refused: bool
    due: float


class WaitingLeases:
    """The first that suits a holder is taken first.

    All but excused ones suit those alone that hold nothing. Of several nodes, see `Elsewhere.prefers`: where workers
    that are always busy are waited for, as many of them as leases wait have to make room. One that `is_refused` by its
    last holder goes to other nodes, to other holders where there is but one node, and back once nobody else takes it.
    """

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere
        self._queue: ReturnQueue[_Waiting] = ReturnQueue()
        self._num_excused = 0
        self._making_room: set[str] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, due: float, lease: Lease, struck_on: Set[str] = frozenset(), *, is_refused: bool = False) -> None:
        """Keep a lease until the time `due` and from then on; `struck_on` as in `Elsewhere.prefers`."""
        self._queue.put(due, _Waiting(lease, struck_on, is_refused, due))
        self._num_excused += lease.is_excused

    def take(
        self, now: float, holder: str, node: str, *, is_busy: bool, idle_since: float | None = None
    ) -> Lease | None:
        """Remove and return a lease for this holder on this node; None where none suits.

        `is_busy`: it has leases. `idle_since`: nobody has had any from then on; None where somebody has.
        """
        if not self._queue or (is_busy and not self._num_excused):
            return None

        def suits(waiting: _Waiting) -> bool:
            if is_busy and not waiting.lease.is_excused:
                return False
            if self._has_refused(waiting, holder, node):
                is_left = idle_since is not None and now >= max(waiting.due, idle_since) + _OTHERS_FIRST_S
                return is_left and self._prefers(waiting, node) is not False
            return self._prefers(waiting, node) is not False

        found = self._queue.take(now, suits)
        if found is None:
            return None
        self._num_excused -= found.lease.is_excused
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
        self._num_excused = self._queue.num_all(lambda waiting: waiting.lease.is_excused)

    def _has_refused(self, waiting: _Waiting, holder: str, node: str) -> bool:
        """Whether it is this holder, or another one of its node, whose store failed the lease."""
        last = waiting.lease
        if not waiting.is_refused:
            return False
        return last.holder == holder or (last.place.node == node and self._elsewhere.has_others(node))

    def _prefers(self, waiting: _Waiting, node: str) -> bool | None:
        return self._elsewhere.prefers(waiting.lease.shard.key, node, waiting.struck_on)
