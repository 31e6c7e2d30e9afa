"""Which outputs a repair found bad: `_hdrfleet/distrusted/<sha256>.parquet` each name some, for good.

A bad output can carry the right identity and decode, so nothing in it tells an attempt not to adopt it. A repair
therefore records what it found before it does anything else, and attempts look there first. Records are created, never
changed or removed, and named by their content: a repair that is killed and run again writes the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError, ObjectExistsError, first_line
from pipeline.faults import fault_point
from pipeline.storage.base import ObjectStore
from pipeline.storage.keys import folded

DISTRUST_PREFIX = "_hdrfleet/distrusted"
_MAX_ROWS = 1_000_000
_SCHEMA = pa.schema([pa.field("output", pa.string(), nullable=False)])
_RECORD_KEY = re.compile(rf"{DISTRUST_PREFIX}/([0-9a-f]{{64}})\.parquet")


def record_distrust(store: ObjectStore, outputs: Iterable[str]) -> None:
    """Record those `outputs`, keys below DST, that no record names yet. Raises ManifestError, StorageError."""
    new = sorted(set(outputs) - read_distrusted(store))
    for start in range(0, len(new), _MAX_ROWS):
        sink = io.BytesIO()
        pq.write_table(pa.table([new[start : start + _MAX_ROWS]], schema=_SCHEMA), sink, compression="zstd")
        data = sink.getvalue()
        with contextlib.suppress(ObjectExistsError):  # the same content, by its name
            store.create(f"{DISTRUST_PREFIX}/{hashlib.sha256(data).hexdigest()}.parquet", data)
    fault_point("distrust.recorded")


def read_distrusted(store: ObjectStore) -> set[str]:
    """Every output that a record names. Raises ManifestError for a damaged record, StorageError."""
    return {output for key in _records(store) for output in _read(store, key)}


class DistrustedOutputs:
    """The distrusted outputs as of the latest `refresh`; each record is read once. Safe for threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._outputs: set[str] = set()
        self._by_folded: dict[str, set[str]] = {}
        self._known: set[str] | None = None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Look for new records: one listing. Raises ManifestError, StorageError."""
        with self._lock:
            known = self._known or set()
            for key in _records(self._store):
                if key not in known:
                    outputs = _read(self._store, key)
                    self._outputs.update(outputs)
                    for output in outputs:
                        self._by_folded.setdefault(folded(output), set()).add(output)
                    known.add(key)
            self._known = known

    def __contains__(self, key: str) -> bool:
        """Whether this output is distrusted, as of the latest refresh; looks first where there was none."""
        if self._known is None:
            self.refresh()
        return key in self._outputs

    def written_otherwise(self, key: str) -> list[str]:
        """Distrusted outputs whose names differ from `key` in case, or in how accents are written, alone."""
        return sorted(self._by_folded.get(folded(key), set()) - {key})


def _records(store: ObjectStore) -> Iterator[str]:
    return (info.key for info in store.list(DISTRUST_PREFIX) if _RECORD_KEY.fullmatch(info.key))


def _read(store: ObjectStore, key: str) -> list[str]:
    data = store.read(key)
    match = _RECORD_KEY.fullmatch(key)
    if match is None or hashlib.sha256(data).hexdigest() != match[1]:
        raise ManifestError(f"{key}: not the record of distrusted outputs that was written: its SHA-256 differs")
    try:
        outputs: list[str] = pq.read_table(io.BytesIO(data), schema=_SCHEMA)["output"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{key}: not a record of distrusted outputs ({first_line(error)})") from error
    return outputs
