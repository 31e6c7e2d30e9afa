"""The end of a job on real actors: one large shard that several workers do, and what becomes of it when they die."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import descendants
from counted_engine import computed, network_engine, slow_engine, start_together
from independent_checker import Folder, require_whole
from photographs import jpeg, picture

from pipeline.config import ConversionConfig, build_config
from pipeline.execution.base import Progress, RunSummary, WorkerSpec, WorkSize
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources
from pipeline.sharding import open_source, plan_shards

TWO_WORKERS = WorkerResources(num_workers=2, num_workers_on_node=2, num_cpus=1, num_gpus=0)
NUM_IMAGES = 40  # the first ten are gone before anything is lent


class Job:
    """One shard of `NUM_IMAGES` images for two workers."""

    def __init__(self, root: Path, build: Callable[[WorkerSpec], object], size_px: int = 64) -> None:
        self.dst = root / "out"
        (root / "photos").mkdir()
        self.inputs = {f"{index:02}.jpg": jpeg(picture(size_px, size_px, seed=index)) for index in range(NUM_IMAGES)}
        for name, data in self.inputs.items():
            (root / "photos" / name).write_bytes(data)
        config = self.config(root)
        self.spec = WorkerSpec(config, "identity", None, build_engine=build)  # type: ignore[arg-type]
        self.shards = list(plan_shards(open_source(config.source).iterate(), 1, config.sharding))
        assert len(self.shards) == 1
        self.events: list[str] = []

    def config(self, root: Path) -> ConversionConfig:
        return build_config(
            source={"url": str(root / "photos")},
            destination={"url": str(self.dst)},
            model={"weights": "identity"},
            inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        )

    def run(self, on_progress: Callable[[Progress], None] = lambda _: None) -> RunSummary:
        def watch(progress: Progress) -> None:
            self.events += [event.name for event in progress.events]
            if progress.num_workers == 2:
                start_together(self.dst)
            on_progress(progress)

        with RayExecutor(self.spec, TWO_WORKERS) as executor:
            return executor.run(
                iter(self.shards),
                num_shards=1,
                resuming=False,
                on_progress=watch,
                size=WorkSize(NUM_IMAGES, 1000.0),
            )

    def require_whole(self, *, num_leftovers: int = 0) -> list[dict[str, object]]:
        rows = require_whole(Folder(self.dst), self.inputs, num_leftovers=num_leftovers)
        assert len(list(self.dst.glob("manifest/plan=1/*"))) == 1, "one part for the shard"
        assert {row["status"] for row in rows} == {"ok"}
        return rows


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("build", "size_px"), [(slow_engine, 64), pytest.param(network_engine, 384, marks=pytest.mark.long)]
)
def test_two_workers_do_one_shard_and_each_image_once(
    ray_here: None, tmp_path: Path, build: Callable[[WorkerSpec], object], size_px: int
) -> None:
    job = Job(tmp_path, build, size_px)
    done = job.run()
    rows = job.require_whole()
    assert (done.num_shards, done.num_ok, done.num_split, done.num_given_back) == (1, NUM_IMAGES, 1, 0)
    times, num_processes = computed(job.dst)
    assert num_processes == 2
    assert times == dict.fromkeys(times, 1)
    assert len(times) == NUM_IMAGES
    by_worker = Counter(row["worker"] for row in rows)
    assert len(by_worker) == 2
    assert min(by_worker.values()) >= NUM_IMAGES // 4, by_worker
    assert {row["attempt"] for row in rows} == {1}
    assert not any(row["adopted"] for row in rows)
    assert job.events.count("shard_completed") == 1
    assert job.events.count("part_done") >= 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["holder", pytest.param("helper", marks=pytest.mark.long)])
def test_a_death_in_the_tail_loses_nothing_and_what_was_stored_is_adopted(
    ray_here: None, tmp_path: Path, victim: str
) -> None:
    job = Job(tmp_path, slow_engine)
    killed: list[int] = []
    seen_at_split: list[int] = []

    def kill_one(progress: Progress) -> None:
        if "shard_split" in job.events and not seen_at_split:
            seen_at_split.append(progress.num_images)
        # Both have stored something of theirs since the split.
        if killed or not seen_at_split or progress.num_images < seen_at_split[0] + 4:
            return
        logs = sorted(job.dst.with_name("computed").iterdir(), key=lambda log: len(log.read_text()))
        pid = int(logs[-1 if victim == "holder" else 0].name)
        (worker,) = [process for process in descendants(os.getpid(), "RayWorker") if process.pid == pid]
        killed.append(pid)
        worker.kill()

    done = job.run(kill_one)
    assert killed
    rows = job.require_whole(num_leftovers=2)
    assert (done.num_shards, done.num_ok, done.num_workers_lost) == (1, NUM_IMAGES, 1)
    times, _ = computed(job.dst)
    assert len(times) == NUM_IMAGES
    # What was in flight in the worker that died is computed again, and nothing that it stored.
    assert sum(times.values()) <= NUM_IMAGES + 3
    assert any(row["adopted"] for row in rows)
    assert {row["attempt"] for row in rows} == {2}
