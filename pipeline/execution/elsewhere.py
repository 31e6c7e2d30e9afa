"""On which node a lease that came back is tried next: the one where it was lost may be to blame. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set

from pipeline.execution.node_health import NodeHealth, Place
from pipeline.records import ShardKey

# A node without a worker for longer is not waited for: its own has been lost, and the next one should have started.
_KNOWN_S = 180.0
# A second node, where one is to come at all, has to come within so long.
_FIRST_WAIT_S = 60.0


class Elsewhere:
    """Knows which nodes have workers, and on which ones each shard was lost; tells `health` who is to blame.

    With `has_several_nodes`, a second one is waited for, for a minute from the start.
    """

    def __init__(self, clock: Callable[[], float], health: NodeHealth, *, has_several_nodes: bool) -> None:
        self._clock = clock
        self._health = health
        self._has_several_nodes = has_several_nodes
        self._opened_at = clock()
        self._seen: dict[str, float] = {}
        self._lost: dict[ShardKey, dict[str, tuple[str, int] | None]] = {}

    def see(self, nodes: Collection[str]) -> None:
        """These nodes have workers now."""
        now = self._clock()
        left = self._health.barred
        recent = {node: at for node, at in self._seen.items() if now - at <= _KNOWN_S and node not in left}
        self._seen = recent | {node: now for node in nodes if node}
        self._has_several_nodes &= len(self._seen) < 2 and now - self._opened_at <= _FIRST_WAIT_S

    def has_others(self, node: str) -> bool:
        """Whether there are workers on another node than this one, or have been of late."""
        return bool(node and self._seen.keys() - {node})

    def lost(self, key: ShardKey, holder: str, place: Place, *, is_excused: bool = False) -> None:
        """A holder was lost with a shard, or a probe of it; not through the shard, where it `is_excused`."""
        if place.node:
            blame = None if is_excused else (holder, self._health.num_done(place.node))
            self._lost.setdefault(key, {})[place.node] = blame

    def inherit(self, key: ShardKey, part: ShardKey) -> None:
        """A part of the shard is on its own from now on."""
        if key in self._lost and part != key:
            self._lost[part] = dict(self._lost[key])

    def converted(self, key: ShardKey, place: Place, *, is_whole: bool) -> None:
        """Work was done there. All of the shard, where it `is_whole`: no image took down who was lost with it."""
        self._health.converted(place)
        for node, blame in self._lost.get(key, {}).items() if is_whole else ():
            if blame is not None and node != place.node:
                self._health.doubted(node, *blame)

    def forget(self, key: ShardKey) -> None:
        """Nothing is to be done of the shard any more."""
        self._lost.pop(key, None)

    def prefers(self, key: ShardKey, node: str, struck_on: Set[str]) -> bool | None:
        """Whether the shard, or a probe of it, is to go to this node. None: it may, and waits for no other either.

        It avoids the nodes on which it was lost. Where no other has a worker, nor had one of late, it avoids those
        where the probed image was lost alone (`struck_on`), of which a second time would condemn it.
        """
        for avoided in (self._lost.get(key, {}).keys(), struck_on):
            there = avoided & self._seen.keys()
            if not there or not node:
                continue
            if node not in there:
                return True
            if self._has_several_nodes or self._seen.keys() - there:
                return False
        return None
