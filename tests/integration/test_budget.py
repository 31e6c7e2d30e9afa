"""A budget for workers that runs out on real actors: the job stops, and goes on with another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import hdrfleet_here
from counted_engine import computed, network_engine, slow_engine, start_together
from independent_checker import Folder, require_whole
from photographs import jpeg, picture

from pipeline.config import build_config
from pipeline.errors import BudgetSpentError
from pipeline.execution import elastic
from pipeline.execution.base import WorkerSpec, WorkSize
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources
from pipeline.scaling_record import ScalingEvent
from pipeline.sharding import open_source, plan_shards

ONE_WORKER = WorkerResources(num_workers=1, num_workers_on_node=1, num_cpus=1, num_gpus=0)
NUM_IMAGES = 160
BUDGET_S = 45.0


def write_photos(folder: Path, number: int) -> dict[str, bytes]:
    folder.mkdir()
    inputs = {f"{index:03}.jpg": jpeg(picture(32, 32, seed=index)) for index in range(number)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    return inputs


@pytest.mark.long
@pytest.mark.timeout(300)
def test_with_the_budget_spent_the_job_stops_and_the_next_run_adopts_what_was_stored(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is ended at work, in a shard that is too large for the budget."""
    monkeypatch.setattr(elastic, "_START_S", 5.0)  # else a budget that buys a first worker lasts for minutes
    inputs = write_photos(tmp_path / "photos", NUM_IMAGES)
    parts = {
        "source": {"url": str(tmp_path / "photos")},
        "destination": {"url": str(tmp_path / "out")},
        "model": {"weights": "identity"},
        "inference": {"device": "cpu", "precision": "fp32", "num_threads": 1},
        "sharding": {"max_images": NUM_IMAGES},
    }
    scaling = {"max_workers": 1, "interval_s": 1.0, "budget_worker_s": BUDGET_S}
    config = build_config(**parts, execution={"scaling": scaling})
    (shard,) = plan_shards(open_source(config.source).iterate(), 1, config.sharding)
    start_together(tmp_path / "out")
    events: list[ScalingEvent] = []
    size = WorkSize(NUM_IMAGES, 4.0)
    with (
        RayExecutor(WorkerSpec(config, "identity", None, build_engine=slow_engine), ONE_WORKER, events.append) as first,
        pytest.raises(BudgetSpentError, match=r"the budget of 0\.01 worker-hours pays for no worker any more: "),
    ):
        first.run(iter([shard]), num_shards=1, resuming=False, on_progress=lambda _: None, size=size)
    assert [event.delta for event in events] == [1, -1], [event.reason for event in events]
    assert "the budget's last" in events[-1].reason
    assert not list((tmp_path / "out").glob("manifest/*"))
    stored = set((tmp_path / "out/images").glob("*.exr"))
    assert 0 < len(stored) < NUM_IMAGES

    config = build_config(**parts)
    with RayExecutor(WorkerSpec(config, "identity", None, build_engine=network_engine), ONE_WORKER) as again:
        done = again.run(iter([shard]), num_shards=1, resuming=True, on_progress=lambda _: None, size=size)
    assert (done.num_shards, done.num_ok) == (1, NUM_IMAGES)
    rows = require_whole(Folder(tmp_path / "out"), inputs, num_leftovers=2)
    assert sum(row["adopted"] for row in rows) >= len(stored)
    times, _ = computed(tmp_path / "out")
    assert sum(times.values()) <= NUM_IMAGES + 3, "what was stored was computed again"


@pytest.mark.timeout(120)
def test_a_budget_that_buys_no_worker_ends_the_job_with_an_exit_code_of_its_own(
    ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", 3)
    command = ("convert", tmp_path / "photos", tmp_path / "out", "--device", "cpu", "--weights", "identity")
    budget = ("--max-workers", "2", "--budget", "0.05", "--price-per-worker-hour", "2")
    assert hdrfleet_here(*command, *budget) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "the budget of 0.03 worker-hours pays for no worker any more: 0.00 are spent, and work is left" in said
    assert "carry on with another budget" in said
    assert "[budget_spent]" in said
    assert not list((tmp_path / "out").glob("images/*"))
