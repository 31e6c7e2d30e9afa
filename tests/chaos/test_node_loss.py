"""Nodes of a Ray cluster go away at once: half of them for good, then all of them until others come."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import environment, start_hdrfleet, wait_until
from independent_checker import Folder, require_whole
from photographs import jpeg, picture

NUM_NODES = 4
NUM_PHOTOS = 160
START_TIMEOUT_S = 90
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "4", "--quiet")


class Cluster:
    """A head without cores, and nodes of one core each: raylets on this machine."""

    def __init__(self, folder: Path, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._env = environment(home, {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"})
        self._home = home
        self.nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            *("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}")
        )

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"),
            *("--object-store-memory=80000000", "--disable-usage-stats", *options),
        ]
        with (self._home / "ray.log").open("ab") as log:
            return subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def add_nodes(self, number: int) -> None:
        """Start so many, one after the other: together they stumble over each other's files on one machine."""
        from ray._raylet import GcsClient

        client = GcsClient(address=self.address)
        for _ in range(number):
            known = len(client.get_all_node_info(timeout=10))  # the dead among them
            self.nodes.append(self._start(f"--address={self.address}", "--num-cpus=1"))
            wait_until(
                lambda known=known: len(client.get_all_node_info(timeout=10)) > known, "one more node", START_TIMEOUT_S
            )

    def wait_for_head(self) -> None:
        host, _, port = self.address.rpartition(":")

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return True
            return False

        wait_until(answers, "the head answers", START_TIMEOUT_S)

    def lose(self, number: int) -> None:
        """End so many nodes with all that runs on them, as a power cut would."""
        for process in [self.nodes.pop() for _ in range(number)]:
            _kill_group(process)

    def freeze(self) -> list[psutil.Process]:
        """Stop one node with all that runs on it, as a machine that hangs; returns what `resume` wakes."""
        node = psutil.Process(self.nodes[-1].pid)
        frozen = [node, *node.children(recursive=True)]
        for process in frozen:
            process.suspend()
        return frozen

    def close(self) -> None:
        for process in [*self.nodes, self.head]:
            _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a node's processes: its own group, and those that raylets put into sessions of their own."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(20)


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
