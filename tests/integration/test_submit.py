"""Conversions as jobs of a real Ray head with token authentication, from bucket to bucket of a real S3 server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import hdrfleet, hdrfleet_here, wait_until
from photographs import jpeg, picture
from servers.ray_head import RayHead, ray_head

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

NUM_PHOTOS = 12
# The published width is the slower one: there is time to look, to kill and to stop.
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "1", "--workers", "1")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, swift_server: Any) -> Iterator[RayHead]:
    env = {
        "AWS_ACCESS_KEY_ID": swift_server.access_key,
        "AWS_SECRET_ACCESS_KEY": swift_server.secret_key,
        "AWS_REGION": swift_server.region,
        "AWS_ENDPOINT_URL": swift_server.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with ray_head(tmp_path_factory.mktemp("head"), env) as running:
        yield running


@pytest.fixture
def bucket(s3_bucket_on: Callable[[Any], Any], swift_server: Any) -> Any:
    made = s3_bucket_on(swift_server)
    for index in range(NUM_PHOTOS):
        made.client.put_object(Bucket=made.name, Key=f"in/{index:02d}.jpg", Body=jpeg(picture(160, 160, seed=index)))
    return made


@pytest.fixture
def run(head: RayHead, tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str, env: dict[str, str] | None = None) -> Any:
        words = (*arguments, "--address", head.url)
        return hdrfleet(*words, home=tmp_path / "client", env={**head.env, **(env or {})}, timeout_s=300)

    return run


def num_parts(bucket: Any) -> int:
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="out/manifest/")
    return int(listed.get("KeyCount", 0))


def assert_whole(bucket: Any) -> None:
    dst = f"{bucket.url}/out"
    rows = open_manifest(open_store(dst, StorageConfig())).history.to_pylist()
    assert Counter(row["source"] for row in rows) == {f"{index:02d}.jpg": 1 for index in range(NUM_PHOTOS)}
    assert {row["status"] for row in rows} == {"ok"}
    assert hdrfleet_here("verify", dst, "--deep", "--quiet", "--executor", "local") == 0


def driver_of(head: RayHead) -> psutil.Process:
    """The process that runs the job: below Ray's own, and below `jobs.supervise`."""
    found = [
        process
        for process in head.process.children(recursive=True)
        if "jobs.cli" in process.cmdline() and "convert" in process.cmdline()
    ]
    assert len(found) == 1, found
    return found[0]


def test_a_token_is_needed(head: RayHead, run: Callable[..., Any]) -> None:
    listed = run("jobs", "--json")
    assert listed.returncode == 0, listed.stderr
    assert isinstance(json.loads(listed.stdout), list)
    for env, said in (
        ({"RAY_AUTH_TOKEN": "0" * 64}, "Invalid authentication token"),
        ({"RAY_AUTH_MODE": "disabled"}, "Missing authentication token"),
    ):
        refused = run("jobs", env=env)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert said in line
        assert "RAY_AUTH_TOKEN_PATH" in line
        assert head.token not in refused.stderr


def test_one_job_however_often_it_is_submitted_and_its_killed_driver_is_started_again(
    head: RayHead, run: Callable[..., Any], bucket: Any
) -> None:
    conversion = ("submit", f"{bucket.url}/in", f"{bucket.url}/out", *OPTIONS)
    first = run(*conversion, "--json")
    assert first.returncode == 0, first.stderr
    job = json.loads(first.stdout)
    assert job["is_new"]
    again = run(*conversion, "--log-format", "json", "--json")  # how it logs makes no other job of it
    assert json.loads(again.stdout)["id"] == job["id"]
    assert not json.loads(again.stdout)["is_new"]
    other = run(*conversion, "--exposure", "1")
    assert other.returncode == 2
    assert f"{job['id']} is at work on {bucket.url}/out with other options" in other.stderr

    wait_until(lambda: num_parts(bucket) >= 2, "two shards committed")
    driver_of(head).kill()
    followed = run("logs", "--follow", f"{bucket.url}/out")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "the driver was killed by signal 9; it is started again" in followed.stdout
    assert_whole(bucket)
    status = run("status", job["id"], "--json", env={"AWS_ENDPOINT_URL": bucket.server.endpoint_url})
    assert json.loads(status.stdout)["num_ok"] == NUM_PHOTOS, status.stderr
    listed = run("jobs").stdout
    assert job["id"] in listed
    assert "done" in listed
    # Nothing that was sent or written holds what opens the bucket.
    assert bucket.server.secret_key not in run("logs", job["id"]).stdout + json.dumps(job) + listed


@pytest.mark.long
@pytest.mark.parametrize("code", [(), ("--use-image",)], ids=["sent", "of the image"])
def test_a_job_that_was_stopped_is_resumed_by_the_next(run: Callable[..., Any], bucket: Any, code: Any) -> None:
    conversion = ("submit", f"{bucket.url}/in", f"{bucket.url}/out/", *OPTIONS, *code)
    first = json.loads(run(*conversion, "--json").stdout)
    wait_until(lambda: num_parts(bucket) >= 2, "two shards committed")
    stopped = run("stop", first["id"])
    assert stopped.returncode == 0, stopped.stderr
    assert "is stopped" in stopped.stdout
    assert 2 <= num_parts(bucket) < NUM_PHOTOS
    second = run(*conversion, "--follow", "--log-format", "json")
    assert second.returncode == 0, second.stdout + second.stderr
    logged = [json.loads(line) for line in second.stdout.splitlines() if line.startswith('{"time"')]
    assert {line["job_id"] for line in logged if line["event"] == "shard_completed"} == {logged[-1]["job_id"]}
    assert logged[-1]["event"] == "finished"
    assert first["id"].removesuffix("-1") + "-2 submitted" in second.stderr
    assert_whole(bucket)


def test_what_cannot_be_converted_is_refused_before_it_is_sent(run: Callable[..., Any], tmp_path: Path) -> None:
    for words, said in (
        (("--compression", "b44"), "compression"),
        (("--weights", str(tmp_path / "none.pth")), "cannot read weights"),
    ):
        refused = run("submit", str(tmp_path), str(tmp_path / "out"), *words)
        assert refused.returncode == 2
        assert said in refused.stderr
    unknown = run("logs", str(tmp_path / "nowhere"))
    assert unknown.returncode == 2
    assert "no job for" in unknown.stderr
