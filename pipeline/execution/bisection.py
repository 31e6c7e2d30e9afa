"""Find the images of one shard that take workers down, by halves. Pure, no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Set
from dataclasses import replace

from pipeline.records import ImageTask, Quarantine, Shard

# Alone on a worker that is lost: once may be the machine's fault, twice is the image's.
_STRIKES = 2


class Bisection:
    """Hands out probes of a shard until every image of it has passed one or is quarantined.

    A probe is a `Shard` with some of the tasks, to be converted and stored but not committed. One that passes clears
    its images, one that is lost is halved; an image that is lost alone twice is quarantined. `suspects`, the sources
    that did not come to an end on `node`, are probed alone at once, and that is their second time. With k bad ones
    among n images, about 2 k log2(n) workers are lost. At last `final` is the whole shard, to be committed.
    """

    def __init__(self, shard: Shard, suspects: Collection[str] = (), node: str = "") -> None:
        self._shard = shard
        self._waiting: deque[tuple[ImageTask, ...]] = deque()
        self._strikes: Counter[str] = Counter()
        self._struck_on: defaultdict[str, set[str]] = defaultdict(set)
        self._quarantined: dict[str, Quarantine] = {q.source: q for q in shard.quarantined}
        open_tasks = tuple(task for task in shard.tasks if task.source not in self._quarantined)
        known = tuple(task for task in open_tasks if task.source in suspects)
        for task in known:
            self._strike(task.source, node)
            self._waiting.append((task,))
        rest = tuple(task for task in open_tasks if task.source not in suspects)
        self._waiting.extend((rest,) if known and rest else _halves(rest))

    def next(self) -> Shard | None:
        """The next probe; None when there is none, and `final` is to be done."""
        if not self._waiting:
            return None
        return replace(self._shard, tasks=self._waiting.popleft(), quarantined=(), is_probe=True)

    def struck_on(self, probe: Shard) -> Set[str]:
        """The nodes that the one image of a probe was lost on alone; none for a probe of several."""
        return self._struck_on[probe.tasks[0].source] if probe.is_probe and len(probe.tasks) == 1 else frozenset()

    def lost(self, probe: Shard, code: str, reason: str, suspects: Collection[str] = (), node: str = "") -> None:
        """Take note that the probe took its worker on `node` down; `code` is that of a QuarantinedError."""
        if len(probe.tasks) > 1:
            for task in probe.tasks:
                if task.source in suspects:
                    self._strike(task.source, node)
            # The halves wait behind other probes: if the surroundings are sound, something passes in between.
            self._waiting.extend(_parted(probe.tasks, suspects))
            return
        (task,) = probe.tasks
        self._strike(task.source, node)
        if self._strikes[task.source] < _STRIKES:
            self._waiting.append(probe.tasks)
        else:
            self._quarantined[task.source] = Quarantine(task.source, code, reason)

    def _strike(self, source: str, node: str) -> None:
        self._strikes[source] += 1
        self._struck_on[source].add(node)

    def final(self) -> Shard:
        """The whole shard with what was found: the images in quarantine get their rows untouched."""
        return replace(self._shard, quarantined=tuple(self._quarantined.values()), is_probe=False)


def _halves(tasks: tuple[ImageTask, ...]) -> list[tuple[ImageTask, ...]]:
    middle = (len(tasks) + 1) // 2
    return [half for half in (tasks[:middle], tasks[middle:]) if half]


def _parted(tasks: tuple[ImageTask, ...], suspects: Collection[str]) -> list[tuple[ImageTask, ...]]:
    """Suspects alone and the rest together, or halves where nothing is suspected."""
    known = [(task,) for task in tasks if task.source in suspects]
    rest = tuple(task for task in tasks if task.source not in suspects)
    return [*known, *([rest] if rest else [])] if known and rest else _halves(tasks)
