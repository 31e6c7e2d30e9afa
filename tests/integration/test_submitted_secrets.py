"""Secrets around a submitted job: in the environment of the cluster, in the list of its sources, and Ray's token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canaries import CREDENTIALS, assert_clean, assert_store_clean, is_clean, plant_list, plant_photos
from commands import hdrfleet
from servers.ray_head import RayHead, ray_head

OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--workers", "1")

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def bucket(s3_bucket_on: Callable[[Any], Any], moto_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return plant_photos(s3_bucket_on(moto_server), monkeypatch)


@pytest.fixture
def head(tmp_path: Path, bucket: Any) -> Iterator[RayHead]:
    """A cluster whose machines have the keys, as an instance role would give them."""
    server = {"AWS_REGION": bucket.server.region, "AWS_ENDPOINT_URL": bucket.server.endpoint_url}
    with ray_head(tmp_path / "head", {**CREDENTIALS, **server, "AWS_EC2_METADATA_DISABLED": "true"}) as running:
        yield running


def test_a_submitted_job_leaves_no_secret_in_its_logs_nor_in_what_the_cluster_writes(
    head: RayHead, bucket: Any, tmp_path: Path
) -> None:
    client, dst = tmp_path / "client", f"{bucket.url}/out"

    def run(*words: str) -> Any:
        result = hdrfleet(*words, "--address", head.url, home=client, env=dict(head.env), timeout_s=300)
        assert_clean(result, client)
        assert head.token not in result.stdout + result.stderr
        return result

    submitted = run("submit", plant_list(bucket), dst, *OPTIONS, "--follow", "--log-format", "json")
    assert submitted.returncode == 3, submitted.stdout + submitted.stderr
    assert "decode_truncated" in submitted.stdout, "the job's log is shown, with what it says of the damaged image"
    (job,) = json.loads(run("jobs", "--json").stdout)
    shown = run("logs", job["id"])
    assert "decode_truncated" in shown.stdout
    assert run("status", job["id"], "--json").returncode == 0
    assert_store_clean(dst)

    written = [path for path in (*head.session.rglob("*"), *(tmp_path / "head").rglob("*")) if path.is_file()]
    logs = {path.name for path in written}
    assert any(name.startswith("job-driver-") for name in logs), logs
    assert any(name.startswith("worker-") for name in logs), logs
    for path in written:
        data = path.read_bytes()
        assert is_clean(data), path
        assert head.token.encode() not in data, path
