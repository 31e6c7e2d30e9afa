"""Shards whose images several workers do: who has which, and the rows that are in. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pipeline.records import ImageResult, ImageTask, Shard


class SplitShard:
    """One shard that is done in parts, and committed once the rows of all are together.

    A part is a `Shard` with some of the tasks and a number of its own. Each task is in one part. `attempt` is the
    highest of the parts', which is that of the commit.
    """

    def __init__(self, whole: Shard) -> None:
        self.attempt = 1
        self._whole = whole
        self._num_parts = 0
        self._rows: dict[str, ImageResult] = {}

    def cut(self, held: Shard, ceded: Sequence[Collection[ImageTask]]) -> tuple[Shard, list[Shard]]:
        """What the holder of `held`, the whole or a part, goes on with, and a part for each group of `ceded` tasks."""
        rest = replace(without(held, ceded), part=held.part or self._next_number())
        parts = [replace(held, tasks=tuple(group), quarantined=(), part=self._next_number()) for group in ceded]
        return rest, parts

    def add(self, rows: Collection[ImageResult], attempt: int) -> None:
        """The rows of a part are in."""
        self._rows.update((row.task.source, row) for row in rows)
        self.attempt = max(self.attempt, attempt)

    def whole(self) -> tuple[Shard, tuple[ImageResult, ...]] | None:
        """The shard and all its rows, in the order of its tasks; None as long as one is missing."""
        if len(self._rows) < len(self._whole.tasks):
            return None
        return self._whole, tuple(self._rows[task.source] for task in self._whole.tasks)

    def _next_number(self) -> int:
        self._num_parts += 1
        return self._num_parts


def without(held: Shard, ceded: Sequence[Collection[ImageTask]]) -> Shard:
    """What is left of a shard, or of a part of one, when groups of its tasks are ceded."""
    gone = {task.source for group in ceded for task in group}
    return replace(held, tasks=tuple(task for task in held.tasks if task.source not in gone))
