"""Nodes of a Ray cluster go away at once: half of them for good, then all of them until others come."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import start_hdrfleet, wait_until
from independent_checker import Folder, require_whole
from photographs import jpeg, picture
from ray_nodes import Cluster

NUM_NODES = 4
NUM_PHOTOS = 160
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "4", "--quiet")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    home = tmp_path / "home"
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="hf-") as short:
        made = Cluster(Path(short), home)
        try:
            made.wait_for_head()
            yield made
        finally:
            made.close()


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
        wait_for_parts(12)
        cluster.lose(NUM_NODES // 2)
        lost_at = num_parts()
        time.sleep(3)
        cluster.add_nodes(2)
        assert driver.wait(400) == 0, log.read_text()
    finally:
        driver.kill()
        driver.wait(20)
    assert lost_at < NUM_PHOTOS // 4, "the nodes were lost too late to test anything"
    rows = require_whole(Folder(dst), inputs, num_leftovers=2 * NUM_NODES)
    assert {row["status"] for row in rows} == {"ok"}
    assert max(row["attempt"] for row in rows) > 1
    assert len({row["worker"] for row in rows}) >= 4


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_that_hangs_and_wakes_after_its_work_was_done_by_others(cluster: Cluster, tmp_path: Path) -> None:
    photos, dst, log = tmp_path / "photos", tmp_path / "out", tmp_path / "log"
    inputs = write_photos(photos)
    cluster.add_nodes(2)
    driver = start_hdrfleet(
        *("convert", photos, dst, *OPTIONS, "--address", cluster.address, "--workers", "2"),
        home=tmp_path / "home",
        log=log,
    )
    frozen: list[psutil.Process] = []
    try:
        wait_until(lambda: len(list(dst.glob("manifest/plan=1/*.parquet"))) >= 6, "six shards", 240)
        assert driver.poll() is None, log.read_text()
        frozen = cluster.freeze()
        assert driver.wait(400) == 0, log.read_text()
        rows = require_whole(Folder(dst), inputs, num_leftovers=4)
        before = Folder(dst).stamps()
        for process in frozen:
            process.resume()
        time.sleep(10)  # what was frozen in the middle of a write goes on with it now
        assert Folder(dst).stamps() == before, "a zombie changed something"
        assert require_whole(Folder(dst), inputs, num_leftovers=4) == rows
    finally:
        driver.kill()
        driver.wait(20)
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    assert max(row["attempt"] for row in rows) > 1
