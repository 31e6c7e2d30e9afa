"""Which files of a generation the next one keeps, and which rows it writes anew: pure decisions over row counts.

Files are sorted by (plan, shard) and do not overlap. Later plans have higher numbers, so new parts come after all
files, but for late shards of older plans. A file with `FULL_ROWS` is closed: only a late shard that belongs into it, or
a mark of a collection, has it written again. Behind the closed ones each file holds at most half as many rows as the
one before it, so there are few, and a row is written again a bounded number of times until its file is closed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pipeline.manifest.head import GenerationFile

MAX_FILE_ROWS = 131_072  # some tens of MB, which are in memory while a file is written or read
FULL_ROWS = MAX_FILE_ROWS // 4
SMALL_ROWS = 4_096  # rewriting fewer rows costs less than opening another file does

Key = tuple[int, int]
"""Plan and shard."""


@dataclass(slots=True)
class Segment:
    """Neighbouring files, and new parts among or after them, by (plan, shard). `num_rows` are those of both.

    Without parts, and with one file that is not marked, there is nothing to write: the file stays as it is.
    """

    files: list[GenerationFile] = field(default_factory=list)
    parts: list[Key] = field(default_factory=list)
    num_rows: int = 0
    is_marked: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the next generation names the one file of this segment as it is."""
        return len(self.files) == 1 and not self.parts and not self.is_marked

    def absorb(self, other: Segment) -> None:
        """Take over the segment that follows."""
        self.files += other.files
        self.parts += other.parts
        self.num_rows += other.num_rows
        self.is_marked |= other.is_marked


def plan_segments(
    files: Sequence[GenerationFile], parts: Sequence[tuple[Key, int]], marked: Collection[str] = ()
) -> list[Segment]:
    """Divide `files`, and new `parts` (key and number of rows) in order, into the segments of the next generation.

    A part that does not come after all files belongs to the file before it, or to the first. `marked` names files of
    which rows change.
    """
    segments = [Segment([file], num_rows=file.num_rows, is_marked=file.key in marked) for file in files]
    starts = [file.first for file in files]
    tail = Segment()
    for key, num_rows in parts:
        is_late = bool(files) and key < files[-1].last
        segment = segments[max(0, bisect_right(starts, key) - 1)] if is_late else tail
        segment.parts.append(key)
        segment.num_rows += num_rows
    # One that is written anyway is open to its neighbours.
    num_closed = max((n for n, one in enumerate(segments, 1) if one.is_kept and one.num_rows >= FULL_ROWS), default=0)
    tiers = segments[:num_closed]
    for segment in [*segments[num_closed:], tail]:
        if not segment.num_rows:
            continue
        tiers.append(segment)
        while len(tiers) > num_closed + 1 and _is_like(tiers[-2], tiers[-1]):
            last = tiers.pop()
            tiers[-1].absorb(last)
    return tiers


def _is_like(before: Segment, after: Segment) -> bool:
    """Whether two neighbours are so near in size, or so small, that they are better one file."""
    return before.num_rows < max(2 * after.num_rows, SMALL_ROWS)
