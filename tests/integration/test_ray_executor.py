"""The lease scheduler with real actors: workers that die, cannot start, or ask for what the cluster lacks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from commands import descendants
from counted_engine import slow_engine, start_together
from photographs import jpeg, picture

from pipeline.config import ConversionConfig, StorageConfig, build_config
from pipeline.errors import ConfigError, DiskFullError, InterruptedJobError, WeightsError, WorkerLostError
from pipeline.execution.base import Progress, WorkerSpec
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources, plan_resources, ray_session
from pipeline.manifest import open_manifest
from pipeline.records import Shard
from pipeline.sharding import open_source, plan_shards
from pipeline.storage import open_store

NUM_PHOTOS = 6
UP_TO_9 = {"max_workers": 9}
T4 = {"accelerator_type": "T4"}
TWO_T4 = WorkerResources(2, 1, 1, 1, "T4")
ONE_WORKER = WorkerResources(num_workers=1, num_workers_on_node=1, num_cpus=1, num_gpus=0)


@pytest.fixture
def config(tmp_path: Path) -> ConversionConfig:
    (tmp_path / "photos").mkdir()
    for index in range(NUM_PHOTOS):
        (tmp_path / f"photos/{index}.jpg").write_bytes(jpeg(picture(96, 96, seed=index)))
    return build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        sharding={"max_images": 1},
    )


def shards(config: ConversionConfig) -> Iterator[Shard]:
    return plan_shards(open_source(config.source).iterate(), 1, config.sharding)


def rows(config: ConversionConfig) -> list[dict[str, Any]]:
    return open_manifest(open_store(config.destination.url, StorageConfig())).history.to_pylist()


def workers() -> list[psutil.Process]:
    return descendants(os.getpid(), "RayWorker")


@pytest.mark.timeout(180)
def test_a_worker_that_dies_is_replaced_and_its_leases_are_leased_again(
    ray_here: None, config: ConversionConfig
) -> None:
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.num_images >= 1 and not killed:
            (worker,) = workers()
            killed.append(worker.pid)
            worker.kill()

    with RayExecutor(WorkerSpec(config, "identity", None), ONE_WORKER) as executor:
        summary = executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=kill_once)
    assert killed
    assert summary.num_workers_lost == 1
    assert 1 <= summary.num_given_back <= config.execution.leases_per_worker
    assert (summary.num_shards, summary.num_ok) == (NUM_PHOTOS, NUM_PHOTOS)
    assert Counter(row["source"] for row in rows(config)) == {f"{index}.jpg": 1 for index in range(NUM_PHOTOS)}
    assert {row["attempt"] for row in rows(config)} == {1, 2}


@pytest.mark.timeout(180)
def test_two_workers_share_the_shards_and_the_counts_add_up(
    ray_here: None, config: ConversionConfig, tmp_path: Path
) -> None:
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_workers == 2:  # one that starts much later than the other would find no work
            start_together(tmp_path / "out")

    two = WorkerResources(num_workers=2, num_workers_on_node=2, num_cpus=1, num_gpus=0)
    with RayExecutor(WorkerSpec(config, "identity", None, build_engine=slow_engine), two) as executor:
        summary = executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=watch)
    assert summary.num_ok == NUM_PHOTOS
    assert max(progress.num_workers for progress in seen) == 2
    assert len({row["worker"] for row in rows(config)}) == 2
    assert [progress.num_images for progress in seen] == sorted(progress.num_images for progress in seen)


@pytest.mark.timeout(120)
def test_a_worker_that_cannot_be_built_stops_the_job_with_its_own_error(
    ray_here: None, config: ConversionConfig
) -> None:
    with (
        RayExecutor(WorkerSpec(config, "torn.pth", b"not weights"), ONE_WORKER) as executor,
        pytest.raises(WeightsError, match=r"torn\.pth"),
    ):
        executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=lambda _: None)


@pytest.mark.timeout(120)
def test_workers_that_the_cluster_cannot_hold_end_the_job_within_the_bound(
    ray_here: None, config: ConversionConfig
) -> None:
    impatient = config.model_copy(
        update={"execution": config.execution.model_copy(update={"worker_start_timeout_s": 3.0})}
    )
    too_much = WorkerResources(num_workers=1, num_workers_on_node=1, num_cpus=64, num_gpus=0)
    with (
        RayExecutor(WorkerSpec(impatient, "identity", None), too_much) as executor,
        pytest.raises(WorkerLostError, match="no worker started within 3 s; it asks for 64 CPU"),
    ):
        executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=lambda _: None)


@pytest.mark.timeout(120)
def test_a_shard_that_takes_too_long_costs_the_worker(ray_here: None, config: ConversionConfig) -> None:
    """Of two shards on one worker one is done first, and the other is late by then: it is tried again, alone."""
    hasty = config.model_copy(update={"execution": config.execution.model_copy(update={"shard_timeout_s": 0.001})})
    with RayExecutor(WorkerSpec(hasty, "identity", None), ONE_WORKER) as executor:
        summary = executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=lambda _: None)
    assert summary.num_workers_lost > 0
    assert summary.num_given_back > 0
    assert (summary.num_shards, summary.num_failed) == (NUM_PHOTOS, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("raised", "reported"), [(KeyboardInterrupt(), InterruptedJobError), (DiskFullError("full"), DiskFullError)]
)
def test_an_interrupt_leaves_no_worker_behind(
    ray_here: None, config: ConversionConfig, raised: BaseException, reported: type[Exception]
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.num_workers:
            raise raised

    with RayExecutor(WorkerSpec(config, "identity", None), ONE_WORKER) as executor, pytest.raises(reported):
        executor.run(shards(config), num_shards=NUM_PHOTOS, resuming=False, on_progress=interrupt)
    _, alive = psutil.wait_procs(workers(), timeout=20)
    assert not alive


def test_a_session_that_is_there_is_used_and_left_alone(ray_here: None, config: ConversionConfig) -> None:
    with ray_session(config.execution):
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([{"CPU": 2}], {}, WorkerResources(1, 1, 2, 0)),
        ([{"CPU": 8}], {"num_workers": 3}, WorkerResources(3, 3, 2, 0)),
        ([{"CPU": 8}], {"num_workers": 99}, WorkerResources(8, 8, 1, 0)),
        ([{"CPU": 4}, {"CPU": 4}], {}, WorkerResources(2, 1, 4, 0)),
        ([{"CPU": 16}, {"CPU": 2}], {}, WorkerResources(2, 2, 8, 0)),
        ([{"CPU": 64}, {"CPU": 4}, {"CPU": 4}], {}, WorkerResources(3, 3, 21, 0)),
        ([{"CPU": 0.5}], {}, WorkerResources(1, 1, 0.5, 0)),
        ([{"memory": 1.0}, {"CPU": 4}], {}, WorkerResources(1, 1, 4, 0)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], {}, WorkerResources(8, 1, 1, 1)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 2}], {"num_workers": 3}, WorkerResources(3, 1, 1, 1)),
        ([{"CPU": 4, "GPU": 8}], {}, WorkerResources(8, 1, 0.5, 1)),
        ([{"CPU": 32, "GPU": 4}], {"device": "cpu"}, WorkerResources(1, 1, 32, 0)),
        ([{"CPU": 32, "GPU": 4}], {"placement": {"workers_per_gpu": 2}}, WorkerResources(8, 2, 1, 0.5)),
        ([{"CPU": 2, "GPU": 1}], {"placement": {"workers_per_gpu": 4}}, WorkerResources(4, 4, 0.5, 0.25)),
        ([{"CPU": 2}], {"device": "cuda", "scaling": UP_TO_9}, WorkerResources(9, 1, 1, 1)),
        ([{"CPU": 0}], {"placement": {"workers_per_gpu": 2}, "scaling": UP_TO_9}, WorkerResources(9, 2, 1, 0.5)),
        ([{"CPU": 0}], {"placement": T4, "scaling": UP_TO_9}, WorkerResources(9, 1, 1, 1, "T4")),
        ([{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 2, "accelerator_type:T4": 1}], {"placement": T4}, TWO_T4),
        ([{"CPU": 36}], {"scaling": UP_TO_9}, WorkerResources(9, 9, 4, 0)),
        ([{"memory": 1.0}], {"scaling": UP_TO_9}, WorkerResources(9, 1, 1, 0)),
        ([], {"scaling": UP_TO_9}, WorkerResources(9, 1, 1, 0)),
        ([{"CPU": 0}], {"scaling": UP_TO_9, "device": "cpu"}, WorkerResources(9, 1, 1, 0)),
    ],
)
def test_resources_follow_from_the_nodes(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    options: dict[str, Any],
    expected: WorkerResources,
) -> None:
    dead = {"Alive": False, "Resources": {"CPU": 512.0, "GPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes] + [dead])
    execution = {name: value for name, value in options.items() if name != "device"}
    asked = build_config(
        source={"url": "s"},
        destination={"url": "d"},
        inference={"device": options.get("device", "auto")},
        execution=execution,
    )
    assert plan_resources(asked) == expected


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}])
@pytest.mark.parametrize("nodes", [[], [{"memory": 1.0}], [{"CPU": 0.0, "GPU": 0.0}]])
def test_a_head_that_offers_nothing_gets_no_work(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], options: dict[str, Any]
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    asked = build_config(source={"url": "s"}, destination={"url": "d"}, execution=options)
    with pytest.raises(ConfigError, match="no node of the cluster offers a CPU or a GPU; give --max-workers"):
        plan_resources(asked)


@pytest.mark.parametrize(
    ("placement", "says"),
    [
        ({"accelerator_type": "T4"}, "no node of the cluster has type T4; drop the option, or give --max-workers"),
        ({"labels": {"zone": "b"}}, "no node of the cluster has zone=b"),
        ({"workers_per_gpu": 2}, "workers per GPU were asked for, but Ray sees no GPU"),
    ],
)
def test_a_place_that_no_node_offers_is_refused_where_none_can_come(
    ray_here: None, placement: dict[str, Any], says: str
) -> None:
    asked = build_config(source={"url": "s"}, destination={"url": "d"}, execution={"placement": placement})
    with pytest.raises(ConfigError, match=says):
        plan_resources(asked)


def test_cuda_without_a_gpu_in_the_cluster_is_refused(ray_here: None) -> None:
    asked = build_config(source={"url": "s"}, destination={"url": "d"}, inference={"device": "cuda"})
    with pytest.raises(ConfigError, match="Ray sees no GPU"):
        plan_resources(asked)
