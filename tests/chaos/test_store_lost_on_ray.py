"""A destination that goes silent on the workers of a Ray cluster: the job ends with what the store did, in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet
from independent_checker import Bucket, require_whole
from photographs import jpeg, picture
from servers.fault_proxy import Fault, FaultProxy

NUM_PHOTOS = 8
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--workers", "2", "--shard-images", "1"),
    *("--dst-timeout", "1", "--dst-attempts", "2", "--quiet"),
)
# 12 attempts in a row, or 4 of each of 3 shards with 35 s between them; starts of Ray and of the workers.
BOUND_S = 4 * 3 * 2.5 + 35 + 90


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
@pytest.mark.parametrize("key", ["^out/images/", "^out/manifest/"])
def test_a_destination_that_goes_silent_on_every_worker(s3_bucket: Any, tmp_path: Path, key: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(NUM_PHOTOS):
        (photos / f"{index}.jpg").write_bytes(jpeg(picture(24, 16, seed=index)))
    with FaultProxy(s3_bucket.server.endpoint_url, seed=1) as proxy:
        command = ("convert", photos, f"{s3_bucket.url}/out", "--dst-endpoint-url", proxy.url, *OPTIONS)
        proxy.use(Fault("black_hole", "PutObject", key, skip=1))
        stopped = hdrfleet(*command, home=tmp_path / "home", timeout_s=BOUND_S)
        proxy.use()
        resumed = hdrfleet(*command, home=tmp_path / "home", timeout_s=200)
    assert stopped.returncode == 1, stopped.stderr
    (line,) = stopped.stderr.splitlines()
    assert line.startswith(f"hdrfleet: {s3_bucket.url}/out/{key.removeprefix('^out/')}"), line
    assert "gave up after 2 attempts" in line
    assert "committed work is kept, run the same command again once the store answers [storage_unavailable]" in line
    assert resumed.returncode == 0, resumed.stderr
    inputs = {path.name: path.read_bytes() for path in photos.iterdir()}
    require_whole(Bucket(s3_bucket.client, s3_bucket.name, "out/"), inputs)
