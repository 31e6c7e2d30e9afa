"""The rows of compacted shards, for verification: a damaged file is told once, and the others are read."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.manifest.generation import GenerationReader
from pipeline.manifest.head import Head, head_key
from pipeline.storage import ObjectStore


class CompactedRows:
    """Reads the shards that a head covers; ask in ascending order. `num_rows` counts what was read.

    With `missing_is_damage`, a file that is not there is a damaged one; else it may have been collected.
    """

    def __init__(self, store: ObjectStore, head: Head, columns: Sequence[str], *, missing_is_damage: bool) -> None:
        self.head = head
        self._missing_is_damage = missing_is_damage
        self.num_rows = 0
        self._reader = GenerationReader(store, head, columns)
        self._damaged: set[str] = set()

    def rows(self, plan: int, shard: int) -> tuple[str, pa.Table | None, str]:
        """The file's key, the shard's rows, and what is wrong with the file when that is found.

        The rows are None in a damaged file. Raises ObjectMissingError where a collection may have removed it.
        """
        key = head_key(self.head.generation)
        try:
            key = self._reader.file_of(plan, shard).key
            if key in self._damaged:
                return key, None, ""
            rows = self._reader.shard(plan, shard)
        except (ManifestError, ObjectMissingError) as error:
            if isinstance(error, ObjectMissingError) and not self._missing_is_damage:
                raise
            self._damaged.add(key)
            return key, None, str(error)
        self.num_rows += rows.num_rows
        return key, rows, ""
