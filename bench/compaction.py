"""What compacting every day costs: bytes read and written over all days, and the files that the last head names.

    python -m bench.compaction --days 60 --parts 32

Every day commits a plan of that many parts of 64 made-up rows, in memory, and compacts.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.manifest import PROVENANCE, result
from pipeline.config import StorageConfig
from pipeline.manifest import commit_part, compact
from pipeline.manifest.head import newest_head
from pipeline.records import Shard
from pipeline.storage import ObjectInfo, ObjectStore, open_store

SHARD_IMAGES = 64


class CountingStore:
    """Counts the bytes of a manifest's generations and parts that pass; everything else is passed on."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.num_bytes: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, key: str, **options: Any) -> bytes:
        data = self._inner.read(key, **options)
        self.num_bytes["read"] += len(data)
        return data

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        self.num_bytes["written"] += len(data)
        return self._inner.create(key, data, metadata=metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--parts", type=int, default=32, help="parts of 64 rows per day")
    args = parser.parse_args()
    inner = open_store("memory://bench-compaction", StorageConfig())
    store: Any = CountingStore(inner)
    rng, seconds, last_s = random.Random(0), 0.0, 0.0  # noqa: S311 - made-up rows
    for day in range(1, args.days + 1):
        write_day(inner, rng, day, args.parts)
        start = time.perf_counter()
        done = compact(store)
        last_s = time.perf_counter() - start
        seconds += last_s
    head = newest_head(inner)
    assert head is not None
    part_bytes = sum(info.size_bytes for info in inner.list("manifest") if "/plan=" in info.key)
    print(f"{args.days} days of {args.parts * SHARD_IMAGES:,} rows, {part_bytes / 2**20:.0f} MiB of parts")
    for what, number in store.num_bytes.items():
        print(f"{what}: {number / 2**20:,.0f} MiB, {number / part_bytes:.1f} times the parts")
    print(f"{seconds:.1f} s in all, {last_s:.1f} s the last; {done.num_rows:,} rows in {len(head.files)} files")


def write_day(store: ObjectStore, rng: random.Random, day: int, num_parts: int) -> None:
    for shard in range(num_parts):
        first = (day * num_parts + shard) * SHARD_IMAGES
        rows = [result(rng, first + index) for index in range(SHARD_IMAGES)]
        commit_part(store, rows, Shard(day, shard, tuple(row.task for row in rows)), 1, PROVENANCE)


if __name__ == "__main__":
    main()
