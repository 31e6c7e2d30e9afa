"""Time the manifest before and after compaction: opening it whole, the columns of the summary, and one SQL query.

    python -m bench.manifest --parts 2000 --images 64
    python -m bench.manifest --parts 2000 --images 64 --latency-ms 20

Writes that many parts of made-up rows into a temporary folder, measures, compacts, and measures again: the best of
--repeats. `--latency-ms` waits before every read, as an object store would.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.config import StorageConfig
from pipeline.manifest import SUMMARY_COLUMNS, commit_part, compact, open_manifest, run_query, summarise
from pipeline.manifest.head import newest_head
from pipeline.records import (
    ConversionStatus,
    ImageResult,
    ImageTask,
    InferenceInfo,
    LdrInfo,
    OutputInfo,
    Provenance,
    QualityStats,
    Shard,
    StageTimings,
)
from pipeline.storage import ObjectInfo, ObjectStore, open_store
from pipeline.storage.keys import ListingObserver

_QUERY = "SELECT error_code, count(*), avg(stops_gained_clipped) FROM manifest GROUP BY ALL"
PROVENANCE = Provenance("bench", "default", "a" * 64, "b" * 64, "worker-1", "node-1")
_START = datetime(2026, 1, 1, tzinfo=UTC)


class SlowStore:
    """Waits before every read; everything else is passed on."""

    def __init__(self, inner: ObjectStore, latency_s: float) -> None:
        self._inner = inner
        self._latency_s = latency_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, key: str, **options: Any) -> bytes:
        time.sleep(self._latency_s)
        return self._inner.read(key, **options)

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        return self._inner.list(prefix, observer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--images", type=int, default=64, help="rows per part")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hdrfleet-bench-") as folder:
        store = open_store(folder, StorageConfig())
        write_parts(store, args.parts, args.images)
        slow: Any = SlowStore(store, args.latency_ms / 1e3)
        before = measure(slow, args.repeats)
        start = time.perf_counter()
        done = compact(slow)
        compaction_s = time.perf_counter() - start
        after = measure(slow, args.repeats)
        head = newest_head(store)
        assert head is not None
        num_bytes = sum(info.size_bytes for info in store.list("manifest/plan=1"))
    print(f"{args.parts} parts, {done.num_rows} rows, {num_bytes / 2**20:.1f} MiB; latency {args.latency_ms:g} ms")
    print(f"compaction {compaction_s:.1f} s: {done.num_files} file(s), {done.num_bytes / 2**20:.1f} MiB")
    print(f"{'':<28}{'parts, s':>10}{'generation, s':>15}{'ratio':>8}")
    for name, parts_s in before.items():
        print(f"{name:<28}{parts_s:>10.2f}{after[name]:>15.2f}{parts_s / after[name]:>8.1f}")


def measure(store: ObjectStore, repeats: int) -> dict[str, float]:
    manifest = open_manifest(store)
    work: dict[str, Callable[[], object]] = {
        "open, all columns": lambda: open_manifest(store),
        "summary (open and sum up)": lambda: summarise(open_manifest(store, columns=SUMMARY_COLUMNS)),
        "query (open and ask)": lambda: run_query(open_manifest(store), _QUERY),
        "query alone, once opened": lambda: run_query(manifest, _QUERY),
    }
    return {name: min(timed(run) for _ in range(repeats)) for name, run in work.items()}


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write_parts(store: ObjectStore, num_parts: int, num_images: int) -> None:
    rng = random.Random(0)  # noqa: S311 - made-up rows
    for shard in range(num_parts):
        results = [result(rng, shard * num_images + index) for index in range(num_images)]
        commit_part(store, results, Shard(1, shard, tuple(r.task for r in results)), 1, PROVENANCE)


def result(rng: random.Random, index: int) -> ImageResult:
    source = f"2024/trip-{index // 500:04d}/IMG_{index:07d}.jpg"
    task = ImageTask(source, source, rng.randrange(10**6, 10**7), f"{rng.getrandbits(128):032x}")
    started_at = _START + timedelta(seconds=index / 10)
    statistics = [rng.random() for _ in range(15)]
    return ImageResult(
        task=task,
        status=ConversionStatus.OK,
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=2),
        source_sha256=f"{rng.getrandbits(256):064x}",
        image=LdrInfo("jpeg", rng.choice((4000, 6000)), 3000, 8, "RGB"),
        inference=InferenceInfo("cuda:0", "fp16", 4, 2048, num_negative=rng.randrange(1000)),
        output=OutputInfo(
            f"images/{source}.exr", rng.randrange(10**7, 10**8), f"{rng.getrandbits(256):064x}", 1, 0, False, False
        ),
        timings=StageTimings(*(rng.random() * 100 for _ in range(5))),
        stats=QualityStats(*statistics),
    )


if __name__ == "__main__":
    main()
