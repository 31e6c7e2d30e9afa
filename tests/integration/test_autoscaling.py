"""Jobs on nodes that Ray's real autoscaler (v2) starts and stops: from no GPU node and back, and nodes taken away.

The nodes are fake: raylets on this machine with a GPU that only Ray believes in, so that `auto` is the CPU there.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
from bad_device_run import open_gate
from commands import descendants, environment, hdrfleet_here, rows_of, start_hdrfleet, wait_until
from photographs import jpeg, picture
from servers.autoscaled_cluster import AutoscaledCluster, autoscaled_cluster

from pipeline.config import ExecutionConfig

NUM_PHOTOS = 100
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--max-workers", "3")
ON_GPUS = ("--workers-per-gpu", "1")
SMALL = ("--shard-images", "1")
# The notice of a drain, and how long the driver may take to hear of it: it looks once a second.
DRAIN_S = 60
HEARD_WITHIN = timedelta(seconds=5)

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoscaledCluster]:
    with autoscaled_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(NUM_PHOTOS):
        (folder / f"{index:03}.jpg").write_bytes(jpeg(picture(256, 256, seed=index)))
    return folder


class Run:
    """One conversion in a process of its own; all nodes that were seen beside it, and the most at a time."""

    def __init__(
        self, cluster: AutoscaledCluster, photos: Path, root: Path, *options: str, place: Sequence[str] = ON_GPUS
    ) -> None:
        self.cluster, self.photos, self.dst, self.log = cluster, photos, root / "out", root / "log"
        root.mkdir(parents=True, exist_ok=True)
        words = ("convert", photos, self.dst, "--address", cluster.address, *OPTIONS, *place, *options)
        self.started_at = monotonic()
        self.process = start_hdrfleet(*words, home=root / "home", log=self.log, env=cluster.env)
        self.num_nodes = 0
        self.nodes: set[int] = set()
        self.timings: list[tuple[float, int]] = []

    def wait(self, what: str, timeout_s: float = 400, *, num_rows: int | None = None, num_nodes: int = 0) -> None:
        """Until it has ended; or so many rows are committed, on so many nodes at least."""

        def is_so() -> bool:
            there = {raylet.pid for raylet in self.cluster.raylets()}
            self.nodes |= there
            now = len(there)
            if not self.timings or self.timings[-1][1] != now:
                self.timings.append((round(monotonic() - self.started_at, 1), now))
            self.num_nodes = max(self.num_nodes, now)
            if num_rows is None:
                return self.process.poll() is not None
            assert self.process.poll() is None, self.log.read_text()
            return now >= num_nodes and len(list(self.dst.glob("manifest/plan=*/shard-*"))) >= num_rows

        wait_until(is_so, what, timeout_s)

    def require_whole(self) -> list[dict[str, Any]]:
        assert self.process.wait(30) == 0, self.log.read_text()
        # Seconds and nodes, for docs/operations.md: pytest keeps the folders of its last runs.
        self.log.with_name("nodes.json").write_text(json.dumps(self.timings))
        rows = rows_of(self.dst)
        assert Counter(row["source"] for row in rows) == {path.name: 1 for path in self.photos.iterdir()}
        assert {row["status"] for row in rows} == {"ok"}
        assert hdrfleet_here("verify", self.dst, "--deep", "--quiet") == 0
        return rows

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """What was logged with `--log-format json`, or those of a name."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith('{"time"')]
        return [line for line in lines if name in {"", line["event"]}]

    def require_given_up_within_a_minute(self, since: dict[str, Any]) -> str:
        """It has ended for want of nodes, so soon after the event `since`: Python's own start is not in it."""
        assert self.process.returncode == 1
        (error,) = self.events("error")
        assert error["code"] == "worker_lost"
        times = [datetime.fromisoformat(event["time"]) for event in (since, error)]
        assert times[1] - times[0] <= timedelta(minutes=1), self.log.read_text()
        return str(error["message"])

    def working_node(self) -> tuple[psutil.Process, psutil.Process]:
        """The raylet of a node whose worker has done something, and that worker."""
        done = {int(str(row["worker"]).rpartition(":")[2]) for row in rows_of(self.dst)}
        pairs = [(raylet, each) for raylet in self.cluster.raylets() for each in descendants(raylet.pid, "RayWorker")]
        return next((raylet, worker) for raylet, worker in pairs if worker.pid in done)

    def busy_node(self) -> psutil.Process:
        """The raylet of a node on which a worker of ours is."""
        return next(raylet for raylet in self.cluster.raylets() if descendants(raylet.pid, "RayWorker"))

    def drain(self, raylet: psutil.Process, deadline_s: int) -> None:
        node = raylet.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.cluster.address),
                *("--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"),
                *("--deadline-remaining-seconds", str(deadline_s)),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for_none(cluster: AutoscaledCluster) -> None:
    wait_until(lambda: not cluster.raylets(), "nodes without work leave", 120)


def decisions_of(run: Run, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert hdrfleet_here("status", run.dst, "--json") == 0
    decisions: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["scaling"]
    return decisions


def test_auto_asks_for_gpus_where_none_is_up_and_the_autoscaler_starts_such_nodes(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path
) -> None:
    wait_for_none(cluster)
    run = Run(cluster, photos, tmp_path, place=())
    run.wait("the job ends")
    run.require_whole()
    assert run.num_nodes >= 1
    said = " ".join(run.log.read_text().split())
    assert "1 CPU and 1 GPU: no node has a GPU yet, and the autoscaler starts such nodes" in said


# A job of somebody else's: more requests for GPUs than nodes may be started, of another kind than ours.
GREEDY = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=0.5, num_gpus=1, max_retries=0)
def work(): return None
refs = [work.remote() for _ in range(6)]
print("asked", flush=True)
ray.get(refs)
"""


def test_auto_asks_for_gpus_where_another_job_is_given_all_that_may_be_started(photos: Path, tmp_path: Path) -> None:
    """The autoscaler calls our request infeasible then: all nodes that there may be are on their way."""
    gate, log = tmp_path / "gate", tmp_path / "greedy.log"
    with autoscaled_cluster(tmp_path / "cluster", gate=gate) as slow, log.open("wb") as output:
        greedy = subprocess.Popen(
            [sys.executable, "-c", GREEDY, slow.address],
            env=environment(tmp_path / "home", slow.env),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: b"asked" in log.read_bytes(), "the other job asks", 60)
            run = Run(slow, photos, tmp_path, place=())
            wait_until(lambda: "1 CPU and 1 GPU" in run.log.read_text(), "auto has chosen", 90)
            assert not slow.raylets()
            gate.touch()
            run.wait("the job ends")
            run.require_whole()
            assert greedy.wait(60) == 0, log.read_text()
        finally:
            greedy.kill()
            greedy.wait(20)
    said = " ".join(run.log.read_text().split())
    assert "1 CPU and 1 GPU: no node has a GPU yet, and the autoscaler starts such nodes" in said


def test_auto_takes_cores_where_no_node_type_has_a_gpu(photos: Path, tmp_path: Path) -> None:
    with autoscaled_cluster(tmp_path / "cluster", max_gpu_nodes=0) as without:
        run = Run(without, photos, tmp_path, place=())
        run.wait("the job ends")
        run.require_whole()
    said = " ".join(run.log.read_text().split())
    assert "no node has a GPU, and none of the autoscaler's node types has; --device cuda waits for GPUs" in said


def test_a_type_of_gpu_that_no_node_type_has_ends_the_job_and_says_so(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path
) -> None:
    wait_for_none(cluster)
    run = Run(cluster, photos, tmp_path, "--accelerator-type", "T4", "--log-format", "json")
    run.wait("the job gives up", 90)
    said = run.require_given_up_within_a_minute(run.events("worker_asked_for")[0])
    assert "1 CPU and 1 GPU of type T4, which none of the autoscaler's node types offers" in said
    assert run.num_nodes == 0


# A job of somebody else's that has a node until it is told to leave it.
HOLDER = """
import pathlib, sys, time, ray
ray.init(sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1, num_gpus=1, max_retries=0, label_selector={"market": "on-demand"})
def work():
    while not pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.2)
ray.get(work.remote())
"""


def test_a_job_waits_for_a_kind_of_node_while_others_have_all_that_may_be_up(photos: Path, tmp_path: Path) -> None:
    """The autoscaler calls our request infeasible all the while, as it does one that no node type is for."""
    leave, log = tmp_path / "leave", tmp_path / "holder.log"
    with autoscaled_cluster(tmp_path / "cluster", max_nodes=1) as full, log.open("wb") as output:
        env = environment(tmp_path / "home", full.env)
        command = [sys.executable, "-c", HOLDER.replace("sys.argv[2]", repr(str(leave))), full.address]
        holder = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: bool(full.raylets()), "the other job has the node", 90)
            run = Run(full, photos, tmp_path, "--label", "market=spot", "--log-format", "json")
            wait_until(lambda: bool(run.events("workers_wait")), "it says that it waits", 90)
            (asked, *_), (told,) = run.events("worker_asked_for"), run.events("workers_wait")
            times = [datetime.fromisoformat(event["time"]) for event in (asked, told)]
            assert times[1] - times[0] <= timedelta(minutes=1), run.log.read_text()
            assert "on a node with market=spot" in told["message"]
            assert "or for which others have to leave nodes first" in told["message"]
            leave.touch()
            run.wait("the job ends")
            run.require_whole()
            assert holder.wait(60) == 0, log.read_text()
        finally:
            holder.kill()
            holder.wait(20)


def test_nodes_come_for_a_job_and_go_and_another_job_meets_them_on_their_way(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_none(cluster)
    first = Run(cluster, photos, tmp_path / "first", *SMALL)
    first.wait("the first job ends")
    first.require_whole()
    assert first.num_nodes == 3
    there = {raylet.pid for raylet in cluster.raylets()}
    assert there, "the first job's nodes are still there"
    second = Run(cluster, photos, tmp_path / "second", *SMALL)
    second.wait("the second job is at work", num_rows=1)
    assert second.busy_node().pid in there
    second.wait("the second job ends")
    second.require_whole()
    wait_for_none(cluster)

    decisions = decisions_of(first, capsys)
    assert decisions[0]["delta"] == 1
    assert max(decision["num_workers"] for decision in decisions) == 3
    assert all(decision["reason"] for decision in decisions)
    assert hdrfleet_here("status", first.dst) == 0
    assert f"then {decisions[-1]['num_workers']}, at {decisions[-1]['at']}" in capsys.readouterr().out


def test_a_node_that_is_killed_while_more_are_on_their_way(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_none(cluster)
    # Nodes come one after the other, a while after a loss: there has to be work left for the third.
    more = tmp_path / "more"
    more.mkdir()
    for path in photos.iterdir():
        for copy in range(4):
            os.link(path, more / f"{copy}-{path.name}")
    run = Run(cluster, more, tmp_path, *SMALL)
    run.wait("the first node is at work", num_rows=1)
    assert len(cluster.raylets()) < 3
    run.busy_node().kill()
    run.wait("the job ends")
    run.require_whole()
    assert run.num_nodes == 3
    assert "lost on the way" in " ".join(run.log.read_text().split())
    started = sum(decision["delta"] for decision in decisions_of(run, capsys) if decision["delta"] > 0)
    assert started > 3, "workers are asked for in place of the lost ones"


def test_a_node_that_drains_finishes_what_it_has_and_nothing_is_done_twice(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gets nothing new, leaves long before its time is over, and another one comes in its place."""
    wait_for_none(cluster)
    run = Run(cluster, photos, tmp_path, *SMALL, "--log-format", "json")
    run.wait("two nodes are at work", num_rows=10, num_nodes=2)
    drained, worker = run.working_node()
    ends_at = monotonic() + DRAIN_S
    run.drain(drained, DRAIN_S)
    noticed_at = datetime.now(UTC)

    def has_left() -> bool:
        assert run.process.poll() is None, run.log.read_text()
        there = {raylet.pid for raylet in cluster.raylets()}
        run.nodes |= there
        return drained.pid not in there and not is_alive(worker)

    wait_until(has_left, "the node is left, and goes", 2 * DRAIN_S)
    assert monotonic() < ends_at, "it went because its time was over"
    run.wait("the job ends")
    rows = run.require_whole()
    assert {row["attempt"] for row in rows} == {1}
    assert not any(row["adopted"] for row in rows)
    assert "lost on the way" not in run.log.read_text()
    assert run.events("worker_lost") == run.events("lease_returned") == []
    by_worker = [row for row in rows if row["worker"].endswith(f":{worker.pid}")]
    begun_later = [row for row in by_worker if row["started_at"] > noticed_at + HEARD_WITHIN]
    assert len(begun_later) <= ExecutionConfig().leases_per_worker, "more than it held"
    assert len(run.nodes) > 3, "none came in its place"
    assert sum(each["delta"] for each in decisions_of(run, capsys) if each["delta"] > 0) > 3


def test_a_shard_that_a_drained_node_cannot_finish_is_given_back_and_what_it_stored_is_adopted(
    cluster: AutoscaledCluster, photos: Path, tmp_path: Path
) -> None:
    run = Run(cluster, photos, tmp_path, "--shard-images", "50")
    wait_until(lambda: len(list(run.dst.glob("images/*"))) >= 5, "a shard is begun", 120)
    run.drain(run.busy_node(), 8)
    run.wait("the job ends")
    rows = run.require_whole()
    assert {row["attempt"] for row in rows} == {2}
    begun_again_at = min(row["started_at"] for row in rows).timestamp()
    stored = [row["adopted"] for row in rows if (run.dst / row["output"]).stat().st_mtime < begun_again_at]
    assert all(stored), "computed again, although it was there"
    assert len(stored) >= 5
    assert "lost on the way" not in run.log.read_text()


def test_a_node_whose_device_is_broken_is_left_and_the_autoscaler_starts_another(photos: Path, tmp_path: Path) -> None:
    dst, log, nodes = tmp_path / "out", tmp_path / "log", set[int]()
    execution = {"scaling": {"max_workers": 1}, "placement": {"workers_per_gpu": 1}}
    with autoscaled_cluster(tmp_path / "cluster", node_env={"HDRFLEET_TEST_DEVICE": "lost-until-open"}) as cluster:

        def has_ended() -> bool:
            nodes.update(raylet.pid for raylet in cluster.raylets())
            return driver.poll() is not None

        with log.open("wb") as output:
            driver = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bad_device_run",
                    *map(str, (photos, dst)),
                    cluster.address,
                    json.dumps(execution),
                ],
                env=environment(tmp_path / "home", {**cluster.env, "PYTHONPATH": os.pathsep.join(sys.path)}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: has_ended() or "are started on node" in log.read_text(), "the node is left", 200)
            assert len(nodes) == 1, log.read_text()
            open_gate(dst)
            wait_until(has_ended, "the job ends", 300)
            assert driver.returncode == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait(20)
    rows = rows_of(dst)
    assert [row["status"] for row in rows] == ["ok"] * NUM_PHOTOS
    assert len(nodes) == 2
    said = " ".join(log.read_text().split())
    assert said.count("no more workers are started on node") == 1, said
    assert "3 workers in a row failed there with nothing done in between; the last: device_lost" in said
    assert hdrfleet_here("verify", dst, "--deep", "--quiet") == 0


@pytest.fixture(scope="module")
def cluster_without_spot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AutoscaledCluster]:
    with autoscaled_cluster(tmp_path_factory.mktemp("without-spot"), has_spot=False) as running:
        yield running


def test_workers_fall_back_to_the_label_whose_nodes_the_cloud_does_not_refuse(
    cluster_without_spot: AutoscaledCluster, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for_none(cluster_without_spot)
    run = Run(cluster_without_spot, photos, tmp_path, *SMALL, "--fallback-label", "market=on-demand")
    num_nodes_before = 0

    def has_fallen_back() -> bool:
        nonlocal num_nodes_before
        assert run.process.poll() is None, run.log.read_text()
        if "asking for market=on-demand" in " ".join(run.log.read_text().split()):
            return True
        num_nodes_before = max(num_nodes_before, len(cluster_without_spot.raylets()))
        return False

    wait_until(has_fallen_back, "the worker asks for another node", 180)
    run.wait("the job ends")
    rows = run.require_whole()
    said = " ".join(run.log.read_text().split())
    assert {row["attempt"] for row in rows} == {1}
    assert "lost on the way" not in said
    assert num_nodes_before == 0, "Ray falls back by itself now: is the option still of use?"
    decisions = decisions_of(run, capsys)
    assert [decision["delta"] for decision in decisions[:2]] == [1, 0]
    refused = "the cloud refuses nodes of type spot: asking for market=on-demand"
    assert decisions[1]["reason"] == f"1 of 1 workers wait in vain; {refused}"
    later = [decision["reason"] for decision in decisions[2:] if decision["delta"] > 0]
    assert later, said
    assert all(refused in reason for reason in later), "they need not try spot nodes first"


def test_a_label_to_fall_back_to_that_no_node_type_has_ends_the_job_and_says_so(
    cluster_without_spot: AutoscaledCluster, photos: Path, tmp_path: Path
) -> None:
    wait_for_none(cluster_without_spot)
    run = Run(cluster_without_spot, photos, tmp_path, "--fallback-label", "market=free", "--log-format", "json")
    run.wait("the job gives up", 240)
    asked = next(event for event in run.events() if "asking for market=free" in event.get("message", ""))
    said = run.require_given_up_within_a_minute(asked)
    assert "1 CPU and 1 GPU on a node with market=free, which none of the autoscaler's node types offers" in said
