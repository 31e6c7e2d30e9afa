"""Which outputs were given up by a collection: no attempt may adopt one, nor make another under its name."""

from __future__ import annotations

import threading

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.manifest.generation import read_collected
from pipeline.manifest.head import MAX_LOOKS, list_heads, newest_head
from pipeline.storage.base import ObjectStore
from pipeline.storage.keys import folded


class CollectedOutputs:
    """The collected outputs that the newest head names, read once per head. Safe for threads.

    A collection marks outputs in a head before it deletes them, and only then looks for planned work whose attempts
    could use them. Work that is planned later finds the marks when it refreshes before its first image, so of the two
    at least one sees the other.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._generation = -1
        self._outputs: pa.ChunkedArray = pa.chunked_array([], pa.string())
        self._folded = self._outputs
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Look for a newer head: one listing, and its files where there is one. Raises ManifestError, StorageError."""
        with self._lock:
            for _ in range(MAX_LOOKS):
                if self._generation == max(list_heads(self._store), default=0):
                    return
                try:
                    head = newest_head(self._store)
                    if head is not None and head.collected:
                        self._outputs = read_collected(self._store, head)
                        self._folded = pc.utf8_lower(pc.utf8_normalize(self._outputs, form="NFC"))
                    self._generation = head.generation if head else 0
                except ObjectMissingError:
                    continue  # superseded and collected in between
                return
        raise ManifestError("the newest head of the manifest names files that are not there")

    def __contains__(self, key: str) -> bool:
        """Whether this output was collected, as of the latest refresh; looks first where there was none."""
        if self._generation < 0:
            self.refresh()
        return bool(self._outputs.length() and pc.index(self._outputs, key).as_py() >= 0)

    def written_otherwise(self, key: str) -> list[str]:
        """Collected outputs whose names differ from `key` in case, or in how accents are written, alone."""
        alike = pc.equal(self._folded, folded(key))
        return [output for output in self._outputs.filter(alike).to_pylist() if output != key]
