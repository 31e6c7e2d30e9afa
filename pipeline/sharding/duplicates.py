"""What a long listing in no fixed order names more than once, found with 16 bytes of memory for each name.

A plan with one source in it twice could never be finished, so this is settled before one is committed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.records import ImageTask
from pipeline.storage.keys import shown

_BATCH = 2**16
_Digests = NDArray[np.uint64]


def without_duplicates(
    tasks: Iterable[ImageTask], again: Callable[[], Iterable[ImageTask]], where: str
) -> Iterator[ImageTask]:
    """Yield each source once, in order: entries that agree in all that they say are one.

    `again` starts another pass over the same tasks; one is made where two entries seem to differ, for digests can be
    alike by chance. `where` names the listing in messages. Raises SourceError, naming the source, where they do differ.
    """
    seen, stream = _Seen(), iter(tasks)
    while batch := list(itertools.islice(stream, _BATCH)):
        names, entries = (np.array(column, np.uint64) for column in zip(*map(_digests, batch), strict=True))
        known = seen.entries(names)
        fresh: dict[int, int] = {}
        for task, name, entry, earlier in zip(batch, names.tolist(), entries.tolist(), known, strict=True):
            before = fresh.get(name, earlier)
            if before is None:
                fresh[name] = entry
            elif before == entry:
                continue
            else:
                _require_alike(again(), task, where)
            yield task
        seen.add(fresh)


class _Seen:
    """Digests of names with those of their entries: sorted runs, each longer than the next."""

    def __init__(self) -> None:
        self._runs: list[tuple[_Digests, _Digests]] = []

    def entries(self, names: _Digests) -> list[int | None]:
        """The entry of each name that was added; None for the others."""
        found: list[int | None] = [None] * len(names)
        for known, entries in self._runs:
            places = np.minimum(np.searchsorted(known, names), len(known) - 1)
            for index in np.flatnonzero(known[places] == names).tolist():
                found[index] = int(entries[places[index]])
        return found

    def add(self, fresh: dict[int, int]) -> None:
        """Take names that were not there. Runs of like length are merged, so that there are few."""
        if not fresh:
            return
        self._runs.append(_sorted(np.array(list(fresh), np.uint64), np.array(list(fresh.values()), np.uint64)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(*(np.concatenate(pair) for pair in zip(before, last, strict=True))))


def _sorted(names: _Digests, entries: _Digests) -> tuple[_Digests, _Digests]:
    order = np.argsort(names)
    return names[order], entries[order]


def _digests(task: ImageTask) -> tuple[int, int]:
    return _digest(task.source), _digest(f"{task.key}\0{task.size_bytes}\0{task.etag}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _require_alike(tasks: Iterable[ImageTask], suspect: ImageTask, where: str) -> None:
    if any(task.source == suspect.source and task != suspect for task in tasks):
        raise SourceError(
            f"{where}: {shown(suspect.source)} is listed more than once, with another bucket, size or etag; give one "
            "inventory, of one bucket and one day"
        )
