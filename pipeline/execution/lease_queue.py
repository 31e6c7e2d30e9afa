"""Leases that came back and wait for another holder, some of them until their time has come. Pure, no I/O."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class ReturnQueue(Generic[_Item]):
    """Of those whose time has come, the one that was put first is taken first.

    Each step takes logarithmic time, and as much again for each item that a taker does not want. Times given to `take`
    must not decrease.
    """

    def __init__(self) -> None:
        self._num_put = 0
        self._later: list[tuple[float, int, _Item]] = []
        self._due: list[tuple[int, float, _Item]] = []

    def __len__(self) -> int:
        return len(self._later) + len(self._due)

    def put(self, due: float, item: _Item) -> None:
        """Keep `item` until the time `due` and from then on."""
        self._num_put += 1
        heapq.heappush(self._later, (due, self._num_put, item))

    def take(self, now: float, wants: Callable[[_Item, float], bool] | None = None) -> _Item | None:
        """Remove and return an item whose time has come; None where there is none.

        `wants` is asked with an item and the time from which it could be taken; others keep their places.
        """
        while self._later and self._later[0][0] <= now:
            due, number, item = heapq.heappop(self._later)
            heapq.heappush(self._due, (number, due, item))
        unwanted = []
        taken = None
        while self._due and taken is None:
            entry = heapq.heappop(self._due)
            _, due, item = entry
            if wants is None or wants(item, due):
                taken = item
            else:
                unwanted.append(entry)
        for entry in unwanted:
            heapq.heappush(self._due, entry)
        return taken

    def drop(self, is_void: Callable[[_Item], bool]) -> None:
        """Remove what nobody needs any more; takes linear time."""
        self._later = [entry for entry in self._later if not is_void(entry[2])]
        self._due = [entry for entry in self._due if not is_void(entry[2])]
        heapq.heapify(self._later)
        heapq.heapify(self._due)
