"""Workers that come and go: the policy on real actors, on this machine and on nodes that a real autoscaler starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from commands import rows_of
from counted_engine import slow_by_size_engine, start_together
from photographs import jpeg, picture

from pipeline.config import build_config
from pipeline.execution.base import Progress, WorkerSpec, WorkSize
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources
from pipeline.scaling_record import ScalingEvent
from pipeline.sharding import open_source, plan_shards

UP_TO_TWO = WorkerResources(num_workers=2, num_workers_on_node=2, num_cpus=1, num_gpus=0)


@pytest.mark.timeout(300)
def test_workers_come_with_the_work_and_go_when_none_waits(ray_here: None, tmp_path: Path) -> None:
    """The last image outlasts the cool-down by far: whoever has nothing to do beside it leaves.

    However long starts take here: no image is done before both workers are there, and what is believed of the work
    until then makes up for the second start.
    """
    (tmp_path / "photos").mkdir()
    for index in range(40):
        (tmp_path / f"photos/{index:02}.jpg").write_bytes(jpeg(picture(256, 256, seed=index)))
    (tmp_path / "photos/last.jpg").write_bytes(jpeg(picture(1024, 1024)))
    config = build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        model={"weights": "identity"},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        sharding={"max_images": 1},
        execution={
            "leases_per_worker": 1,
            "scaling": {"max_workers": 2, "interval_s": 0.2, "cool_down_s": 0.5},
        },
    )
    shards = list(plan_shards(open_source(config.source).iterate(), 1, config.sharding))
    events: list[ScalingEvent] = []
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_workers == 2:
            start_together(tmp_path / "out")

    spec = WorkerSpec(config, "identity", None, build_engine=slow_by_size_engine)  # type: ignore[arg-type]
    with RayExecutor(spec, UP_TO_TWO, events.append) as executor:
        done = executor.run(
            iter(shards), num_shards=len(shards), resuming=False, on_progress=watch, size=WorkSize(len(shards), 100.0)
        )
    assert (done.num_shards, done.num_ok, done.num_workers_lost) == (41, 41, 0)
    deltas = [event.delta for event in events]
    assert deltas == [1, 1, -1], [event.reason for event in events]
    assert [event.num_workers for event in events] == [1, 2, 1]
    assert "no shard waits" in events[-1].reason
    assert [progress.num_images for progress in seen] == sorted(progress.num_images for progress in seen)
    rows = rows_of(tmp_path / "out")
    assert Counter(row["attempt"] for row in rows) == {1: 41}
    assert len({row["worker"] for row in rows}) == 2


@pytest.mark.timeout(180)
def test_a_deadline_that_is_missed_with_all_workers_there_are_is_told_though_none_comes(
    ray_here: None, tmp_path: Path
) -> None:
    """The second run is said to be far more than the one worker, whom the first run has started, can do."""
    (tmp_path / "photos").mkdir()
    for index in range(2):
        (tmp_path / f"photos/{index}.jpg").write_bytes(jpeg(picture(32, 32, seed=index)))
    config = build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        model={"weights": "identity"},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        sharding={"max_images": 1},
        execution={"scaling": {"max_workers": 1, "interval_s": 0.01, "deadline_s": 3600}},
    )
    first, second = plan_shards(open_source(config.source).iterate(), 1, config.sharding)
    events: list[ScalingEvent] = []
    with RayExecutor(WorkerSpec(config, "identity", None), UP_TO_TWO, events.append) as executor:
        for shard, megapixels in ((first, 1.0), (second, 1e6)):
            size = WorkSize(1, megapixels)
            executor.run(iter([shard]), num_shards=1, resuming=False, on_progress=lambda _: None, size=size)
    assert [event.delta for event in events] == [1, 0], [event.reason for event in events]
    assert "1 workers are allowed" in events[1].reason or "no more workers" in events[1].reason
    assert "misses the deadline in 3," in events[1].reason
