"""A submitted job whose cluster dies with its driver goes on in another cluster: what RayJob's backoffLimit does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import end, hdrfleet, hdrfleet_here, wait_until
from photographs import jpeg, picture
from servers.ray_head import RayHead, named_after, ray_head

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

NUM_PHOTOS = 12
# Networks of the published width and a shard for each photograph: there is time to lose the cluster in.
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "1", "--workers", "1")

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def objects(bucket: Any, prefix: str) -> dict[str, tuple[str, Any]]:
    """ETag and time of every object, by key."""
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
    return {item["Key"]: (item["ETag"], item["LastModified"]) for page in pages for item in page.get("Contents", ())}


def lose(head: RayHead) -> None:
    """Kill head, node, job server, supervisor and driver, as a machine does that is switched off: SIGKILL, at once."""
    below = head.process.children(recursive=True)
    gone = {process.pid: process for process in (head.process, *below, *named_after(str(head.session)))}
    assert any("jobs.cli" in process.cmdline() for process in gone.values()), "the driver is not among them"
    end(list(gone.values()))


@pytest.mark.parametrize("server", ["moto", "swift"])
def test_the_next_cluster_does_the_rest_of_a_job_that_was_lost_with_its_driver(
    server: str, request: pytest.FixtureRequest, s3_bucket_on: Callable[[Any], Any], tmp_path: Path
) -> None:
    bucket = s3_bucket_on(request.getfixturevalue(f"{server}_server"))
    for index in range(NUM_PHOTOS):
        bucket.client.put_object(
            Bucket=bucket.name, Key=f"in/{index:02d}.jpg", Body=jpeg(picture(160, 160, seed=index))
        )
    store = {
        "AWS_ACCESS_KEY_ID": bucket.server.access_key,
        "AWS_SECRET_ACCESS_KEY": bucket.server.secret_key,
        "AWS_REGION": bucket.server.region,
        "AWS_ENDPOINT_URL": bucket.server.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    dst = f"{bucket.url}/out"

    def run(head: RayHead, *arguments: str) -> Any:
        words = (*arguments, "--address", head.url)
        return hdrfleet(*words, home=tmp_path / "client", env=dict(head.env), timeout_s=300)

    conversion = ("submit", f"{bucket.url}/in", dst, *OPTIONS)
    with ray_head(tmp_path / "first", store) as head:
        first = run(head, *conversion, "--json")
        assert first.returncode == 0, first.stderr
        wait_until(lambda: len(objects(bucket, "out/manifest/")) >= 2, "two shards committed")
        lose(head)
        stored = objects(bucket, "out/images/") | objects(bucket, "out/manifest/")
        assert len(objects(bucket, "out/manifest/")) < NUM_PHOTOS
    with ray_head(tmp_path / "second", store) as head:
        second = run(head, *conversion, "--follow")
        assert second.returncode == 0, second.stdout + second.stderr
        # The same id, in a cluster that knows nothing of it.
        assert json.loads(first.stdout)["id"] in second.stdout + second.stderr
    assert stored.items() <= (objects(bucket, "out/images/") | objects(bucket, "out/manifest/")).items()
    rows = open_manifest(open_store(dst, StorageConfig())).history.to_pylist()
    assert Counter(row["source"] for row in rows) == {f"{index:02d}.jpg": 1 for index in range(NUM_PHOTOS)}
    assert {row["status"] for row in rows} == {"ok"}
    assert hdrfleet_here("verify", dst, "--deep", "--quiet", "--executor", "local") == 0
