"""A bucket that is followed by its daily S3 Inventory: what is new, what changed, and what is gone since."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture

CSV_SCHEMA = "Bucket, Key, Size, ETag, IsLatest, IsDeleteMarker"
PARQUET_NAMES = ("bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker")
Row = tuple[str, str, int | None, str | None, bool, bool]


def data_file(rows: list[Row], file_format: str) -> bytes:
    if file_format == "Parquet":
        sink = io.BytesIO()
        columns = [list(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(PARQUET_NAMES, columns, strict=True))), sink)
        return sink.getvalue()
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for bucket, key, size, etag, is_latest, is_deleted in rows:
        flags = [str(is_latest).lower(), str(is_deleted).lower()]
        writer.writerow([bucket, quote_plus(key, safe="/"), "" if size is None else size, etag or "", *flags])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def write_inventory(bucket: Any, day: str, deleted: tuple[str, ...], file_format: str) -> str:
    """List photos/ as S3 would on that day, with delete markers of `deleted`; return the manifest's URL."""
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="photos/")["Contents"]
    rows: list[Row] = [(bucket.name, it["Key"], it["Size"], it["ETag"].strip('"'), True, False) for it in listed]
    for key in deleted:
        rows += [(bucket.name, key, None, None, True, True), (bucket.name, key, 9, "old", False, False)]
    data, key = data_file(rows, file_format), f"inventory/daily/data/{day}"
    manifest = {
        "sourceBucket": bucket.name,
        "fileFormat": file_format,
        "fileSchema": CSV_SCHEMA,
        "files": [{"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
    }
    at = f"inventory/daily/{day}T01-00Z/manifest.json"
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=data)
    bucket.client.put_object(Bucket=bucket.name, Key=at, Body=json.dumps(manifest).encode())
    return f"{bucket.url}/{at}"


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
@pytest.mark.parametrize("file_format", ["CSV", "Parquet"])
def test_what_the_newest_inventory_lacks_has_vanished(
    s3_bucket: Any, file_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, name = s3_bucket.client, s3_bucket.name
    for index, key in enumerate(("a b.jpg", "b.jpg", "c.jpg", "left out.jpg", "sub/d.jpg")):
        client.put_object(Bucket=name, Key=f"photos/{key}", Body=jpeg(picture(12, 16, seed=index)))
    options = ("--weights", "identity", "--executor", "local")

    def run(url: str, *more: str) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        assert hdrfleet_here("convert", url, tmp_path / "hdr", *options, *more, "--json") == 0
        told = capsys.readouterr()
        return json.loads(told.out), " ".join(told.err.split())

    first = write_inventory(s3_bucket, "2026-11-01", (), file_format)
    result, told = run(first)
    assert (result["num_planned"], result["num_vanished"]) == (5, 0)
    assert "no longer in the source" not in told

    client.delete_object(Bucket=name, Key="photos/a b.jpg")
    client.delete_object(Bucket=name, Key="photos/left out.jpg")
    client.delete_object(Bucket=name, Key="photos/sub/d.jpg")
    client.put_object(Bucket=name, Key="photos/new.jpg", Body=jpeg(picture(12, 16, seed=8)))
    second = write_inventory(s3_bucket, "2026-11-02", ("photos/sub/d.jpg",), file_format)
    result, told = run(second, "--exclude", "left out*")
    assert (result["num_planned"], result["num_vanished"]) == (1, 2)
    assert result["vanished_examples"] == ["photos/a b.jpg", "photos/sub/d.jpg"]
    assert "no longer in the source: 2 images, for example photos/a b.jpg, photos/sub/d.jpg; their rows" in told
    assert run(second, "--limit", "2")[0]["num_vanished"] == 0
    assert run(second)[0]["num_vanished"] == 3

    client.put_object(Bucket=name, Key="photos/sub/d.jpg", Body=jpeg(picture(12, 16, seed=4)))
    third = write_inventory(s3_bucket, "2026-11-03", (), file_format)
    result, _ = run(third)
    assert result["vanished_examples"] == ["photos/a b.jpg", "photos/left out.jpg"]
