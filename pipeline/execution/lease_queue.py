"""Leases that came back and wait for another holder, some of them until their time has come. Pure, no I/O."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class ReturnQueue(Generic[_Item]):
    """Of those whose time has come, the one that was put first is taken first.

    Each step takes logarithmic time, and as much again for each item that does not suit. Times must not decrease from
    call to call.
    """

    def __init__(self) -> None:
        self._num_put = 0
        self._later: list[tuple[float, int, _Item]] = []
        self._due: list[tuple[int, _Item]] = []

    def __len__(self) -> int:
        return len(self._later) + len(self._due)

    def put(self, due: float, item: _Item) -> None:
        """Keep `item` until the time `due` and from then on."""
        self._num_put += 1
        heapq.heappush(self._later, (due, self._num_put, item))

    def take(self, now: float, suits: Callable[[_Item], bool] = lambda _item: True) -> _Item | None:
        """Remove and return the first item whose time has come and that `suits`; None where there is none."""
        self._find_due(now)
        left: list[tuple[int, _Item]] = []
        while self._due and not suits(self._due[0][1]):
            left.append(heapq.heappop(self._due))
        found = heapq.heappop(self._due)[1] if self._due else None
        for entry in left:
            heapq.heappush(self._due, entry)
        return found

    def num_due(self, now: float, suits: Callable[[_Item], bool]) -> int:
        """How many there are that suit and whose time has come; takes linear time."""
        self._find_due(now)
        return sum(suits(item) for _, item in self._due)

    def num_all(self, suits: Callable[[_Item], bool]) -> int:
        """How many there are that suit, whenever their time comes; takes linear time."""
        return sum(suits(item) for _, _, item in self._later) + sum(suits(item) for _, item in self._due)

    def _find_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, number, item = heapq.heappop(self._later)
            heapq.heappush(self._due, (number, item))

    def drop(self, is_void: Callable[[_Item], bool]) -> None:
        """Remove what nobody needs any more; takes linear time."""
        self._later = [entry for entry in self._later if not is_void(entry[2])]
        self._due = [entry for entry in self._due if not is_void(entry[1])]
        heapq.heapify(self._later)
        heapq.heapify(self._due)
