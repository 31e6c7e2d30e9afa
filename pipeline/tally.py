"""Counts of images that count each once, however often an attempt at its shard is repeated."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipeline.draft import ConversionCounts
from pipeline.records import ImageResult


class Tally:
    """Images as they finish: those of attempts at work, and of attempts that came to their end. Safe for threads.

    What an attempt that failed has done is repeated by the next one, here or elsewhere, and is not counted any more.
    """

    def __init__(self) -> None:
        self._settled = ConversionCounts()
        self._at_work: dict[int, ConversionCounts] = {}
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, *, is_kept: bool) -> Iterator[ConversionCounts]:
        """Counts of one attempt, for the length of a `with` block: kept where that ends well, unless `is_kept` is not.

        A probe's are not: its images are done once more.
        """
        counts = ConversionCounts()
        with self._lock:
            self._at_work[id(counts)] = counts
        is_done = False
        try:
            yield counts
            is_done = True
        finally:
            with self._lock:
                del self._at_work[id(counts)]
                if is_done and is_kept:
                    self._settled.plus(counts)

    def add(self, counts: ConversionCounts, result: ImageResult) -> None:
        """Count an image of the attempt that has these counts."""
        with self._lock:
            counts.add(result)

    def settled(self) -> ConversionCounts:
        """Of attempts that came to their end alone."""
        with self._lock:
            return self._sum(())

    def total(self) -> ConversionCounts:
        """What is settled, and what attempts at work have done so far."""
        with self._lock:
            return self._sum(self._at_work.values())

    def _sum(self, at_work: Iterable[ConversionCounts]) -> ConversionCounts:
        total = ConversionCounts()
        for counts in (self._settled, *at_work):
            total.plus(counts)
        return total
