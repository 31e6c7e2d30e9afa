"""Which holders are at work, or were a moment ago. Pure, no I/O."""

from __future__ import annotations

import math


class Activity:
    """Remembers holders for `memory_s` after their last lease ended: whoever is at work asks for another by then."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._last: dict[str, tuple[str, float]] = {}

    def began(self, holder: str, node: str) -> None:
        """It has a lease."""
        self._last[holder] = node, math.inf

    def ended(self, now: float, holder: str, node: str) -> None:
        """It has none any more."""
        self._last[holder] = node, now

    def recent(self, now: float) -> list[tuple[str, str]]:
        """Those who are at work, or were within the last `memory_s`, each with its node; takes linear time."""
        self._last = {holder: (node, at) for holder, (node, at) in self._last.items() if at > now - self._memory_s}
        return [(holder, node) for holder, (node, _) in self._last.items()]
