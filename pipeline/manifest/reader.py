"""Read the manifest: which shards are committed, and every row that was ever written.

Parts are read through the store by a few threads, files of a generation in a stream, and spooled, uncompressed, into
one temporary Arrow file that is then mapped into memory: a manifest may be larger than memory, a column that nobody
touches is never paged in, and a query pays for the objects once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.manifest.generation import iterate_rows, shard_key, shard_keys
from pipeline.manifest.head import MAX_LOOKS
from pipeline.manifest.parts import PartRef, read_part
from pipeline.manifest.schema import SCHEMA
from pipeline.manifest.snapshot import Snapshot, take_snapshot
from pipeline.manifest.spool import spool
from pipeline.storage.base import ObjectStore

_KEY_COLUMNS = ("source", "plan")


class Manifest:
    """All rows of one destination.

    `history` has one row per (plan, source), ordered by plan, shard and position in the shard. `current` has one row
    per source, the one of its highest plan, in the same order. Both are `pyarrow.Table`s over a mapped temporary
    file; they stay valid as long as something refers to them.
    """

    def __init__(self, history: pa.Table) -> None:
        self.history = history

    @cached_property
    def current(self) -> pa.Table:
        """The latest row of every source; the same table as `history` where no source was planned twice."""
        table = self.history
        rows = pa.table({"source": table["source"], "row": pa.array(np.arange(table.num_rows))})
        # History is ordered by plan, so a source's last row is that of its highest plan.
        last = rows.group_by("source").aggregate([("row", "max")])["row_max"].to_numpy()
        if len(last) == table.num_rows:
            return table
        keep = np.zeros(table.num_rows, dtype=bool)
        keep[last] = True
        return spool(_filtered(table, keep), table.schema)


def completed_shards(store: ObjectStore, plan: int) -> set[int]:
    """Numbers of the committed shards of one plan. Lists keys and reads the head, if there is one."""
    return take_snapshot(store, plan).committed().get(plan, set())


def committed_parts(store: ObjectStore) -> dict[int, set[int]]:
    """Numbers of the committed shards by plan, whatever plans there are. Raises ManifestError as `open_manifest`."""
    return take_snapshot(store).committed()


def open_manifest(store: ObjectStore, *, columns: Sequence[str] | None = None, num_threads: int = 16) -> Manifest:
    """Read every row below DST/manifest, or only `columns` of them (`source` and `plan` are always read).

    Raises ManifestError for a damaged or contradictory part, and for one or a head of a newer release; DiskFullError or
    ConfigError where the temporary folder cannot hold the rows; ValueError for a column that does not exist;
    StorageError.
    """
    return open_snapshot(store, columns=columns, num_threads=num_threads)[1]


def open_snapshot(
    store: ObjectStore, *, columns: Sequence[str] | None = None, num_threads: int = 16
) -> tuple[Snapshot, Manifest]:
    """Read as `open_manifest` does, and say what was read.

    What a collection removes after it was listed is looked for in the newest head, a bounded number of times.
    """
    wanted = SCHEMA.names if columns is None else [n for n in SCHEMA.names if n in {*columns, *_KEY_COLUMNS}]
    unknown = sorted(set(columns or ()) - set(SCHEMA.names))
    if unknown:
        raise ValueError(f"not manifest columns: {', '.join(unknown)}")
    schema = pa.schema([SCHEMA.field(name) for name in wanted])
    snapshot, num_looks = take_snapshot(store), 1
    while True:
        try:
            history = spool(_ordered_rows(store, snapshot, wanted, num_threads), schema)
            break
        except ObjectMissingError:
            listed_before, snapshot = snapshot, take_snapshot(store)
            num_looks += 1
            if num_looks > MAX_LOOKS or snapshot == listed_before:
                raise
    require_unique(history)
    return snapshot, Manifest(history)


def _ordered_rows(store: ObjectStore, snapshot: Snapshot, columns: list[str], num_threads: int) -> Iterator[pa.Table]:
    """Yield all rows by plan, shard and position: parts that the head does not cover lie between its shards."""
    groups = iterate_rows(store, snapshot.head.files, columns) if snapshot.head else iter(())
    keys = [(part.plan, part.shard) for part in snapshot.parts]
    return interleaved(groups, keys, read_parts(store, snapshot.parts, columns, num_threads), columns)


def interleaved(
    groups: Iterable[pa.Table], part_keys: Iterable[tuple[int, int]], parts: Iterator[pa.Table], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield `columns` of the rows of both by plan and shard. `groups` are sorted and have `plan` and `shard`;
    `part_keys` are plan and shard of each of `parts`, and none is in `groups`.
    """
    waiting = deque(part_keys)
    for table in groups:
        keys, start = shard_keys(table), 0
        rows = table.select(columns)
        while waiting and (key := shard_key(*waiting[0])) < keys[-1]:
            stop = int(np.searchsorted(keys, key))
            if stop > start:
                yield rows.slice(start, stop - start)
                start = stop
            waiting.popleft()
            yield next(parts)
        yield rows.slice(start)
    yield from parts


def read_parts(
    store: ObjectStore, refs: Sequence[PartRef], columns: Sequence[str], num_threads: int = 16
) -> Iterator[pa.Table]:
    """Yield the parts' rows in the order of `refs`, reading ahead by a bounded number of parts."""

    def read(key: str) -> pa.Table:
        return read_part(store.read(key), key, columns=columns).rows

    pending: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="manifest-read") as pool:
        try:
            for ref in refs:
                pending.append(pool.submit(read, ref.key))
                if len(pending) >= 2 * num_threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _filtered(table: pa.Table, keep: NDArray[np.bool_]) -> Iterator[pa.Table]:
    start = 0
    for batch in table.to_batches():
        stop = start + batch.num_rows
        yield pa.Table.from_batches([batch]).filter(pa.array(keep[start:stop]))
        start = stop


def require_unique(history: pa.Table) -> None:
    """Raise ManifestError unless each source has one row in each plan."""
    counts = history.select(_KEY_COLUMNS).group_by(list(_KEY_COLUMNS)).aggregate([([], "count_all")])
    if counts.num_rows == history.num_rows:
        return
    twice = counts.filter(pc.greater(counts["count_all"], 1)).sort_by("source").slice(0, 1).to_pylist()[0]
    raise ManifestError(f"{twice['source']}: has {twice['count_all']} rows in plan {twice['plan']} instead of one")
