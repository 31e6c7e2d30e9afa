"""Compaction: all committed rows in a few large files, as a new generation that its head commits.

Only what is new is written, with those files that are too small to stay alone (`tiers`); the head names the others as
they are. Nothing is overwritten and nothing is removed. A run that is killed leaves files that no head names; of two
that race for a number the first head wins, and both hold every row that was committed when they began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import pipeline
from pipeline.errors import ManifestError, ObjectExistsError, ObjectMissingError
from pipeline.faults import fault_point
from pipeline.manifest.generation import (
    iterate_rows,
    shard_key,
    shard_keys,
    unpacked,
    write_collected,
    write_files,
)
from pipeline.manifest.head import MAX_LOOKS, CollectedFile, GenerationFile, Head, head_key, shard_ranges
from pipeline.manifest.parts import PartRef
from pipeline.manifest.reader import interleaved, read_parts, require_unique
from pipeline.manifest.schema import SCHEMA
from pipeline.manifest.snapshot import Snapshot, take_snapshot
from pipeline.manifest.spool import spool
from pipeline.manifest.tiers import Segment, plan_segments
from pipeline.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did. `generation` is what counts now; 0 where nothing was ever compacted.

    `did_work`: a new generation was needed. `won` is False when another compaction committed its number first: that
    one counts, and the files of this one are left to `gc`. `num_merged` parts were not in the generation before;
    `num_written` of its `num_rows` were written, the others stay in the files where they are.
    """

    generation: int
    did_work: bool
    won: bool
    num_merged: int
    num_written: int
    num_rows: int
    num_files: int
    num_bytes: int


def compact(store: ObjectStore, *, before_commit: Callable[[], None] = lambda: None) -> Compaction:
    """Merge the parts that the newest generation does not cover into the next one; nothing new is no work.

    Reads these parts and the files that are written anew, and holds their rows in temporary files, as a query does.
    Safe beside running jobs, queries and other compactions, where the store decides races; `before_commit` raises where
    it must not go on. Raises ManifestError, and writes nothing, where what it reads is damaged or contradictory;
    DiskFullError; StorageError.
    """
    snapshot, num_looks = take_snapshot(store), 1
    while snapshot.parts:
        try:
            segments = _read_segments(store, snapshot)
            break
        except ObjectMissingError:  # another compaction and a collection were faster
            listed_before, snapshot = snapshot, take_snapshot(store)
            num_looks += 1
            if num_looks > MAX_LOOKS or snapshot == listed_before:
                raise
    else:
        return _nothing_new(snapshot)
    return _commit(store, snapshot, segments, snapshot.head.collected if snapshot.head else (), before_commit)


def commit_marked(
    store: ObjectStore,
    snapshot: Snapshot,
    history: pa.Table,
    is_marked: pa.ChunkedArray,
    before_commit: Callable[[], None] = lambda: None,
) -> Compaction:
    """Commit a generation with `history`, all rows of `snapshot`, of which those in `is_marked` changed.

    Files without a changed row stay as they are. `before_commit` is asked right before the head. Raises what that
    raises; ManifestError where rows are outside of what the snapshot covers; StorageError.
    """
    keys = shard_keys(history)
    _require_covered(
        keys, {shard_key(plan, shard) for plan, shards in snapshot.committed().items() for shard in shards}
    )
    files = snapshot.head.files if snapshot.head else ()
    changed = np.unique(keys[is_marked.to_numpy()])
    marked = {
        file.key
        for file in files
        if np.searchsorted(changed, shard_key(*file.last), "right") > np.searchsorted(changed, shard_key(*file.first))
    }
    segments: list[_Filled] = []
    start = 0
    for segment in plan_segments(files, _counted(keys, snapshot.parts), marked):
        rows = history.slice(start, segment.num_rows)
        start += segment.num_rows
        segments.append((segment, None if segment.is_kept else rows))
    generation = _next_generation(snapshot)
    return _commit(store, snapshot, segments, write_collected(store, generation, history), before_commit)


_Filled = tuple[Segment, pa.Table | None]
"""A segment, and its rows where they are written."""


def _read_segments(store: ObjectStore, snapshot: Snapshot) -> list[_Filled]:
    """Read the new parts and every file that changes. Raises ManifestError, ObjectMissingError, StorageError."""
    head, part_keys = snapshot.head, [(part.plan, part.shard) for part in snapshot.parts]
    fresh = spool(read_parts(store, snapshot.parts, SCHEMA.names), SCHEMA)
    keys = shard_keys(fresh)
    _require_covered(keys, {shard_key(*key) for key in part_keys})
    filled: list[_Filled] = []
    for segment in plan_segments(head.files if head else (), _counted(keys, snapshot.parts)):
        if segment.is_kept:
            filled.append((segment, None))
            continue
        rows = _joined(store, segment, fresh, keys)
        expected = {shard_key(*key) for key in segment.parts}
        for file in segment.files:
            assert head is not None
            expected |= {shard_key(*key) for key in head.covered_between(file.first, file.last)}
        _require_covered(shard_keys(rows), expected)
        require_unique(rows)
        filled.append((segment, rows))
    return filled


def _joined(store: ObjectStore, segment: Segment, fresh: pa.Table, keys: NDArray[np.int64]) -> pa.Table:
    """The rows of a segment's files and of its parts, which are in `fresh` with these `keys`, in a temporary file."""

    def rows_of(key: tuple[int, int]) -> pa.Table:
        start, stop = (int(np.searchsorted(keys, shard_key(*key), side)) for side in ("left", "right"))
        return fresh.slice(start, stop - start)

    groups = iterate_rows(store, segment.files, SCHEMA.names)
    return spool(interleaved(groups, segment.parts, map(rows_of, segment.parts), SCHEMA.names), SCHEMA)


def _counted(keys: NDArray[np.int64], parts: Sequence[PartRef]) -> list[tuple[tuple[int, int], int]]:
    """How many rows each part has, of sorted `keys` of rows."""
    wanted = np.array([shard_key(part.plan, part.shard) for part in parts], np.int64)
    counts = np.searchsorted(keys, wanted, "right") - np.searchsorted(keys, wanted)
    return [((part.plan, part.shard), int(count)) for part, count in zip(parts, counts, strict=True)]


def _next_generation(snapshot: Snapshot) -> int:
    return snapshot.head.generation + 1 if snapshot.head else 1


def _commit(
    store: ObjectStore,
    snapshot: Snapshot,
    segments: Sequence[_Filled],
    collected: tuple[CollectedFile, ...],
    before_commit: Callable[[], None],
) -> Compaction:
    """Write what is new, and the head last."""
    generation = _next_generation(snapshot)
    files: list[GenerationFile] = []
    num_written = 0
    for segment, rows in segments:
        written = segment.files if rows is None else write_files(store, generation, rows, num_written)
        files += written
        num_written += 0 if rows is None else len(written)
    fault_point("generation.written")
    head = Head(
        generation=generation,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        software_version=pipeline.__version__,
        num_rows=sum(file.num_rows for file in files),
        files=tuple(files),
        collected=collected,
        covered={plan: shard_ranges(shards) for plan, shards in snapshot.committed().items()},
    )
    before_commit()
    won = _create(store, head)
    fault_point("head.created")
    return Compaction(
        generation=generation,
        did_work=True,
        won=won,
        num_merged=len(snapshot.parts),
        num_written=sum(rows.num_rows for _, rows in segments if rows is not None),
        num_rows=head.num_rows,
        num_files=len(files),
        num_bytes=sum(file.num_bytes for file in files),
    )


def _create(store: ObjectStore, head: Head) -> bool:
    key, data = head_key(head.generation), head.model_dump_json(indent=1).encode()
    try:
        store.create(key, data)
    except ObjectExistsError:
        return store.read(key) == data  # our own success whose answer was lost
    return True


def _nothing_new(snapshot: Snapshot) -> Compaction:
    head = snapshot.head
    return Compaction(
        generation=head.generation if head else 0,
        did_work=False,
        won=True,
        num_merged=0,
        num_written=0,
        num_rows=head.num_rows if head else 0,
        num_files=len(head.files) if head else 0,
        num_bytes=sum(file.num_bytes for file in head.files) if head else 0,
    )


def _require_covered(keys: NDArray[np.int64], expected: set[int]) -> None:
    """Raise ManifestError unless rows are of exactly the `expected` shards, so that no head covers what it lacks."""
    found = set(np.unique(keys).tolist())
    if found != expected:
        plan, shard = unpacked(min(found ^ expected))
        raise ManifestError(
            f"shard {shard} of plan {plan}: its part has no rows, or rows of another shard; not compacted"
        )
    if np.any(np.diff(keys) < 0):
        raise ManifestError("rows lie in the part of another shard; not compacted")
