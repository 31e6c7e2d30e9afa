"""One node of several cannot reach the store any more, while Ray's head reaches it as before: it fails, and lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import wait_until
from cut_off import (
    OPTIONS,
    SHARD_IMAGES,
    WORKS_WITHIN_S,
    Library,
    MakeCluster,
    begin_together,
    in_any_store,
    reached_at,
    require_sound,
    stored,
    upload,
    wait_for_work,
)
from independent_checker import Bucket, require_whole
from separate_machines import Job
from servers.fault_proxy import FaultProxy

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("s3_server", ["moto"], indirect=True),
]
# At worst each of two shards is tried four times, with 35 s between the tries: reading and writing are given up after
# 8 s each. The rest is for the other worker, and a machine that is busy.
BOUND_S = 4 * 2 * (8 + 8) + 35 + 90


def require_all_returned_by_one(job: Job) -> None:
    """Leases came back for the store of one worker alone, and no worker was lost."""
    returned = job.events("lease_returned")
    assert len({event["worker"] for event in returned}) == 1, returned
    assert all(event["message"].startswith("storage_unavailable: ") for event in returned), returned
    assert job.events("worker_lost") == []


def test_a_worker_that_loses_the_store_for_good_leaves_its_shards_to_the_other(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    cluster, reader = make_cluster(), Bucket(s3_bucket.client, s3_bucket.name, "out/")
    urls, machine = upload(s3_bucket, library.inputs), cluster.switch.add()
    nodes = [lost, _] = [cluster.add_node() for _ in range(2)]
    cluster.engines.hold()
    with (
        FaultProxy(s3_bucket.server.endpoint_url, listener=machine.listen()) as store,
        cluster.convert(*urls, *OPTIONS, *reached_at(store.url), num_workers=2) as job,
    ):
        begin_together(cluster, nodes, lost)
        cluster.switch.lead_astray(lost.machine, machine)
        cluster.engines.let_go(lost.address)
        job.require_done(BOUND_S)
        require_all_returned_by_one(job)
        returned = job.events("lease_returned")
        # The second time it was idle, and got images of a shard that the other one had taken over.
        assert max(event["attempt"] for event in returned) <= 2, "it got back what it could not do"
        again = {event["shard"] for event in job.events("shard_completed") if event["attempt"] > 1}
        assert again == {event["shard"] for event in returned}
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE"]
    rows = require_whole(reader, library.inputs)
    assert in_any_store(rows) == in_any_store(library.rows)
    require_sound(urls[1], tmp_path / "verify-home")


def test_a_worker_that_reaches_the_store_again_gets_work_again(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    """The other one waits, so that enough is left."""
    cluster, reader = make_cluster(), Bucket(s3_bucket.client, s3_bucket.name, "out/")
    urls, machine = upload(s3_bucket, library.inputs), cluster.switch.add()
    nodes = [lost, other] = [cluster.add_node() for _ in range(2)]
    cluster.engines.hold()
    with (
        FaultProxy(s3_bucket.server.endpoint_url, listener=machine.listen()) as store,
        cluster.convert(*urls, *OPTIONS, *reached_at(store.url), num_workers=2) as job,
    ):
        begin_together(cluster, nodes, *nodes)
        before = stored(reader)
        cluster.switch.lead_astray(lost.machine, machine)
        cluster.engines.let_go(lost.address)
        wait_until(lambda: bool(job.events("lease_returned")), "a lease comes back", WORKS_WITHIN_S)
        assert stored(reader) == before, "it reached the store"
        cluster.switch.lead_back(lost.machine, machine)
        back_at = cluster.engines.computed(lost.address)[-1].at
        wait_for_work(cluster, lost, back_at, SHARD_IMAGES)
        cluster.engines.let_go(other.address)
        job.require_done(BOUND_S)
        require_all_returned_by_one(job)
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE"]
    rows = require_whole(reader, library.inputs)
    assert in_any_store(rows) == in_any_store(library.rows)
    require_sound(urls[1], tmp_path / "verify-home")
