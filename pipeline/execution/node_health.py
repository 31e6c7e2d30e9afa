"""Nodes on which workers fail though no image is the cause: counted, and left out in the end. Pure, no I/O."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import SystemicError, WorkerLostError
from pipeline.execution.patience import HOPELESS_LOSSES, KEPT
from pipeline.records import ShardKey

# So many workers in a row with nothing done in between: a card may recover from a single fault, a broken one does not.
_MAX_IN_A_ROW = 3


class Place(NamedTuple):
    """Where a worker is: a node by its id, and the cards that it has there; "" for what is not known, or not there."""

    node: str = ""
    card: str = ""


NOWHERE = Place()


class NodeHealth:
    """Counts the workers that each node costs, and names the nodes on which none is to be started any more.

    A node is barred after three workers in a row that could not start there, or that lost their device (or could not
    decode) at one place there without a shard done in between, or that went down with what others then converted. The
    workers that are sound there go on. Not thread-safe: one scheduler owns it.
    """

    def __init__(self, *, num_workers: int) -> None:
        self._hopeless = HOPELESS_LOSSES + 2 * num_workers
        self._failed_starts: Counter[str] = Counter()
        # Of losses in a row at one place, the shards that its worker held.
        self._lost_devices: defaultdict[Place, list[frozenset[ShardKey]]] = defaultdict(list)
        self._doubted: defaultdict[str, set[str]] = defaultdict(set)
        self._num_done: Counter[str] = Counter()
        self._num_in_vain = 0
        self._num_losses = 0
        self._last_loss: dict[Place, int] = {}
        self._news: list[tuple[str, str]] = []
        self.barred: dict[str, str] = {}
        self.error: SystemicError | None = None

    def started(self, place: Place) -> int:
        """A worker is ready there. Returns the time of that, for `lost_device`."""
        self._failed_starts.pop(place.node, None)
        return self._num_losses

    def converted(self, place: Place) -> None:
        """A worker has done a shard, or a part of one, there."""
        self._lost_devices.pop(place, None)
        self._doubted.pop(place.node, None)
        self._num_done[place.node] += 1
        self._num_in_vain = 0

    def failed_start(self, node: str, error: SystemicError) -> bool:
        """A worker could not start there. True where the node is barred now; raises as `lost_device`."""
        self._failed_starts[node] += 1
        return self._count(node, self._failed_starts[node], "could not start there", error)

    def explained(self, place: Place, shard: ShardKey) -> None:
        """A device there worked, right before it was lost through an image of the shard, as others before it were."""
        self._lost_devices.pop(place, None)
        for losses in self._lost_devices.values():
            losses[:] = [held for held in losses if shard not in held]
        self._num_in_vain = 0

    def lost_device(
        self, place: Place, error: SystemicError, started: int | None = None, held: Iterable[ShardKey] = ()
    ) -> bool:
        """A worker that `started` then cannot work there any more. True where the node is barred now.

        `held` are the whole shards that it had, or had parts of. Workers that share a device lose it at once: those
        that had started by the last time are no loss more. Raises the error where so many workers failed, and not one
        has done anything anywhere since, that the nodes that come are no better.
        """
        if started is not None and started < self._last_loss.get(place, 0):
            return False
        self._num_losses += 1
        self._last_loss[place] = self._num_losses
        self._lost_devices[place].append(frozenset(held))
        return self._count(
            place.node, len(self._lost_devices[place]), "failed there with nothing done in between", error
        )

    def num_done(self, node: str) -> int:
        """What was done on the node so far, to be kept with a loss there until it is known who is to blame."""
        return self._num_done[node]

    def doubted(self, node: str, worker: str, num_done: int) -> None:
        """What a worker went down with there was converted elsewhere; `num_done` is the node's of that time."""
        if node in self.barred or num_done != self._num_done[node]:
            return
        self._doubted[node].add(worker)
        if len(self._doubted[node]) >= _MAX_IN_A_ROW:
            why = f"{_MAX_IN_A_ROW} workers in a row went down there with images that others converted"
            self._bar(node, why, WorkerLostError(f"{why}. {KEPT}"))

    def news(self) -> list[tuple[str, str]]:
        """The nodes that were barred since the last call, each with the reason."""
        news, self._news = self._news, []
        return news

    def _count(self, node: str, in_a_row: int, what: str, error: SystemicError) -> bool:
        self._num_in_vain += 1
        if self._num_in_vain >= self._hopeless:
            raise said(error, f"{self._num_in_vain} workers failed, and none has done anything since")
        if not node or node in self.barred or in_a_row < _MAX_IN_A_ROW:
            return False
        why = f"{in_a_row} workers in a row {what}"
        self._bar(node, f"{why}; the last: {error.code}: {error}", said(error, why))
        return True

    def _bar(self, node: str, reason: str, error: SystemicError) -> None:
        self.barred[node] = reason
        self.error = error
        self._news.append((node, reason))


class FailedStarts:
    """Starts that failed in a row, wherever. `since` is when the first of them did."""

    def __init__(self) -> None:
        self.num = 0
        self.since = math.inf
        self._nodes: set[str] = set()

    def count(self, node: str, now: float) -> None:
        """A worker could not start on the node; "" where that is not known."""
        self.since = min(self.since, now)
        self.num += 1
        self._nodes.add(node)

    @property
    def is_everywhere(self) -> bool:
        """Whether what is left is no better: three starts on as many nodes. One node is barred, others may be sound."""
        return self.num >= _MAX_IN_A_ROW and ("" in self._nodes or len(self._nodes) >= _MAX_IN_A_ROW)

    def forget(self) -> None:
        """A worker is ready, or the node that failed is out of the question now."""
        self.num, self.since = 0, math.inf
        self._nodes.clear()


def said(error: SystemicError, often: str) -> SystemicError:
    """The same error, saying how often it was met; of the others the command says itself that work is kept."""
    kept = f". {KEPT}" if isinstance(error, WorkerLostError) and KEPT not in str(error) else ""
    return type(error)(f"{error}; {often}{kept}")
