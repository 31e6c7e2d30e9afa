"""A Ray worker, its raylet or its driver dies by SIGKILL at every step; the job ends right or is resumed."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import descendants, end, hdrfleet, start_hdrfleet, wait_for_workers, wait_until
from fakes import tiny_network
from forked import forked
from independent_checker import Bucket, Durable, Folder, Reader, Row, comparable, require_whole
from photographs import jpeg, picture, write_library
from ray_nodes import Cluster, running_cluster
from safetensors.torch import save_file

from pipeline.config import ExecutionConfig
from pipeline.storage.s3_upload import MULTIPART_THRESHOLD_BYTES

SHARD_IMAGES = 3
LEASES_PER_WORKER = ExecutionConfig().leases_per_worker
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(SHARD_IMAGES), "--quiet"),
)
STEPS = [
    *("image.fetched", "image.decoded", "image.inferred", "image.encoded", "output.created", "image.measured"),
    *("part.ready", "part.created", "file.written", "file.named"),
]
SHORT = {("part.ready", "kill-parent")}
CASES = [
    pytest.param(step, action, marks=() if (step, action) in SHORT else pytest.mark.long)
    for step in STEPS
    for action in ("kill", "kill-parent")
]


@dataclass(frozen=True)
class Place:
    """A destination, what reads it without hdrfleet, and how many files a process that dies may leave there."""

    url: str
    reader: Reader
    max_leftovers: int


def on_files(tmp_path: Path, max_leftovers: int) -> Place:
    return Place(str(tmp_path / "out"), Folder(tmp_path / "out"), max_leftovers)


def in_bucket(bucket: Any) -> Place:
    return Place(f"{bucket.url}/out", Bucket(bucket.client, bucket.name, "out/"), 0)


@pytest.fixture(params=["files", "moto", "swift"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "files":
        return on_files(tmp_path, max_leftovers=4)
    return in_bucket(request.getfixturevalue("s3_bucket_on")(request.getfixturevalue(f"{request.param}_server")))


def require_undisturbed(tmp_path: Path, rows: list[Row]) -> None:
    """The rows are those of a job that nothing happened to, with the same options but for where it runs."""
    whole = forked(
        "convert", tmp_path / "photos", tmp_path / "whole", "--executor", "local", *OPTIONS, log=tmp_path / "log"
    )
    assert whole == 3, (tmp_path / "log").read_text()
    inputs = {path: (tmp_path / "photos" / path).read_bytes() for path in (row["source"] for row in rows)}
    assert comparable(rows) == comparable(require_whole(Folder(tmp_path / "whole"), inputs))


# Every step of the driver's that the local matrix has (test_crash_matrix.py), with the pass at which it dies.
DRIVER_STEPS = [
    *(("job.created", 1), ("lease.claimed", 1), ("lease.created", 1), ("lease.renewed", 1), ("lease.renewed", 3)),
    *(("plan.part_written", 1), ("plan.committed", 1)),
    *(("shard.leased", 1), ("shard.leased", 2), ("shard.settled", 1), ("shard.settled", 2)),
    *(("job.finished", 1), ("lease.released", 1)),
]
# Those at which Ray is up for sure; what happens in the tail is in test_tail_deaths.py.
RAYLET_STEPS = [("shard.leased", 1), ("shard.leased", 2), ("shard.settled", 1), ("shard.settled", 2)]
# At the others the driver has not started a Ray, or has stopped it: the raylet is that of a cluster that it is told of.
CLUSTER_STEPS = [step for step in DRIVER_STEPS if step not in RAYLET_STEPS]
# The driver gives a sign of life after a sixth of this time: often before its workers have done anything.
QUICK_LEASE = ("--lease-timeout", "3")


def resume(tmp_path: Path, place: Place, expected: dict[str, str | None]) -> list[Row]:
    """Run the job again; return its rows once all is found whole and as without a fault, and nothing done again."""
    photos, reader = tmp_path / "photos", place.reader
    before = Durable.of(reader)
    again = hdrfleet("convert", photos, place.url, *OPTIONS, home=tmp_path / "home", timeout_s=200)
    assert again.returncode == 3, again.stderr  # three inputs are bad
    inputs = {name: (photos / name).read_bytes() for name in expected}
    rows = require_whole(reader, inputs, num_leftovers=place.max_leftovers)
    assert {row["source"]: row["error_code"] for row in rows} == expected
    before.require_kept(reader, rows)
    require_undisturbed(tmp_path, rows)
    return rows


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", DRIVER_STEPS, ids=lambda fault: f"{fault[0]}-{fault[1]}")
def test_a_job_whose_driver_dies_above_its_workers_is_resumed(
    tmp_path: Path, place: Place, fault: tuple[str, int]
) -> None:
    photos, (step, passes) = tmp_path / "photos", fault
    expected = write_library(photos, num_photos=6, size=(24, 32))
    options = (*OPTIONS, *QUICK_LEASE) if step == "lease.renewed" else OPTIONS
    env = {"HDRFLEET_FAULTS": f"{step}=kill:{passes}"}
    first = hdrfleet("convert", photos, place.url, *options, home=tmp_path / "home", env=env, timeout_s=150)
    assert first.returncode == -9, f"the step was not reached: {first.stderr}"
    wait_for_workers(tmp_path / "home")
    resume(tmp_path, place, expected)


def is_stopped(driver: subprocess.Popen[bytes]) -> bool:
    return psutil.Process(driver.pid).status() == psutil.STATUS_STOPPED


def lose_raylet(
    tmp_path: Path, place: Place, fault: tuple[str, int], cluster: Cluster | None = None, *, awaits_head: bool = False
) -> None:
    """The driver is held at the step, its only node's raylet is killed, and the driver goes on; then another run.

    The node is that of the cluster, if there is one; its head ends soon, which the driver goes on before or after.
    """
    photos, home, log, (step, passes) = tmp_path / "photos", tmp_path / "home", tmp_path / "first-log", fault
    expected = write_library(photos, num_photos=6, size=(24, 32))
    env = {"HDRFLEET_FAULTS": f"{step}=stop:{passes}", "HDRFLEET_FAULTS_ONCE": str(tmp_path)}
    where = () if cluster is None else ("--address", cluster.address)
    options = (*OPTIONS, *where, *(QUICK_LEASE if step == "lease.renewed" else ()))
    driver = start_hdrfleet("convert", photos, place.url, *options, home=home, log=log, env=env)
    everything: list[psutil.Process] = []
    try:
        wait_until(lambda: is_stopped(driver) or driver.poll() is not None, "the driver is held", 200)
        assert is_stopped(driver), f"the step was not reached: {log.read_text()}"
        everything = descendants(driver.pid)
        nodes = everything if cluster is None else descendants(cluster.head.pid)
        (raylet,) = (process for process in nodes if Path(process.cmdline()[0]).name == "raylet")
        raylet.kill()
        if cluster is not None and awaits_head:
            cluster.head.wait(60)
        os.kill(driver.pid, signal.SIGCONT)
        code = driver.wait(200)
    finally:
        driver.kill()
        driver.wait(20)
        end(everything)
    said = log.read_text()
    if step in {"job.finished", "lease.released"}:
        assert code == 3, said
    elif cluster is not None and step != "lease.renewed":  # which goes on through all of the job
        assert code == 2, said
        assert f"cannot use Ray at {cluster.address}" in said
    else:  # workers that end what they hold before they miss it may be all that there is to do
        assert code in {1, 3} if cluster is None else {1, 2, 3}, said
    assert "Traceback" not in said
    resume(tmp_path, place, expected)


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("fault", CLUSTER_STEPS, ids=lambda fault: f"{fault[0]}-{fault[1]}")
def test_a_job_whose_cluster_loses_its_raylet_at_a_step_of_its_driver_is_resumed(
    tmp_path: Path, place: Place, fault: tuple[str, int]
) -> None:
    (tmp_path / "cluster").mkdir()
    with running_cluster(tmp_path / "cluster", None, "--num-cpus=2") as cluster:
        cluster.wait_for_head_node()
        lose_raylet(tmp_path, place, fault, cluster, awaits_head=isinstance(place.reader, Bucket))


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("fault", RAYLET_STEPS, ids=lambda fault: f"{fault[0]}-{fault[1]}")
def test_a_job_whose_raylet_dies_at_a_step_of_its_driver_is_resumed(
    tmp_path: Path, place: Place, fault: tuple[str, int]
) -> None:
    lose_raylet(tmp_path, place, fault)


def die_and_resume(tmp_path: Path, place: Place, step: str, action: str) -> list[Row]:
    """Run a job whose worker or raylet dies at a step, run it again, and return its rows once all is found whole."""
    photos, once = tmp_path / "photos", tmp_path / "once"
    expected = write_library(photos, num_photos=6, size=(24, 32))
    once.mkdir()
    # Files are named by the driver too: job.json, the lease, the plan. Those of a worker are its outputs and parts.
    where = f"{step}@photo_001.jpg.exr" if step.startswith("file.") else step
    env = {"HDRFLEET_FAULTS": f"{where}={action}", "HDRFLEET_FAULTS_ONCE": str(once)}
    first = hdrfleet("convert", photos, place.url, *OPTIONS, home=tmp_path / "home", env=env, timeout_s=200)
    assert list(once.iterdir()), f"the step was not reached: {first.stderr}"
    assert "Traceback" not in first.stderr
    if action == "kill":
        assert first.returncode == 3, first.stderr  # a lost worker is replaced, and three inputs are bad
    else:
        assert first.returncode in {1, 3}, first.stderr
    rows = resume(tmp_path, place, expected)
    # What was begun again had been leased to the one worker that died.
    assert len({row["shard"] for row in rows if row["attempt"] > 1}) <= LEASES_PER_WORKER
    return rows


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize("action", ["kill", "kill-parent"])
@pytest.mark.parametrize("step", [step for step in STEPS if not step.startswith("file.")])
def test_a_job_on_s3_survives(tmp_path: Path, s3_bucket: Any, step: str, action: str) -> None:
    rows = die_and_resume(tmp_path, in_bucket(s3_bucket), step, action)
    if action == "kill" and step != "part.created":  # there the shard was committed: nothing was left to try again
        assert max(row["attempt"] for row in rows) == 2


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize("action", ["kill", "kill-parent"])
@pytest.mark.parametrize("step", ["upload.started", "upload.sent"])
def test_an_upload_in_parts_survives(tmp_path: Path, s3_bucket: Any, step: str, action: str) -> None:
    """The output is larger than 100 MB, so it is sent in parts; its worker or raylet dies before it is complete."""
    photos, once, home = tmp_path / "photos", tmp_path / "once", tmp_path / "home"
    for folder in (photos, once):
        folder.mkdir()
    save_file(dict(tiny_network().state_dict()), tmp_path / "tiny.safetensors")
    inputs = {"large.jpg": jpeg(picture(3000, 3100))}
    (photos / "large.jpg").write_bytes(inputs["large.jpg"])
    large = ("--weights", tmp_path / "tiny.safetensors", "--pixel-type", "float", "--compression", "none")
    place = in_bucket(s3_bucket)
    command = ("convert", photos, place.url, *large, "--precision", "fp32", "--device", "cpu", "--quiet")
    env = {"HDRFLEET_FAULTS": f"{step}={action}", "HDRFLEET_FAULTS_ONCE": str(once)}
    first = hdrfleet(*command, home=home, env=env, timeout_s=200)
    assert list(once.iterdir()), f"the step was not reached: {first.stderr}"
    assert first.returncode in ({0} if action == "kill" else {0, 1}), first.stderr
    wait_for_workers(home)
    again = hdrfleet(*command, home=home, timeout_s=200)
    assert again.returncode == 0, again.stderr
    (row,) = require_whole(place.reader, inputs)
    assert row["output_bytes"] > MULTIPART_THRESHOLD_BYTES
    assert place.reader.leftovers() == [], "what the dead one had sent is still there"


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("step", "action"), CASES)
def test_a_job_survives(tmp_path: Path, step: str, action: str) -> None:
    die_and_resume(tmp_path, on_files(tmp_path, max_leftovers=1), step, action)
