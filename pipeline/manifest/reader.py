"""Read the manifest: which shards are committed, and every row that was ever written.

Parts are read through the store by a few threads and spooled, uncompressed, into one temporary Arrow file that is
then mapped into memory and unlinked: a manifest may be larger than memory, a column that nobody touches is never
paged in, and a query pays for the objects once.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DiskFullError, ManifestError, first_line
from pipeline.manifest.schema import META_ATTEMPT, META_PLAN, META_SCHEMA_VERSION, META_SHARD, SCHEMA, SCHEMA_VERSION
from pipeline.storage.base import ObjectStore

MANIFEST_PREFIX = "manifest"
_HEAD_PREFIX = f"{MANIFEST_PREFIX}/head/"
_PART_KEY = re.compile(rf"{MANIFEST_PREFIX}/plan=(\d+)/shard-(\d{{6,}})\.parquet")
_KEY_COLUMNS = ("source", "plan")
_SPOOL_BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One committed part: its numbers from the file's metadata and its rows in the current schema."""

    plan: int
    shard: int
    attempt: int
    rows: pa.Table


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
        return _spool(_filtered(table, keep), table.schema)


def completed_shards(store: ObjectStore, plan: int) -> set[int]:
    """Numbers of the committed shards of one plan. Lists keys and reads nothing."""
    found = (_PART_KEY.fullmatch(info.key) for info in store.list(f"{MANIFEST_PREFIX}/plan={plan}"))
    return {int(match[2]) for match in found if match}


def committed_parts(store: ObjectStore) -> dict[int, set[int]]:
    """Numbers of the committed shards by plan, whatever plans there are. Raises ManifestError as `open_manifest`."""
    found: dict[int, set[int]] = {}
    for key in _list_parts(store):
        match = _PART_KEY.fullmatch(key)
        assert match is not None
        found.setdefault(int(match[1]), set()).add(int(match[2]))
    return found


def open_manifest(store: ObjectStore, *, columns: Sequence[str] | None = None, num_threads: int = 16) -> Manifest:
    """Read every part below DST/manifest, or only `columns` of them (`source` and `plan` are always read).

    Raises ManifestError for a damaged or contradictory part, for one of a newer schema, and for a manifest that a
    newer release has compacted; DiskFullError or ConfigError where the temporary folder cannot hold the rows;
    ValueError for a column that does not exist; StorageError.
    """
    wanted = SCHEMA.names if columns is None else [n for n in SCHEMA.names if n in {*columns, *_KEY_COLUMNS}]
    unknown = sorted(set(columns or ()) - set(SCHEMA.names))
    if unknown:
        raise ValueError(f"not manifest columns: {', '.join(unknown)}")
    schema = pa.schema([SCHEMA.field(name) for name in wanted])
    history = _spool(_read_parts(store, _list_parts(store), wanted, num_threads), schema)
    _require_unique(history)
    return Manifest(history)


def read_part(data: bytes, key: str, *, columns: Sequence[str] | None = None) -> StoredPart:
    """Parse one part's bytes. Raises ManifestError, naming `key`, where it is damaged, newer or not what it says."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        meta = file.metadata.metadata or {}
        version, plan, shard, attempt = (
            _number(meta, name, key) for name in (META_SCHEMA_VERSION, META_PLAN, META_SHARD, META_ATTEMPT)
        )
        _check_version(version, key)
        match = _PART_KEY.fullmatch(key)
        if match is None or (int(match[1]), int(match[2])) != (plan, shard):
            raise ManifestError(f"{key}: holds plan {plan}, shard {shard}, which is not what its name says")
        wanted = SCHEMA.names if columns is None else list(columns)
        present = set(file.schema_arrow.names)
        rows = file.read(columns=[name for name in wanted if name in present], use_threads=False)
        return StoredPart(plan, shard, attempt, _conformed(rows, wanted, key))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{key}: not a readable manifest part ({first_line(error)})") from error


def _number(meta: dict[bytes, bytes], name: bytes, key: str) -> int:
    value = meta.get(name, b"")
    if not value.isdigit():
        raise ManifestError(f"{key}: not a manifest part: its metadata lacks {name.decode()}")
    return int(value)


def _check_version(version: int, key: str) -> None:
    if version > SCHEMA_VERSION:
        raise ManifestError(
            f"{key}: written with manifest schema {version}; this hdrfleet reads up to {SCHEMA_VERSION}: upgrade it"
        )
    if version < 1:
        raise ManifestError(f"{key}: manifest schema {version} does not exist")


def _conformed(rows: pa.Table, wanted: Sequence[str], key: str) -> pa.Table:
    """Put the columns into the current order and types; a nullable column that is missing becomes null."""
    schema = pa.schema([SCHEMA.field(name) for name in wanted])
    if rows.schema.equals(schema):  # a required column of a Parquet file cannot hold nulls
        return rows.replace_schema_metadata(None)
    arrays = []
    for name in wanted:
        field = SCHEMA.field(name)
        if name in rows.column_names:
            column = rows[name] if rows.schema.field(name).type == field.type else rows[name].cast(field.type)
        elif field.nullable:
            column = pa.nulls(rows.num_rows, field.type)
        else:
            raise ManifestError(f"{key}: the required column {name} is missing")
        if not field.nullable and column.null_count:
            raise ManifestError(f"{key}: the required column {name} holds nulls")
        arrays.append(column)
    return pa.table(arrays, schema=schema)


def _list_parts(store: ObjectStore) -> list[str]:
    numbered: list[tuple[int, int, str]] = []
    for info in store.list(MANIFEST_PREFIX):
        if info.key.startswith(_HEAD_PREFIX):
            raise ManifestError(f"{info.key}: this manifest was compacted by a newer hdrfleet: upgrade to read it")
        if match := _PART_KEY.fullmatch(info.key):
            numbered.append((int(match[1]), int(match[2]), info.key))
    # Byte order puts plan=10 before plan=2.
    return [key for _, _, key in sorted(numbered)]


def _read_parts(store: ObjectStore, keys: list[str], columns: list[str], num_threads: int) -> Iterator[pa.Table]:
    """Yield the parts' rows in the order of `keys`, reading ahead by a bounded number of parts."""

    def read(key: str) -> pa.Table:
        return read_part(store.read(key), key, columns=columns).rows

    pending: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="manifest-read") as pool:
        try:
            for key in keys:
                pending.append(pool.submit(read, key))
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


def _spool(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Write the rows to a temporary Arrow file and map it; the file has no name any more when this returns."""
    with _temporary_folder_errors(), tempfile.TemporaryDirectory(prefix="hdrfleet-manifest-") as folder:
        path = Path(folder) / "rows.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _merged(tables):
                # Parts hold a few dozen rows each; one batch per part would cost every scan thousands of calls.
                writer.write_table(table.combine_chunks())
        return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        waiting.append(table)
        num_rows += table.num_rows
        if num_rows >= _SPOOL_BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting, num_rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


@contextmanager
def _temporary_folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(
                "no space left for the manifest's temporary copy; set TMPDIR to a larger disk"
            ) from error
        raise ConfigError(f"the manifest needs a temporary folder; set TMPDIR to one that works ({error})") from error


def _require_unique(history: pa.Table) -> None:
    counts = history.select(_KEY_COLUMNS).group_by(list(_KEY_COLUMNS)).aggregate([([], "count_all")])
    if counts.num_rows == history.num_rows:
        return
    twice = counts.filter(pc.greater(counts["count_all"], 1)).sort_by("source").slice(0, 1).to_pylist()[0]
    raise ManifestError(f"{twice['source']}: has {twice['count_all']} rows in plan {twice['plan']} instead of one")
