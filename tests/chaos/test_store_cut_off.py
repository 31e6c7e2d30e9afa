"""One node of several cannot reach the store any more, while Ray's head reaches it as before: it fails, and lives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
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
from network_namespaces import Machine
from separate_machines import Job, Node, SeparateCluster
from servers.fault_proxy import FaultProxy

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("s3_server", ["moto"], indirect=True),
]
# At worst each of two shards is tried four times, with 35 s between the tries: reading and writing are given up after
# 8 s each. The rest is for the other worker, and a machine that is busy.
BOUND_S = 4 * 2 * (8 + 8) + 35 + 90


@dataclass(frozen=True)
class CutOff:
    """A job of two nodes: the first has `lost` the store, which is at `store`; `before` is what was stored then."""

    cluster: SeparateCluster
    job: Job
    lost: Node
    other: Node
    store: Machine
    before: dict[str, Any]
    reader: Bucket


@contextlib.contextmanager
def cut_off_from_store(
    make_cluster: MakeCluster, library: Library, bucket: Any, home: Path, *, waits: bool
) -> Iterator[CutOff]:
    """Two nodes at work of which the first has just lost the store; afterwards all is there, and nobody was lost.

    `waits`: the other one waits for leave to go on.
    """
    cluster, reader = make_cluster(), Bucket(bucket.client, bucket.name, "out/")
    urls, machine = upload(bucket, library.inputs), cluster.switch.add()
    nodes = [lost, other] = [cluster.add_node() for _ in range(2)]
    cluster.engines.hold()
    with (
        FaultProxy(bucket.server.endpoint_url, listener=machine.listen()) as store,
        cluster.convert(*urls, *OPTIONS, *reached_at(store.url), num_workers=2) as job,
    ):
        begin_together(cluster, nodes, *(nodes if waits else [lost]))
        before = stored(reader)
        cluster.switch.lead_astray(lost.machine, machine)
        cluster.engines.let_go(lost.address)
        yield CutOff(cluster, job, lost, other, machine, before, reader)
    assert [state for _, state in cluster.states(lost.address)] == ["ALIVE"]
    rows = require_whole(reader, library.inputs)
    assert in_any_store(rows) == in_any_store(library.rows)
    require_sound(urls[1], home)


def require_all_returned_by_one(job: Job) -> None:
    """Leases came back for the store of one worker alone, and no worker was lost."""
    returned = job.events("lease_returned")
    assert len({event["worker"] for event in returned}) == 1, returned
    assert all(event["message"].startswith("storage_unavailable: ") for event in returned), returned
    assert job.events("worker_lost") == []


def test_a_worker_that_loses_the_store_for_good_leaves_its_shards_to_the_other(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    with cut_off_from_store(make_cluster, library, s3_bucket, tmp_path / "verify-home", waits=False) as now:
        now.job.require_done(BOUND_S)
        require_all_returned_by_one(now.job)
        returned = now.job.events("lease_returned")
        # The second time it was idle, and got images of a shard that the other one had taken over.
        assert max(event["attempt"] for event in returned) <= 2, "it got back what it could not do"
        again = {event["shard"] for event in now.job.events("shard_completed") if event["attempt"] > 1}
        assert again == {event["shard"] for event in returned}


def test_a_worker_that_reaches_the_store_again_gets_work_again(
    make_cluster: MakeCluster, library: Library, tmp_path: Path, s3_bucket: Any
) -> None:
    """The other one waits, so that enough is left."""
    with cut_off_from_store(make_cluster, library, s3_bucket, tmp_path / "verify-home", waits=True) as now:
        wait_until(lambda: bool(now.job.events("lease_returned")), "a lease comes back", WORKS_WITHIN_S)
        assert stored(now.reader) == now.before, "it reached the store"
        now.cluster.switch.lead_back(now.lost.machine, now.store)
        back_at = now.cluster.engines.computed(now.lost.address)[-1].at
        wait_for_work(now.cluster, now.lost, back_at, SHARD_IMAGES)
        now.cluster.engines.let_go(now.other.address)
        now.job.require_done(BOUND_S)
        require_all_returned_by_one(now.job)
