"""The same job on local files, on moto and on a real S3 server: the same manifest and the same pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet
from photographs import jpeg, picture, write_library

from pipeline.config import StorageConfig
from pipeline.manifest import RUN_COLUMNS, open_manifest
from pipeline.storage import open_store

# A local etag is a modification time, S3's is a checksum.
OF_THE_STORE = {"source_etag"}
OPTIONS = ("--precision", "fp32", "--device", "cpu", "--shard-images", "5", "--verify", "all")


def contents(url: str) -> tuple[list[dict[str, object]], dict[str, bytes]]:
    store = open_store(url, StorageConfig())
    table = open_manifest(store).current.sort_by("source")
    rows = table.drop_columns(sorted((RUN_COLUMNS | OF_THE_STORE) & set(table.column_names))).to_pylist()
    return rows, {info.key: store.read(info.key) for info in store.list("images")}


def upload(folder: Path, bucket: Any, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.client.put_object(
                Bucket=bucket.name, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )


@pytest.fixture(scope="module")
def on_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]], dict[str, bytes]]:
    root = tmp_path_factory.mktemp("files")
    write_library(root / "photos", num_photos=6)
    result = hdrfleet("convert", root / "photos", root / "out", *OPTIONS, "--executor", "local", home=root / "home")
    assert result.returncode == 3, result.stderr
    rows, images = contents(str(root / "out"))
    return root / "photos", rows, images


@pytest.mark.parametrize(
    ("s3_server", "executor"),
    [
        ("moto", "local"),
        ("swift", "ray"),
        pytest.param("moto", "ray", marks=pytest.mark.long),
        pytest.param("swift", "local", marks=pytest.mark.long),
    ],
    indirect=["s3_server"],
)
def test_a_bucket_gives_what_a_folder_gives(
    on_files: tuple[Path, list[dict[str, object]], dict[str, bytes]],
    s3_bucket: Any,
    executor: str,
    tmp_path: Path,
) -> None:
    photos, rows, images = on_files
    upload(photos, s3_bucket, "in")
    arguments = ("convert", f"{s3_bucket.url}/in", f"{s3_bucket.url}/out", *OPTIONS, "--executor", executor)
    first = hdrfleet(*arguments, "--json", home=tmp_path / "home")
    assert first.returncode == 3, first.stderr
    assert json.loads(first.stdout)["num_planned"] == len(rows)
    assert contents(f"{s3_bucket.url}/out") == (rows, images)
    again = hdrfleet(*arguments, home=tmp_path / "home")
    assert again.returncode == 3
    assert "nothing to do" in again.stdout
    asked = hdrfleet(
        "query", f"{s3_bucket.url}/out", "select count(*) n from manifest where status = 'ok'", "--json",
        home=tmp_path / "home",
    )  # fmt: skip
    assert json.loads(asked.stdout) == [{"n": len(images)}]


def test_buckets_of_one_name_at_two_providers_do_not_overlap(
    s3_bucket_on: Callable[[Any], Any], moto_server: Any, swift_server: Any, tmp_path: Path
) -> None:
    """Swift has the destination; moto, which takes any keys, has a bucket with the destination's name."""
    import boto3

    bucket = s3_bucket_on(swift_server)
    there = boto3.Session().client("s3", region_name="us-east-1", endpoint_url=moto_server.endpoint_url)
    there.create_bucket(Bucket=bucket.name)
    bucket.client.put_object(Bucket=bucket.name, Key="other.txt", Body=b"not a destination yet")
    write_library(tmp_path / "photos", num_photos=2)
    upload(tmp_path / "photos", replace(bucket, client=there), "in")
    arguments = ("convert", bucket.url, bucket.url, *OPTIONS, "--executor", "local", "--json")
    refused = hdrfleet(*arguments, home=tmp_path / "home")
    assert refused.returncode == 2
    assert "are the same place" in refused.stderr
    result = hdrfleet(*arguments, "--src-endpoint-url", moto_server.endpoint_url, home=tmp_path / "home")
    assert result.returncode == 3, result.stderr
    told = json.loads(result.stdout)
    assert told["num_planned"] == len(contents(bucket.url)[0]) > 0
    assert sum(told["ignored_by_extension"].values()) == told["num_ignored"]


# The longest that S3 takes are 1,024 bytes of UTF-8; the keys of their outputs would be longer, were they not mapped.
LONG_KEYS = (
    "in/" + "\u00e9" * 508 + ".jpeg",
    "in/" + "deep/" * 203 + "a.jpg",
)


@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
def test_keys_as_long_as_they_may_be_are_converted(s3_bucket: Any, tmp_path: Path) -> None:
    assert {len(key.encode()) for key in LONG_KEYS} == {1024, 1023}
    for seed, key in enumerate(LONG_KEYS):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=key, Body=jpeg(picture(16, 16, seed=seed)))
    places = (f"{s3_bucket.url}/in", f"{s3_bucket.url}/out")
    result = hdrfleet("convert", *places, *OPTIONS, "--executor", "local", home=tmp_path / "home")
    assert result.returncode == 0, result.stderr
    rows, images = contents(places[1])
    assert sorted(str(row["source"]) for row in rows) == sorted(key.removeprefix("in/") for key in LONG_KEYS)
    assert {str(row["output"]) for row in rows} == images.keys()
    assert all(len(f"out/{key}".encode()) <= 1024 for key in images)
    verified = hdrfleet("verify", places[1], "--deep", home=tmp_path / "home")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_no_secret_reaches_the_destination_or_the_output(
    s3_bucket_on: Callable[[Any], Any], moto_server: Any, tmp_path: Path
) -> None:
    bucket = s3_bucket_on(moto_server)
    write_library(tmp_path / "photos", num_photos=2)
    upload(tmp_path / "photos", bucket, "in")
    result = hdrfleet(
        "convert", f"{bucket.url}/in", f"{bucket.url}/out", *OPTIONS, "--executor", "local", home=tmp_path / "home"
    )
    assert result.returncode == 3, result.stderr
    secret = moto_server.secret_key
    assert secret not in result.stdout + result.stderr
    store = open_store(f"{bucket.url}/out", StorageConfig())
    for info in store.list():
        assert secret.encode() not in store.read(info.key), info.key


def test_a_wrong_secret_is_refused_before_anything_starts(
    s3_bucket_on: Callable[[Any], Any], swift_server: Any, tmp_path: Path
) -> None:
    bucket = s3_bucket_on(swift_server)
    wrong = {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    result = hdrfleet("convert", f"{bucket.url}/in", tmp_path / "out", home=tmp_path / "home", env=wrong)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "not-the-secret" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_bucket_is_refused_before_anything_starts(
    s3_bucket_on: Callable[[Any], Any], moto_server: Any, tmp_path: Path
) -> None:
    s3_bucket_on(moto_server)
    write_library(tmp_path / "photos", num_photos=1)
    for src, dst in (("s3://no-such-bucket/in", tmp_path / "out"), (tmp_path / "photos", "s3://no-such-bucket/out")):
        result = hdrfleet("convert", src, dst, home=tmp_path / "home")
        assert result.returncode == 2, result.stderr
        assert "no-such-bucket" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
