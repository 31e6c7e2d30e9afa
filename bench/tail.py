"""Makespans of one large shard on several workers, with and without splitting the tail; same process, in turns.

    python -m bench.tail --images 64 --workers 2 --image-s 0.5

Real Ray, actors, stores and commits. The engine computes nothing and takes `--image-s` for an image, as a device would
beside which the processor is free: on shared cores the network's own time would measure the other load. With a
`--image-s` of 0 it is the network. Workers are there before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import simplejpeg

from pipeline.config import build_config
from pipeline.execution.base import WorkerSpec, WorkSize
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_tail import Tail
from pipeline.inference.base import Inference, LdrPixels
from pipeline.manifest import open_manifest
from pipeline.records import InferenceInfo
from pipeline.sharding import open_source, plan_shards
from pipeline.storage import open_store


@dataclass(frozen=True)
class TimedEngine:
    """A plain decode that takes its time."""

    image_s: float
    device: str = "cpu"
    precision: str = "fp32"

    def infer(self, pixels: LdrPixels) -> Inference:
        time.sleep(self.image_s)
        linear = (pixels.astype(np.float32) / np.iinfo(pixels.dtype).max) ** 2.24
        return Inference(np.ascontiguousarray(linear), InferenceInfo("cpu", "fp32", 1, max(pixels.shape[:2])))


def timed_engine(_: WorkerSpec) -> TimedEngine:
    return TimedEngine(float(os.environ["BENCH_IMAGE_S"]))


def makespan_s(folder: Path, source: Path, args: argparse.Namespace, *, splits: bool) -> tuple[float, int]:
    """Seconds from the first lease to the last commit, and the workers that did images."""
    config: Any = build_config(
        source={"url": str(source)},
        destination={"url": str(folder)},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        sharding={"max_images": args.images, "max_megapixels": 1e9},
        model={"weights": "identity"},
    )
    build = timed_engine if args.image_s else None
    resources = WorkerResources(args.workers, args.workers, num_cpus=1, num_gpus=0)
    shards = list(plan_shards(open_source(config.source).iterate(), 1, config.sharding))
    step = Tail.step
    if not splits:
        Tail.step = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005
    try:
        with RayExecutor(WorkerSpec(config, "identity", None, build_engine=build), resources) as executor:
            _wait_for_workers(executor, args.workers)
            started = time.monotonic()
            size = WorkSize(args.images, 1e9)
            executor.run(iter(shards), num_shards=1, resuming=False, on_progress=lambda _: None, size=size)
            took_s = time.monotonic() - started
    finally:
        Tail.step = step  # type: ignore[method-assign]
    rows = open_manifest(open_store(str(folder), config.destination.storage)).history.to_pylist()
    assert len(rows) == args.images
    return took_s, len({row["worker"] for row in rows})


def _wait_for_workers(executor: RayExecutor, number: int) -> None:
    """Start all of them before there is work: what is measured is the end of a job, not its beginning."""
    pool = executor._pool
    pool.spawn_up_to(number)
    for worker in pool:
        pool.started(worker, ray.get(worker.start_ref, timeout=300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--image-s", type=float, default=0.5)
    parser.add_argument("--size-px", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ["BENCH_IMAGE_S"] = str(args.image_s)
    ray.init(num_cpus=args.workers, include_dashboard=False, log_to_driver=False, object_store_memory=150 * 2**20)
    generator = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as root:
        source = Path(root, "photos")
        source.mkdir()
        for index in range(args.images):
            pixels = generator.integers(0, 256, (args.size_px, args.size_px, 3), dtype=np.uint8)
            (source / f"{index:03}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))
        ratios = []
        for repeat in range(args.repeats):
            whole_s, _ = makespan_s(Path(root, f"whole-{repeat}"), source, args, splits=False)
            split_s, num_workers = makespan_s(Path(root, f"split-{repeat}"), source, args, splits=True)
            ratios.append(split_s / whole_s)
            print(
                f"not split {whole_s:.1f} s, split {split_s:.1f} s by {num_workers} workers: {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f}; {1 / args.workers:.3f} is the best that there is")


if __name__ == "__main__":
    main()
