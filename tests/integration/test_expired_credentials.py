"""Access keys expire in the middle of a job: it stops in one line, loses nothing, and goes on with new keys."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import descendants, end, hdrfleet_here, start_hdrfleet, wait_until
from fakes import tiny_network
from photographs import jpeg, picture
from servers.expiring_keys import ExpiringKeys, MotoKeys

from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.manifest.writer import part_key
from pipeline.storage import open_store

NUM_PHOTOS = 30
SHARD_IMAGES = 5
NUM_SHARDS = NUM_PHOTOS // SHARD_IMAGES
SIDE_PX = 128
SOURCES = {f"{index:02d}.jpg" for index in range(NUM_PHOTOS)}

# An image takes well under a second; the rest is for a busy machine.
EXIT_WITHIN_S = 60
HOW_TO_GO_ON = "; committed work is kept, run the same command again once this is mended [credentials]"


@dataclass(frozen=True)
class Bucket:
    """What lies in a bucket, as somebody sees it whose key stays good."""

    client: Any
    name: str

    def objects(self, prefix: str) -> dict[str, tuple[object, object]]:
        """Key to ETag and time of the last write."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {
            item["Key"]: (item["ETag"], item["LastModified"]) for page in pages for item in page.get("Contents", ())
        }

    @property
    def parts(self) -> dict[str, tuple[object, object]]:
        return self.objects("out/manifest/")

    @property
    def images(self) -> dict[str, tuple[object, object]]:
        return self.objects("out/images/")

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        """Every row of the manifest, read from a copy in `folder`."""
        for key in self.parts:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(key))
        return open_manifest(open_store(str(folder / "out"), StorageConfig())).history.to_pylist()

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())


@pytest.fixture
def bucket(expiring_keys: ExpiringKeys) -> Bucket:
    """A bucket that holds the photographs."""
    made = Bucket(expiring_keys.client, f"test-{os.urandom(6).hex()}")
    made.client.create_bucket(Bucket=made.name)
    for index, source in enumerate(sorted(SOURCES)):
        photo = jpeg(picture(SIDE_PX, SIDE_PX, seed=index))
        made.client.put_object(Bucket=made.name, Key=f"in/{source}", Body=photo)
    return made


@pytest.fixture
def sign_in(expiring_keys: ExpiringKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Write the keys of now into the profiles `reader` and `writer`, as a user does who renews them.

    The environment leads to the server, and to those profiles alone.
    """
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", expiring_keys.endpoint_url)
    monkeypatch.setenv("AWS_REGION", expiring_keys.region)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def write_profiles() -> None:
        lines = []
        for user in ("reader", "writer"):
            key_id, secret = expiring_keys.key(user)
            lines += [f"[{user}]", f"aws_access_key_id = {key_id}", f"aws_secret_access_key = {secret}"]
        path = tmp_path / "home" / ".aws" / "credentials"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))

    write_profiles()
    return write_profiles


@pytest.fixture
def command(bucket: Bucket, sign_in: Callable[[], None], tmp_path: Path) -> list[str]:
    """The conversion, from one user's keys to another's. A narrow network leaves the time to where keys are used."""
    import torch

    weights = tmp_path / "tiny.pth"
    torch.save(tiny_network().state_dict(), weights)
    return [
        "convert", f"s3://{bucket.name}/in", f"s3://{bucket.name}/out", "--src-profile", "reader",
        "--dst-profile", "writer", "--weights", str(weights), "--shard-images", str(SHARD_IMAGES),
        "--precision", "fp32", "--device", "cpu", "--quiet",
    ]  # fmt: skip


def run_into(fault: Callable[[], None], command: list[str], bucket: Bucket, folder: Path) -> str:
    """Run the command, strike in the middle of it, and return all that it said. It has to exit with 1.

    The middle: a shard is committed, and of the two next ones a few images are stored, which have no row yet.
    """

    def is_amidst() -> bool:
        num_parts = len(bucket.parts)
        return num_parts > 0 and 0 < len(bucket.images) - SHARD_IMAGES * num_parts < SHARD_IMAGES

    log = folder / "log"
    driver = start_hdrfleet(*command, home=folder / "home", log=log)
    everything = []
    try:
        wait_until(lambda: is_amidst() or driver.poll() is not None, "the middle of the job")
        everything = descendants(driver.pid)
        fault()
        code = driver.wait(EXIT_WITHIN_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the driver did not stop: {log.read_text()}")
    finally:
        driver.kill()
        driver.wait(20)
        end(everything)
    assert code == 1, log.read_text()
    return log.read_text()


def assert_only_whole_shards(bucket: Bucket, folder: Path) -> None:
    """What is committed is whole; what is not has no row, not even that of a failure."""
    rows = bucket.rows(folder)
    assert 1 <= len(bucket.parts) < NUM_SHARDS, "the keys expired too late to test anything"
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["source"] for row in rows}) == len(rows) == SHARD_IMAGES * len(bucket.parts)
    assert {f"out/{row['output']}" for row in rows} <= bucket.images.keys()


def assert_complete(bucket: Bucket, folder: Path) -> None:
    rows = bucket.rows(folder)
    assert Counter(row["source"] for row in rows) == dict.fromkeys(SOURCES, 1)
    assert {row["status"] for row in rows} == {"ok"}
    assert bucket.images.keys() == {f"out/{row['output']}" for row in rows}
    for row in rows:
        assert decode_exr(bucket.read(f"out/{row['output']}")).image.pixels.shape == (SIDE_PX, SIDE_PX, 3)


def assert_nothing_stored_twice(
    bucket: Bucket, folder: Path, parts: dict[str, tuple[object, object]], images: dict[str, tuple[object, object]]
) -> int:
    """These objects of before are as they were. Returns how many had no row yet; all those were adopted."""
    assert parts.items() <= bucket.parts.items()
    assert images.items() <= bucket.images.items()
    rows = bucket.rows(folder)
    adopted = {f"out/{row['output']}" for row in rows if row["adopted"]}
    committed = {f"out/{row['output']}" for row in rows if f"out/{part_key(row['plan'], row['shard'])}" in parts}
    assert adopted == images.keys() - committed
    return len(adopted)


@pytest.mark.parametrize(
    ("expiring_keys", "expired", "executor"),
    [
        pytest.param("swift", ["writer"], "local", marks=pytest.mark.long),
        pytest.param("swift", ["reader"], "local", marks=pytest.mark.long),
        pytest.param("swift", ["reader", "writer"], "ray", marks=pytest.mark.long),
        ("moto", ["reader"], "local"),
    ],
    indirect=["expiring_keys"],
    ids=["swift destination", "swift source", "swift both on ray", "moto source"],
)
def test_keys_that_expire_stop_the_job_and_new_ones_finish_it(
    expiring_keys: ExpiringKeys,
    bucket: Bucket,
    sign_in: Callable[[], None],
    command: list[str],
    expired: list[str],
    executor: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secrets = [expiring_keys.key(user)[1] for user in expired]
    said = run_into(lambda: expiring_keys.expire(*expired), [*command, "--executor", executor], bucket, tmp_path)
    (message,) = said.splitlines()
    assert message.startswith(f"hdrfleet: s3://{bucket.name}/")
    assert "SignatureDoesNotMatch: " in message or "InvalidAccessKeyId: " in message
    assert message.endswith(HOW_TO_GO_ON)
    assert not any(secret in message for secret in secrets)
    assert_only_whole_shards(bucket, tmp_path / "stopped")
    parts, images = bucket.parts, bucket.images

    # With the old keys it does not even start, and changes nothing. (Which executor goes on is of no importance to a
    # job, and a second Ray would take most of the time.)
    command += ["--executor", "local"]
    assert hdrfleet_here(*command) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert f"cannot {'read the source' if 'reader' in expired else 'use the destination'}" in message
    assert (bucket.parts, bucket.images) == (parts, images)

    sign_in()
    assert hdrfleet_here(*command) == 0
    assert_complete(bucket, tmp_path / "finished")
    num_adopted = assert_nothing_stored_twice(bucket, tmp_path / "finished", parts, images)
    # What is read already is still converted and committed when just the source's keys have expired.
    assert num_adopted or expired == ["reader"]


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("expiring_keys", ["moto"], indirect=True)
def test_a_source_that_is_closed_to_us_is_not_a_failure_of_its_images(
    expiring_keys: MotoKeys, bucket: Bucket, command: list[str], tmp_path: Path
) -> None:
    command += ["--executor", "local"]
    (message,) = run_into(lambda: expiring_keys.forbid("reader"), command, bucket, tmp_path).splitlines()
    assert message.startswith("hdrfleet: the source may not be read any more: ")
    assert message.endswith(HOW_TO_GO_ON)
    assert_only_whole_shards(bucket, tmp_path / "stopped")
    parts, images = bucket.parts, bucket.images

    expiring_keys.allow("reader")
    assert hdrfleet_here(*command) == 0
    assert_complete(bucket, tmp_path / "finished")
    assert_nothing_stored_twice(bucket, tmp_path / "finished", parts, images)
