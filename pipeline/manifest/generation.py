"""The files of a generation: written from an opened manifest, read back as a stream or shard by shard.

Row groups hold whole shards and carry statistics, files hold whole row groups: one shard costs one row group.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ManifestError, ObjectExistsError, first_line
from pipeline.manifest import tiers
from pipeline.manifest.head import CollectedFile, GenerationFile, Head, generation_folder, read_named
from pipeline.manifest.parts import check_version, conformed
from pipeline.manifest.schema import META_SCHEMA_VERSION, SCHEMA, SCHEMA_VERSION
from pipeline.storage.base import ObjectStore

MAX_GROUP_ROWS = 16_384
_MAX_COLLECTED_ROWS = 1_000_000
_NUM_FILES_AHEAD = 2
_SHA_CHARS = 12
_SHARD_COLUMNS = ("plan", "shard")
_COLLECTED_SCHEMA = pa.schema([pa.field("output", pa.string(), nullable=False)])


def shard_keys(table: pa.Table) -> NDArray[np.int64]:
    """One number per row that sorts as (plan, shard) does. Needs these two columns."""
    plan, shard = (table[name].to_numpy().astype(np.int64) for name in _SHARD_COLUMNS)
    keys: NDArray[np.int64] = (plan << 32) | shard
    return keys


def shard_key(plan: int, shard: int) -> int:
    """The same number for one shard."""
    return (plan << 32) | shard


def unpacked(key: int) -> tuple[int, int]:
    """The plan and shard of such a number."""
    return key >> 32, key & 0xFFFF_FFFF


def write_files(store: ObjectStore, generation: int, history: pa.Table, first_index: int = 0) -> list[GenerationFile]:
    """Write all rows of `history`, which is ordered by plan and shard, as files of the generation, of about one size.

    One file is in memory at a time. Files are named by number, from `first_index` on, and by content, so that two
    writers of one generation cannot clash.
    """
    files: list[GenerationFile] = []
    for start, stop in _even_spans(shard_keys(history)):
        rows = history.slice(start, stop - start)
        keys = shard_keys(rows)
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, SCHEMA, compression="zstd", store_schema=False) as writer:
            for first, last in _spans(keys, MAX_GROUP_ROWS):
                writer.write_table(rows.slice(first, last - first).combine_chunks(), row_group_size=last - first)
            writer.add_key_value_metadata({META_SCHEMA_VERSION: str(SCHEMA_VERSION).encode()})
        key, sha256, num_bytes = _create(store, generation, "part", first_index + len(files), sink.getvalue())
        files.append(
            GenerationFile(
                key=key,
                sha256=sha256,
                num_bytes=num_bytes,
                num_rows=stop - start,
                first=unpacked(int(keys[0])),
                last=unpacked(int(keys[-1])),
            )
        )
    return files


def write_collected(store: ObjectStore, generation: int, history: pa.Table) -> tuple[CollectedFile, ...]:
    """Write the names of the outputs that rows of `history` say were collected."""
    outputs = pc.unique(history["output"].filter(pc.is_valid(history["collected_at"])))
    files: list[CollectedFile] = []
    for start in range(0, len(outputs), _MAX_COLLECTED_ROWS):
        table = pa.table([outputs.slice(start, _MAX_COLLECTED_ROWS)], schema=_COLLECTED_SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", store_schema=False)
        key, sha256, _ = _create(store, generation, "collected", len(files), sink.getvalue())
        files.append(CollectedFile(key=key, sha256=sha256, num_rows=table.num_rows))
    return tuple(files)


def read_collected(store: ObjectStore, head: Head) -> pa.ChunkedArray:
    """The names of the outputs that were collected. Raises ManifestError, ObjectMissingError."""
    arrays = [pq.read_table(io.BytesIO(read_named(store, file)))["output"] for file in head.collected]
    return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], pa.string())


def iterate_rows(store: ObjectStore, files: Sequence[GenerationFile], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of a generation's files, a row group at a time, with `columns` and at least `plan` and `shard`.

    A bounded number of files is read ahead. Raises ManifestError for a damaged file, ObjectMissingError.
    """
    wanted = [*columns, *(name for name in _SHARD_COLUMNS if name not in columns)]
    for file, data in _read_ahead(store, files):
        opened = open_file(data, file)
        for group in range(opened.num_row_groups):
            yield _read_group(opened, group, wanted, file.key)


def check_files(store: ObjectStore, head: Head, files: Sequence[GenerationFile]) -> None:
    """Read `files` of those that the head names, and what it says was collected.

    Raises ManifestError for a damaged one, ObjectMissingError.
    """
    for file, data in _read_ahead(store, files):
        open_file(data, file)
    read_collected(store, head)


@dataclass(slots=True)
class GenerationReader:
    """Rows of single shards of one generation. Cheap where shards are asked for in order: it keeps one row group."""

    store: ObjectStore
    head: Head
    columns: Sequence[str]
    _file: GenerationFile | None = None
    _opened: pq.ParquetFile | None = None
    _rows: pa.Table | None = None
    _keys: NDArray[np.int64] | None = None

    def shard(self, plan: int, shard: int) -> pa.Table:
        """The rows of a shard that the head covers. Raises ManifestError for a damaged file, ObjectMissingError."""
        wanted = shard_key(plan, shard)
        if self._keys is None or not self._keys[0] <= wanted <= self._keys[-1]:
            self._load(plan, shard)
        assert self._rows is not None
        assert self._keys is not None
        start, stop = np.searchsorted(self._keys, wanted, "left"), np.searchsorted(self._keys, wanted, "right")
        if start == stop:
            raise self._lacks(plan, shard)
        return self._rows.slice(start, stop - start).select(list(self.columns))

    def file_of(self, plan: int, shard: int) -> GenerationFile:
        """The file that holds the shard. Raises ManifestError where none does."""
        index = bisect_right(self.head.files, (plan, shard), key=lambda file: file.first) - 1
        if index >= 0 and (plan, shard) <= self.head.files[index].last:
            return self.head.files[index]
        raise ManifestError(f"generation {self.head.generation} covers shard {shard} of plan {plan} without its rows")

    def _load(self, plan: int, shard: int) -> None:
        file, wanted = self.file_of(plan, shard), shard_key(plan, shard)
        if file is not self._file:
            self._file = self._keys = None
            self._opened = open_file(read_named(self.store, file), file)
            self._file = file
        assert self._opened is not None
        names = [*self.columns, *(name for name in _SHARD_COLUMNS if name not in self.columns)]
        for group in range(self._opened.num_row_groups):
            keys = shard_keys(_read_group(self._opened, group, _SHARD_COLUMNS, file.key))
            if keys[0] <= wanted <= keys[-1]:
                self._rows, self._keys = _read_group(self._opened, group, names, file.key), keys
                return
        raise self._lacks(plan, shard)

    def _lacks(self, plan: int, shard: int) -> ManifestError:
        return ManifestError(f"{self.file_of(plan, shard).key}: lacks shard {shard} of plan {plan}")


def open_file(data: bytes, file: GenerationFile) -> pq.ParquetFile:
    """Parse the bytes of a generation's file. Raises ManifestError where it is damaged, newer or not what was named."""
    try:
        opened = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{file.key}: not a readable file of the manifest ({first_line(error)})") from error
    check_version(opened.metadata.metadata or {}, file.key)
    if opened.metadata.num_rows != file.num_rows:
        raise ManifestError(f"{file.key}: {opened.metadata.num_rows} rows; its head says {file.num_rows}")
    return opened


def _read_group(opened: pq.ParquetFile, group: int, wanted: Sequence[str], key: str) -> pa.Table:
    present = set(opened.schema_arrow.names)
    try:
        rows = opened.read_row_group(group, columns=[name for name in wanted if name in present])
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{key}: not a readable file of the manifest ({first_line(error)})") from error
    return conformed(rows, wanted, key)


def _read_ahead(store: ObjectStore, files: Sequence[GenerationFile]) -> Iterator[tuple[GenerationFile, bytes]]:
    pending: deque[tuple[GenerationFile, Future[bytes]]] = deque()
    with ThreadPoolExecutor(_NUM_FILES_AHEAD, thread_name_prefix="generation-read") as pool:
        try:
            for file in files:
                pending.append((file, pool.submit(read_named, store, file)))
                if len(pending) > _NUM_FILES_AHEAD:
                    oldest, future = pending.popleft()
                    yield oldest, future.result()
            while pending:
                oldest, future = pending.popleft()
                yield oldest, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _even_spans(keys: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut sorted rows into as few files as hold them, none much smaller than the others."""
    num_files = max(1, -(-len(keys) // tiers.MAX_FILE_ROWS))
    bounds = np.flatnonzero(np.diff(keys, prepend=-1, append=-1))
    largest_shard = int(np.max(np.diff(bounds), initial=0))
    return _spans(keys, min(tiers.MAX_FILE_ROWS, -(-len(keys) // num_files) + largest_shard))


def _spans(keys: NDArray[np.int64], max_rows: int) -> list[tuple[int, int]]:
    """Cut sorted rows into runs of whole shards with at most `max_rows`, or of one shard that has more."""
    ends = np.append(np.flatnonzero(np.diff(keys)) + 1, len(keys)) if len(keys) else np.empty(0, np.int64)
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(keys):
        index = int(np.searchsorted(ends, start + max_rows, "right")) - 1
        stop = (
            int(ends[index]) if index >= 0 and ends[index] > start else int(ends[np.searchsorted(ends, start, "right")])
        )
        spans.append((start, stop))
        start = stop
    return spans


def _create(store: ObjectStore, generation: int, kind: str, index: int, data: bytes) -> tuple[str, str, int]:
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{generation_folder(generation)}/{kind}-{index:05d}-{sha256[:_SHA_CHARS]}.parquet"
    # One that is there has the same content, from an earlier or concurrent attempt; readers check the digest.
    with contextlib.suppress(ObjectExistsError):
        store.create(key, data)
    return key, sha256, len(data)
