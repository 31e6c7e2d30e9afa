"""Compaction: all committed rows in a few large files, as a new generation that its head commits.

Nothing is overwritten and nothing is removed. A run that is killed leaves files that no head names; of two that race
for a number the first head wins, and both hold every row that was committed when they began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

import pipeline
from pipeline.errors import ManifestError, ObjectExistsError
from pipeline.faults import fault_point
from pipeline.manifest.generation import shard_key, shard_keys, unpacked, write_collected, write_files
from pipeline.manifest.head import Head, head_key, shard_ranges
from pipeline.manifest.reader import open_snapshot
from pipeline.manifest.snapshot import Snapshot
from pipeline.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did. `generation` is what counts now; 0 where nothing was ever compacted.

    `did_work`: a new generation was needed. `won` is False when another compaction committed its number first: that
    one counts, and the files of this one are left to `gc`. `num_merged` parts were not in the generation before.
    """

    generation: int
    did_work: bool
    won: bool
    num_merged: int
    num_rows: int
    num_files: int
    num_bytes: int


def compact(store: ObjectStore, *, before_commit: Callable[[], None] = lambda: None) -> Compaction:
    """Merge the newest generation and the parts that it does not cover into the next one; nothing new is no work.

    Rows are held in a temporary file, as for a query. Safe beside running jobs, queries and other compactions, where
    the store decides races; `before_commit` raises where it must not go on. Raises ManifestError, and writes nothing,
    where the manifest cannot be read whole; DiskFullError; StorageError.
    """
    snapshot, manifest = open_snapshot(store)
    if not snapshot.parts:
        return _nothing_new(snapshot)
    return commit_generation(store, snapshot, manifest.history, before_commit)


def commit_generation(
    store: ObjectStore, snapshot: Snapshot, history: pa.Table, before_commit: Callable[[], None] = lambda: None
) -> Compaction:
    """Write `history`, all rows of `snapshot`, as the next generation, and its head last.

    `before_commit` is asked right before the head. Raises what that raises; ManifestError where rows are outside of
    what the snapshot covers; StorageError.
    """
    generation = snapshot.head.generation + 1 if snapshot.head else 1
    committed = snapshot.committed()
    _require_covered(history, committed)
    files = write_files(store, generation, history)
    collected = write_collected(store, generation, history)
    fault_point("generation.written")
    head = Head(
        generation=generation,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        software_version=pipeline.__version__,
        num_rows=history.num_rows,
        files=files,
        collected=collected,
        covered={plan: shard_ranges(shards) for plan, shards in committed.items()},
    )
    before_commit()
    won = _create(store, head)
    fault_point("head.created")
    return Compaction(
        generation=generation,
        did_work=True,
        won=won,
        num_merged=len(snapshot.parts),
        num_rows=history.num_rows,
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
        num_rows=head.num_rows if head else 0,
        num_files=len(head.files) if head else 0,
        num_bytes=sum(file.num_bytes for file in head.files) if head else 0,
    )


def _require_covered(history: pa.Table, committed: dict[int, set[int]]) -> None:
    """Raise ManifestError unless the rows are of exactly the committed shards, so that no head covers what it lacks."""
    keys = shard_keys(history)
    found = set(np.unique(keys).tolist())
    expected = {shard_key(plan, shard) for plan, shards in committed.items() for shard in shards}
    if found != expected:
        plan, shard = unpacked(min(found ^ expected))
        raise ManifestError(
            f"shard {shard} of plan {plan}: its part has no rows, or rows of another shard; not compacted"
        )
    if np.any(np.diff(keys) < 0):
        raise ManifestError("rows lie in the part of another shard; not compacted")
