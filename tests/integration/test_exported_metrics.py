"""What Ray's own endpoint exports of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import requests
from commands import wait_until
from photographs import jpeg, picture

from pipeline.config import build_config
from pipeline.execution.base import WorkerSpec
from pipeline.execution.meters import NullRecorder
from pipeline.execution.metrics import DEFINITIONS, FAILURES, IMAGES, LEASES_HELD, QUEUE_BYTES, SHARDS_COMPLETED, Role
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_metrics import RayRecorder, ray_recorder
from pipeline.execution.ray_session import WorkerResources
from pipeline.sharding import open_source, plan_shards

NUM_PHOTOS = 3


def exported(job_id: str) -> dict[str, float]:
    """The exported series of one job, by name and its own labels."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    text = requests.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).text
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("ray_hdrfleet_") and f'job_id="{job_id}"' in line:
            name, labels = line.split("{", 1)
            own = [label for label in ("outcome", "code", "queue", "state", "stage") if f',{label}="' in labels]
            values = [labels.split(f',{label}="')[1].split('"')[0] for label in own]
            found["/".join([name.removeprefix("ray_"), *values])] = float(line.rsplit(" ", 1)[1])
    return found


@pytest.mark.timeout(180)
def test_a_run_on_ray_exports_what_its_worker_and_its_driver_recorded(ray_here: None, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(NUM_PHOTOS):
        (tmp_path / f"photos/{index}.jpg").write_bytes(jpeg(picture(64, 64, seed=index)))
    (tmp_path / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    config = build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        sharding={"max_images": 2},
    )
    shards = plan_shards(open_source(config.source).iterate(), 1, config.sharding)
    one = WorkerResources(num_workers=1, num_workers_on_node=1, num_cpus=1, num_gpus=0)
    with RayExecutor(WorkerSpec(config, "identity", None, job_id="job-exports"), one) as executor:
        executor.run(shards, num_shards=2, resuming=False, on_progress=lambda _: None)
        # The worker and the driver report each in its own time.
        wait_until(lambda: exported("job-exports").get(f"{IMAGES.name}/ok") == NUM_PHOTOS, "the worker's are exported")
        wait_until(lambda: exported("job-exports").get(SHARDS_COMPLETED.name) == 2, "the driver's are exported")
        series = exported("job-exports")
    assert series[f"{IMAGES.name}/failed"] == 1
    assert series[f"{IMAGES.name}/quarantined"] == 0
    assert sum(value for name, value in series.items() if name.startswith(FAILURES.name)) == 1
    assert series[SHARDS_COMPLETED.name] == 2
    assert series[LEASES_HELD.name] == 0
    assert f"{QUEUE_BYTES.name}/decoded" in series
    names = {name.split("/")[0] for name in series}
    missing = {each.name for each in DEFINITIONS if not any(name.startswith(each.name) for name in names)}
    assert missing == set()


def test_without_an_exporter_nothing_is_recorded_and_nothing_raised(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(ray_recorder("job", Role.DRIVER), RayRecorder)

    def refuse(*_: object) -> None:
        raise RuntimeError("no exporter")

    monkeypatch.setattr(RayRecorder, "_made", refuse)
    assert isinstance(ray_recorder("job", Role.DRIVER), NullRecorder)
