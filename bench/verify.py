"""Peak memory and time of `hdrfleet verify` over many rows, without a sample of outputs.

    python -m bench.verify --rows 1000000

Writes one plan of made-up images and a compacted manifest of it into a temporary folder, and verifies it in a process
of its own. Outputs are only listed: the listing is made up as well, so that no million files are needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import StorageConfig, build_config
from pipeline.job import open_job, read_job
from pipeline.manifest import SCHEMA
from pipeline.manifest.generation import write_files
from pipeline.manifest.head import Head, head_key
from pipeline.records import ImageTask, Shard
from pipeline.sharding import iter_shards, read_plan_summaries, write_plan
from pipeline.storage import ObjectInfo, ObjectStore, open_store
from pipeline.storage.keys import ListingObserver
from pipeline.verification import verify_destination

SHARD_IMAGES = 64
OUTPUT_BYTES = 12_345_678
SOURCE_BYTES = 5_000_000
_WEIGHTS = "f" * 64
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


class ListedStore:
    """Lists an output of every planned image; everything else is passed on."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        if prefix != "images":
            yield from self._inner.list(prefix, observer)
            return
        for plan in read_plan_summaries(self._inner):
            for shard in iter_shards(self._inner, plan):
                for task in shard.tasks:
                    yield ObjectInfo(f"images/{task.source}.exr", OUTPUT_BYTES, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--verify", metavar="FOLDER", help="verify what is there, in this process (used by itself)")
    args = parser.parse_args()
    if args.verify:
        verify(args.verify)
        return
    with tempfile.TemporaryDirectory(prefix="hdrfleet-bench-") as folder:
        write_destination(folder, args.rows)
        command = [sys.executable, "-m", "bench.verify", "--verify", folder]
        subprocess.run(command, check=True)  # noqa: S603 - itself


def verify(folder: str) -> None:
    inner = open_store(folder, StorageConfig())
    store: Any = ListedStore(inner)
    record = read_job(inner)
    assert record is not None
    before, start = peak_mib(), time.perf_counter()
    report = verify_destination(store, record, share=0.0)
    assert report.is_sound, report.findings[:5]
    seconds = time.perf_counter() - start
    print(f"{report.num_rows:,} rows, {report.num_outputs:,} outputs: {seconds:.1f} s")
    print(f"peak resident memory: {peak_mib():.0f} MiB, {before:.0f} MiB of them before verification began")


def peak_mib() -> float:
    """VmHWM: what getrusage says of a child includes the memory of the process that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def write_destination(folder: str, num_rows: int) -> None:
    store = open_store(folder, StorageConfig())
    config = build_config(source={"url": "s3://photos"}, destination={"url": folder})
    job = open_job(store, config, source_root="s3://photos", weights_name="default", weights_sha256=_WEIGHTS)
    write_plan(store, 1, shards(num_rows))
    files = write_files(store, 1, rows(num_rows, job.record.pixel_digest))
    num_shards = -(-num_rows // SHARD_IMAGES)
    head = Head(
        generation=1,
        created_at=_NOW.isoformat(),
        software_version="bench",
        num_rows=num_rows,
        files=tuple(files),
        covered={1: ((0, num_shards - 1),)},
    )
    store.create(head_key(1), head.model_dump_json().encode())


def name(index: int) -> str:
    return f"2024/trip-{index // 500:05d}/IMG_{index:08d}.jpg"


def shards(num_rows: int) -> Iterator[Shard]:
    for start in range(0, num_rows, SHARD_IMAGES):
        indices = range(start, min(start + SHARD_IMAGES, num_rows))
        tasks = tuple(ImageTask(name(n), f"s3://photos/{name(n)}", SOURCE_BYTES, f"{n:032x}") for n in indices)
        yield Shard(1, start // SHARD_IMAGES, tasks)


def rows(num_rows: int, pixel_digest: str) -> pa.Table:
    """Rows of the manifest as a conversion writes them; columns that verification does not read are constant."""
    sources = [name(index) for index in range(num_rows)]
    values: dict[str, Any] = {
        "source": sources,
        "source_etag": [f"{index:032x}" for index in range(num_rows)],
        "source_sha256": [f"{index:064x}" for index in range(num_rows)],
        "output": [f"images/{source}.exr" for source in sources],
        "output_sha256": [f"{~index & (2**256 - 1):064x}" for index in range(num_rows)],
        "shard": [index // SHARD_IMAGES for index in range(num_rows)],
    }
    constants = {"status": "ok", "width": 6000, "height": 4000, "has_alpha": False, "output_bytes": OUTPUT_BYTES}
    constants |= {"plan": 1, "pixel_digest": pixel_digest, "weights_sha256": _WEIGHTS, "revision": 1, "warnings": []}
    constants |= {"source_bytes": SOURCE_BYTES, "started_at": _NOW, "finished_at": _NOW}
    columns = []
    for field in SCHEMA:
        if field.name in values:
            columns.append(pa.array(values[field.name], field.type))
        elif field.name in constants or not field.nullable:
            filler = "x" if pa.types.is_string(field.type) else 1
            columns.append(pa.repeat(pa.scalar(constants.get(field.name, filler), field.type), num_rows))
        else:
            columns.append(pa.nulls(num_rows, field.type))
    return pa.table(columns, schema=SCHEMA)


if __name__ == "__main__":
    main()
