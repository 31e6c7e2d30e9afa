"""A node with an address of its own is cut off, not killed: it goes on working while others do its shards again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from commands import wait_until
from cut_off import (
    JOB_WITHIN_S,
    NUM_LEFTOVERS,
    NUM_PHOTOS,
    OPTIONS,
    SHARD_IMAGES,
    WORKS_WITHIN_S,
    Library,
    MakeCluster,
    begin_together,
    in_any_store,
    num_begun,
    reached_at,
    require_kept,
    require_sound,
    stored,
    upload,
    wait_for_work,
    wait_until_ended,
)
from independent_checker import Bucket, Folder, comparable, require_whole
from servers.fault_proxy import FaultProxy

# A cluster's start, Ray's health check and the way back take a minute or two, however small the job is.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize("is_back", ["soon", "late"])
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
        job.require_done(JOB_WITHIN_S)
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
        job.require_done(JOB_WITHIN_S)
    rows, before = require_whole(reader, library.inputs), reader.stamps()
    assert comparable(rows) == library.rows
    assert lost.has_workers()
    cluster.engines.let_go(lost.address)
    wait_until(lambda: not lost.has_workers(), "it has done a shard", WORKS_WITHIN_S)
    assert len(cluster.engines.computed(lost.address)) >= SHARD_IMAGES
    cluster.switch.mend(lost)
    wait_until_ended(lost)
    assert reader.stamps() == before, "it changed something"
    assert require_whole(reader, library.inputs) == rows
    require_sound(str(reader.path), tmp_path / "verify-home")


@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
def test_a_node_that_loses_the_store_as_well_comes_back_and_gets_work(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    """The others wait, so that what it had is done by the node that starts in its place."""
    cluster, reader = make_cluster(), Bucket(s3_bucket.client, s3_bucket.name, "out/")
    urls = upload(s3_bucket, library.inputs)
    listener = cluster.switch.add().listen()
    nodes = [lost, *others] = [cluster.add_node() for _ in range(3)]
    cluster.engines.hold()
    with (
        FaultProxy(s3_bucket.server.endpoint_url, listener=listener) as store,
        cluster.convert(*urls, *OPTIONS, *reached_at(store.url), num_workers=3) as job,
    ):
        begin_together(cluster, nodes, *nodes)
        cluster.switch.cut(lost)
        dead_at = cluster.wait_until_dead(lost)
        before = stored(reader)
        cluster.engines.let_go(lost.address)
        wait_until(
            lambda: num_begun(cluster, lost, dead_at) >= 2 or not lost.has_workers(),
            "it has done what it had read, or Ray has ended it",
            WORKS_WITHIN_S,
        )
        assert stored(reader) == before, "it reached the store"
        cluster.switch.mend(lost)
        wait_until_ended(lost)
        pids = {each.pid for each in cluster.engines.computed(lost.address)}
        again = cluster.add_node(lost.machine)
        wait_until(
            lambda: {each.pid for each in cluster.engines.computed(again.address)} > pids, "it has work", WORKS_WITHIN_S
        )
        job.require_running()
        for node in others:
            cluster.engines.let_go(node.address)
        job.require_done(JOB_WITHIN_S)
        assert len(job.events("worker_lost")) == 1
    require_kept(before, reader)
    rows = require_whole(reader, library.inputs)
    assert in_any_store(rows) == in_any_store(library.rows)
    # Connected again, and before Ray ends it, it may store what it had: then that is its first attempt's.
    assert {row["attempt"] for row in rows} in ({1}, {1, 2})
    require_sound(urls[1], tmp_path / "verify-home")


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
        job.require_done(JOB_WITHIN_S)
        assert job.events("worker_lost") == job.events("lease_returned") == []
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE"]
    rows = require_whole(reader, library.inputs)
    assert comparable(rows) == library.rows
    assert Counter((row["attempt"], row["adopted"]) for row in rows) == {(1, False): NUM_PHOTOS}
    assert set(Counter(each.digest for each in cluster.engines.computed()).values()) == {1}
    require_sound(str(reader.path), tmp_path / "verify-home")
