"""Nodes of a Ray cluster go away at once: half of them for good, then all of them until others come."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from commands import descendants, hdrfleet, start_hdrfleet, wait_until
from forked import forked
from independent_checker import Durable, Folder, Row, comparable, require_whole
from photographs import jpeg, picture
from ray_nodes import Cluster, running_cluster

from pipeline.config import ExecutionConfig

NUM_NODES = 4
NUM_PHOTOS = 160
SHARD_IMAGES = 4
LEASES_PER_WORKER = ExecutionConfig().leases_per_worker
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(SHARD_IMAGES), "--quiet"),
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as made:
        yield made


def require_as_undisturbed(tmp_path: Path, inputs: Mapping[str, bytes], rows: list[Row]) -> None:
    """The rows are those of a job that nothing happened to."""
    whole, log = tmp_path / "whole", tmp_path / "whole.log"
    options = ("--executor", "local", *OPTIONS)
    assert forked("convert", tmp_path / "photos", whole, *options, log=log, timeout_s=200) == 0, log.read_text()
    assert comparable(rows) == comparable(require_whole(Folder(whole), inputs))


def write_photos(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    inputs = {f"{index:03d}.jpg": jpeg(picture(160, 160, seed=index)) for index in range(NUM_PHOTOS)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    return inputs


@pytest.mark.long
@pytest.mark.timeout(900)
def test_half_of_the_nodes_then_all_and_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    photos, dst, log = tmp_path / "photos", tmp_path / "out", tmp_path / "log"
    inputs = write_photos(photos)

    def num_parts() -> int:
        return len(list(dst.glob("manifest/plan=1/*.parquet")))

    cluster.add_nodes(NUM_NODES)
    driver = start_hdrfleet(
        *("convert", photos, dst, *OPTIONS, "--address", cluster.address, "--workers", str(NUM_NODES)),
        home=tmp_path / "home",
        log=log,
    )

    def wait_for_parts(number: int) -> None:
        wait_until(lambda: num_parts() >= number or driver.poll() is not None, f"{number} shards", 240)
        assert driver.poll() is None, log.read_text()

    try:
        wait_for_parts(4)
        cluster.lose(NUM_NODES // 2)
        half = Durable.of(Folder(dst))
        wait_for_parts(12)
        cluster.lose(NUM_NODES // 2)
        lost_at = num_parts()
        everything = Durable.of(Folder(dst))  # nobody is left who could store more
        time.sleep(3)
        cluster.add_nodes(2)
        assert driver.wait(400) == 0, log.read_text()
    finally:
        driver.kill()
        driver.wait(20)
    assert lost_at < NUM_PHOTOS // 4, "the nodes were lost too late to test anything"
    rows = require_whole(Folder(dst), inputs, num_leftovers=2 * NUM_NODES)
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["worker"] for row in rows}) >= 4
    half.require_unwritten(Folder(dst))
    everything.require_kept(Folder(dst), rows)
    again = {row["shard"] for row in rows if row["attempt"] > 1}
    assert 0 < len(again) <= NUM_NODES * LEASES_PER_WORKER, "more than was leased to the workers that were lost"
    assert sum(not row["adopted"] for row in rows if row["attempt"] > 1) <= SHARD_IMAGES * len(again)
    require_as_undisturbed(tmp_path, inputs, rows)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_cluster_is_lost_with_its_head_and_another_goes_on(tmp_path: Path) -> None:
    """The driver, on a machine of its own, is ended by Ray; the same command on a new cluster does the rest."""
    photos, dst, log = tmp_path / "photos", tmp_path / "out", tmp_path / "log"
    inputs = write_photos(photos)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    command = ("convert", photos, dst, *OPTIONS[:-1], "--workers", "2", "--address")  # not quiet
    with running_cluster(tmp_path / "first") as lost:
        lost.add_nodes(2)
        driver = start_hdrfleet(*command, lost.address, home=tmp_path / "home", log=log)
        try:
            parts = dst / "manifest/plan=1"
            wait_until(lambda: len(list(parts.glob("*"))) >= 4 or driver.poll() is not None, "a tenth is done", 240)
            lost.close()
            lost_at = Durable.of(Folder(dst))
            assert driver.wait(120) != 0, log.read_text()
            said = " ".join(log.read_text().split())
            port = lost.address.rpartition(":")[2]
            assert re.search(rf"the head of the Ray cluster \([\d.]+:{port}\) has not answered for 2\d s", said)
            assert "run the same command again when it is up" in said
        finally:
            driver.kill()
            driver.wait(20)
    assert 4 <= len(list(parts.glob("*"))) < NUM_PHOTOS // SHARD_IMAGES
    with running_cluster(tmp_path / "second") as other:
        other.add_nodes(2)
        again = hdrfleet(*command, other.address, home=tmp_path / "home", timeout_s=400)
        assert again.returncode == 0, again.stderr
    rows = require_whole(Folder(dst), inputs, num_leftovers=4)
    lost_at.require_kept(Folder(dst), rows)
    require_as_undisturbed(tmp_path, inputs, rows)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_that_hangs_and_wakes_after_its_work_was_done_by_others(tmp_path: Path) -> None:
    """Its worker holds an output that is not stored. Woken ahead of its raylet, it goes on to the end of its shard."""
    photos, dst, log, once = tmp_path / "photos", tmp_path / "out", tmp_path / "log", tmp_path / "once"
    inputs = write_photos(photos)
    once.mkdir()
    faults = {"HDRFLEET_FAULTS": f"image.encoded=stop:{SHARD_IMAGES * 3}", "HDRFLEET_FAULTS_ONCE": str(once)}
    with running_cluster(tmp_path, faults) as cluster:
        cluster.add_nodes(2)
        driver = start_hdrfleet(
            *("convert", photos, dst, *OPTIONS, "--address", cluster.address, "--workers", "2"),
            home=tmp_path / "home",
            log=log,
        )
        frozen: list[psutil.Process] = []
        try:
            wait_until(lambda: bool(stopped_workers(cluster)) or driver.poll() is not None, "a frozen worker", 240)
            assert driver.poll() is None, log.read_text()
            (zombie,) = stopped_workers(cluster)
            frozen = cluster.freeze(zombie)
            at_freezing = Durable.of(Folder(dst))
            assert driver.wait(400) == 0, log.read_text()
            rows = require_whole(Folder(dst), inputs, num_leftovers=4)
            before = Folder(dst).stamps()
            wake(dst, zombie)
            for process in frozen:
                process.resume()
            assert not psutil.wait_procs(frozen, timeout=60)[1], "its raylet was declared dead, and lives"
            assert Folder(dst).stamps() == before, "a zombie changed something"
            assert require_whole(Folder(dst), inputs, num_leftovers=4) == rows
        finally:
            driver.kill()
            driver.wait(20)
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
    at_freezing.require_unwritten(Folder(dst))
    again = {row["shard"] for row in rows if row["attempt"] > 1}
    assert 0 < len(again) <= LEASES_PER_WORKER
    require_as_undisturbed(tmp_path, inputs, rows)


def stopped_workers(cluster: Cluster) -> list[psutil.Process]:
    workers = [worker for node in cluster.nodes for worker in descendants(node.pid, "RayWorker")]
    return [worker for worker in workers if worker.status() == psutil.STATUS_STOPPED]


def wake(dst: Path, zombie: psutil.Process) -> None:
    """Let a frozen worker go on, and wait until it has tried to store an output and to commit a shard.

    Its temporary files come and go in both folders, in which nobody else writes.
    """
    folders = dst / "images", dst / "manifest/plan=1"
    before = [folder.stat().st_mtime_ns for folder in folders]
    zombie.resume()
    for folder, then in zip(folders, before, strict=True):
        wait_until(
            lambda folder=folder, then=then: folder.stat().st_mtime_ns > then, f"a zombie's file in {folder.name}", 120
        )
