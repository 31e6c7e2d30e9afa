"""A node with an address of its own is cut off, not killed: it goes on working while others do its shards again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from commands import environment, hdrfleet, wait_until
from independent_checker import Bucket, Folder, Reader, Row, comparable, require_whole
from network_namespaces import Switch
from photographs import jpeg, picture
from separate_machines import TESTS, Node, SeparateCluster
from servers.fault_proxy import FaultProxy
from watched_run import FOLDER, NODE, PACE, Engines

NUM_PHOTOS = 32
SHARD_IMAGES = 4
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(SHARD_IMAGES)),
)
# What a process that is ended in the middle of its writes may leave.
NUM_LEFTOVERS = 4
# The raylet hears of its death when TCP tries again: after as long as the cut took, at most.
COMES_BACK_WITHIN_S = 120


@dataclass(frozen=True)
class Library:
    """What is converted, and the rows of a job that nothing happened to."""

    folder: Path
    inputs: dict[str, bytes]
    rows: list[Row]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    root = tmp_path_factory.mktemp("partition")
    folder = root / "photos"
    folder.mkdir()
    inputs = {f"{index:02}.jpg": jpeg(picture(96, 64, seed=index)) for index in range(NUM_PHOTOS)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
    env = {FOLDER: str(Engines(root / "engines").folder), NODE: "quiet", PACE: "0", "PYTHONPATH": path}
    command = [sys.executable, "-m", "watched_run", "convert", folder, root / "whole", "--executor", "local", *OPTIONS]
    quiet = subprocess.run(
        command, env=environment(root / "home", env), capture_output=True, text=True, timeout=100, check=False
    )
    assert quiet.returncode == 0, quiet.stderr
    return Library(folder, inputs, comparable(require_whole(Folder(root / "whole"), inputs)))


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as made:
        yield made


MakeCluster = Callable[..., SeparateCluster]


@pytest.fixture
def make_cluster(switch: Switch, tmp_path: Path) -> Iterator[MakeCluster]:
    made = []
    with tempfile.TemporaryDirectory(prefix="hf-") as short:

        def make(env: Mapping[str, str] | None = None) -> SeparateCluster:
            made.append(SeparateCluster(switch, Path(short), tmp_path, env))
            return made[-1]

        yield make
        for each in made:
            each.close()


def begin_together(cluster: SeparateCluster, nodes: list[Node], *held: Node) -> None:
    """Let workers begin once all are there, but for those that stay in the middle of their first image."""
    for node in held:
        cluster.engines.hold(node.address)
    wait_until(lambda: all(cluster.engines.computed(node.address) for node in nodes), "all workers are at work")
    cluster.engines.let_go()


def wait_for_work(cluster: SeparateCluster, node: Node, since: float, num_images: int) -> None:
    """Until a node has begun so many images after a moment."""
    wait_until(
        lambda: sum(each.at > since for each in cluster.engines.computed(node.address)) >= num_images,
        f"{num_images} images at {node.address}",
    )


def wait_until_ended(node: Node) -> None:
    """Its raylet has learned that it is dead, and its workers have gone with it."""
    assert node.process.wait(COMES_BACK_WITHIN_S) != 0
    wait_until(lambda: not node.has_workers(), "its workers are gone")


def require_kept(before: dict[str, object], reader: Reader) -> None:
    """Nothing that was there at a moment was written again; the driver goes on with its lease."""
    after = reader.stamps()
    stored = {key: stamp for key, stamp in before.items() if not key.startswith("_hdrfleet/lease/")}
    assert {key: after.get(key) for key in stored} == stored, "written again"


def require_sound(dst: str, home: Path, num_leftovers: int = 0) -> None:
    """hdrfleet itself finds nothing wrong, but for what was left behind."""
    verified = hdrfleet("verify", dst, "--deep", "--quiet", home=home, timeout_s=200)
    assert verified.returncode == (3 if num_leftovers else 0), verified.stdout + verified.stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("is_back", ["soon", pytest.param("late", marks=pytest.mark.long)])
def test_a_node_that_is_cut_off_races_with_those_that_do_its_shards(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, is_back: str
) -> None:
    """It reaches the destination all the time. `soon`: it comes back in the middle of a shard, `late`: at its end."""
    reader, cluster = Folder(tmp_path / "out"), make_cluster()
    lost, other = cluster.add_node(), cluster.add_node()
    cluster.engines.hold()
    with cluster.convert(library.folder, reader.path, *OPTIONS, num_workers=2) as job:
        begin_together(cluster, [lost, other], lost)
        cluster.switch.cut(lost)
        dead_at = cluster.wait_until_dead(lost)
        before = reader.stamps()
        cluster.engines.let_go(lost.address)
        wait_for_work(cluster, lost, dead_at, 2 if is_back == "soon" else SHARD_IMAGES)
        cluster.switch.mend(lost)
        job.require_done(200)
        assert len(job.events("worker_lost")) == 1
        assert {event["shard"] for event in job.events("lease_returned")} == {
            event["shard"] for event in job.events("shard_completed") if event["attempt"] == 2
        }
    wait_until_ended(lost)
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE", "DEAD"]
    require_kept(before, reader)
    rows = require_whole(reader, library.inputs, num_leftovers=NUM_LEFTOVERS)
    assert comparable(rows) == library.rows
    require_sound(str(reader.path), tmp_path / "verify-home", len(reader.leftovers()))


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_node_that_is_cut_off_tries_to_commit_after_the_end_of_the_job(
    make_cluster: MakeCluster, library: Library, tmp_path: Path
) -> None:
    """Ray ends a raylet that cannot reach its head for a minute: here it may take longer."""
    reader = Folder(tmp_path / "out")
    cluster = make_cluster({"RAY_gcs_rpc_server_reconnect_timeout_s": "600"})
    # When it has tried to commit a shard, its worker is killed: that is how this test learns of it.
    lost, other = cluster.add_node(env={"HDRFLEET_FAULTS": "part.created=kill"}), cluster.add_node()
    cluster.engines.hold()
    with cluster.convert(library.folder, reader.path, *OPTIONS, num_workers=2) as job:
        begin_together(cluster, [lost, other], lost)
        cluster.switch.cut(lost)
        cluster.wait_until_dead(lost)
        job.require_done(200)
    rows, before = require_whole(reader, library.inputs), reader.stamps()
    assert comparable(rows) == library.rows
    assert lost.has_workers()
    cluster.engines.let_go(lost.address)
    wait_until(lambda: not lost.has_workers(), "it has done a shard")
    assert len(cluster.engines.computed(lost.address)) >= SHARD_IMAGES
    cluster.switch.mend(lost)
    wait_until_ended(lost)
    assert reader.stamps() == before, "it changed something"
    assert require_whole(reader, library.inputs) == rows
    require_sound(str(reader.path), tmp_path / "verify-home")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
def test_a_node_that_loses_the_store_as_well_comes_back_and_gets_work(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    """The others wait, so that what it had is done by the node that starts in its place."""
    cluster, reader = make_cluster(), Bucket(s3_bucket.client, s3_bucket.name, "out/")
    for name, data in library.inputs.items():
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=f"photos/{name}", Body=data)
    listener = cluster.switch.add().listen()
    nodes = [lost, *others] = [cluster.add_node() for _ in range(3)]
    cluster.engines.hold()
    with FaultProxy(s3_bucket.server.endpoint_url, listener=listener) as store:
        storage = ("--src-endpoint-url", store.url, "--dst-endpoint-url", store.url)
        patience = ("--dst-timeout", "2", "--dst-attempts", "3", "--src-timeout", "2", "--src-attempts", "3")
        urls = (f"{s3_bucket.url}/photos", f"{s3_bucket.url}/out")
        with cluster.convert(*urls, *OPTIONS, *storage, *patience, num_workers=3) as job:
            begin_together(cluster, nodes, *nodes)
            cluster.switch.cut(lost)
            dead_at = cluster.wait_until_dead(lost)
            before = stored(reader)
            cluster.engines.let_go(lost.address)
            wait_for_work(cluster, lost, dead_at, 2)
            assert stored(reader) == before, "it reached the store"
            cluster.switch.mend(lost)
            wait_until_ended(lost)
            pids = {each.pid for each in cluster.engines.computed(lost.address)}
            again = cluster.add_node(lost.machine)
            wait_until(lambda: {each.pid for each in cluster.engines.computed(again.address)} > pids, "it has work")
            job.require_running()
            for node in others:
                cluster.engines.let_go(node.address)
            job.require_done(200)
            assert len(job.events("worker_lost")) == 1
    require_kept(before, reader)
    rows = require_whole(reader, library.inputs)
    assert comparable(rows) == library.rows
    assert {row["attempt"] for row in rows} == {1, 2}
    require_sound(urls[1], tmp_path / "verify-home")


def stored(reader: Reader) -> dict[str, object]:
    """What workers write."""
    return {key: stamp for key, stamp in reader.stamps().items() if key.startswith(("images/", "manifest/"))}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_cut_that_is_shorter_than_the_health_check_costs_nothing(
    make_cluster: MakeCluster, library: Library, tmp_path: Path
) -> None:
    reader, cluster = Folder(tmp_path / "out"), make_cluster({"RAY_health_check_failure_threshold": "60"})
    nodes = [lost, _] = [cluster.add_node(), cluster.add_node()]
    cluster.engines.hold()
    with cluster.convert(library.folder, reader.path, *OPTIONS, num_workers=2) as job:
        begin_together(cluster, nodes, lost)
        cluster.switch.cut(lost)
        cut_at = monotonic()
        cluster.engines.let_go(lost.address)
        wait_for_work(cluster, lost, cut_at, SHARD_IMAGES - 1)
        cluster.switch.mend(lost)
        job.require_done(200)
        assert job.events("worker_lost") == job.events("lease_returned") == []
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE"]
    rows = require_whole(reader, library.inputs)
    assert comparable(rows) == library.rows
    assert Counter((row["attempt"], row["adopted"]) for row in rows) == {(1, False): NUM_PHOTOS}
    assert set(Counter(each.digest for each in cluster.engines.computed()).values()) == {1}
    require_sound(str(reader.path), tmp_path / "verify-home")
