"""Several workers on one GPU: Ray is told that a node has one, and places their shares; the network runs on cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from card_engine import card_engine, cards
from commands import rows_of, wait_until
from counted_engine import computed, start_together
from photographs import jpeg, picture
from ray_nodes import node_beside

from pipeline.config import build_config
from pipeline.execution.base import Progress, WorkerSpec
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_session import WorkerResources, plan_resources
from pipeline.sharding import open_source, plan_shards

NUM_PHOTOS = 6


@pytest.fixture
def card_node(ray_here: None, tmp_path: Path) -> Iterator[str]:
    """The id of a node with one core and one GPU, which need not be there, beside the one without."""
    with node_beside(("--num-cpus=1", "--num-gpus=1"), tmp_path / "node.log") as node:
        yield node


@pytest.mark.timeout(240)
def test_two_workers_share_the_one_card_and_its_node_and_finish_a_job(card_node: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(NUM_PHOTOS):
        (tmp_path / f"photos/{index}.jpg").write_bytes(jpeg(picture(48, 48, seed=index)))
    config = build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        model={"weights": "identity"},
        inference={"precision": "fp32", "num_threads": 1},
        sharding={"max_images": 1},
        execution={"leases_per_worker": 1, "placement": {"workers_per_gpu": 2}},
    )
    planned = plan_resources(config)
    assert planned == WorkerResources(2, 2, 0.5, 0.5)
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.num_workers == 2 and not ray.available_resources().get("GPU"):
            start_together(tmp_path / "out")  # both are there, and the card is all taken

    shards = list(plan_shards(open_source(config.source).iterate(), 1, config.sharding))
    spec = WorkerSpec(config, "identity", None, build_engine=card_engine)  # type: ignore[arg-type]
    with RayExecutor(spec, planned) as executor:
        done = executor.run(iter(shards), num_shards=NUM_PHOTOS, resuming=False, on_progress=watch)
    assert (done.num_shards, done.num_ok, done.num_workers_lost) == (NUM_PHOTOS, NUM_PHOTOS, 0)
    assert max(progress.num_workers for progress in seen) == 2
    assert cards(tmp_path / "out") == [(card_node, "0", "0", "0.5")] * 2
    assert len({row["worker"] for row in rows_of(tmp_path / "out")}) == 2
    counts, num_processes = computed(tmp_path / "out")
    assert (counts.total(), num_processes) == (NUM_PHOTOS, 2)
    wait_until(lambda: ray.available_resources().get("GPU") == 1, "the card is free again", 60)
