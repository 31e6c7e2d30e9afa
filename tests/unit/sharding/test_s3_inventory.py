"""S3 Inventories, generated here in both formats."""

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

from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import SourceError
from pipeline.records import ImageTask
from pipeline.sharding import open_source
from pipeline.storage import open_store

# bucket, key, size, etag, is_latest, is_delete_marker
ROWS = [
    ("photos", "2024/a b+ü.jpg", 10, "e1", True, False),
    ("photos", "2024/", 0, "e2", True, False),
    ("photos", "2024/old.jpg", 11, "e3", False, False),
    ("photos", "2024/gone.jpg", None, None, True, True),
    ("photos", "2024/notes.txt", 12, "e4", True, False),
    ("photos", '2024/z,"q".png', 13, "e5", True, False),
]
TAKEN = [("2024/a b+ü.jpg", 10, "e1"), ('2024/z,"q".png', 13, "e5")]
CSV_COLUMNS = "Bucket, Key, Size, ETag, IsLatest, IsDeleteMarker"
NO_MD5 = {"files": [{"key": "data/1.csv.gz"}]}


def csv_data(rows: list[tuple[Any, ...]] = ROWS) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for bucket, key, size, etag, latest, deleted in rows:
        cells = ["" if size is None else size, etag or "", str(latest).lower(), str(deleted).lower()]
        writer.writerow([bucket, quote_plus(key, safe="/"), *cells])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def parquet_without_bucket() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["a.jpg"]}), sink)
    return sink.getvalue()


def parquet_data() -> bytes:
    names = ["bucket", "key", "size", "e_tag", "is_latest", "is_delete_marker"]
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))), sink)
    return sink.getvalue()


def manifest(files: dict[str, bytes], /, **changes: object) -> bytes:
    content = {
        "sourceBucket": "photos",
        "destinationBucket": "arn:aws:s3:::inventories",
        "fileFormat": "CSV",
        "fileSchema": CSV_COLUMNS,
        "files": [
            {"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()} for key, data in files.items()
        ],
    }
    return json.dumps(content | changes).encode()


def listed(bucket: str, files: dict[str, bytes], data: bytes, **config: Any) -> list[ImageTask]:
    store = open_store(f"memory://{bucket}", StorageConfig())
    for key, content in files.items():
        store.replace(key, content)
    store.replace("inv/manifest.json", data)
    return list(open_source(SourceConfig(url=f"memory://{bucket}/inv/manifest.json", **config)).iterate())


def test_csv_and_parquet_give_the_same_images() -> None:
    one = {"data/1.csv.gz": csv_data()}
    other = {"data/1.parquet": parquet_data()}
    tasks = listed("inventory-csv", one, manifest(one))
    assert [(task.source, task.size_bytes, task.etag) for task in tasks] == TAKEN
    assert [task.key for task in tasks] == [f"memory://photos/{source}" for source, _, _ in TAKEN]
    assert (
        listed("inventory-parquet", other, manifest(other, fileFormat="Parquet", fileSchema="message s3 {}")) == tasks
    )


def test_files_follow_the_manifest_and_patterns_apply() -> None:
    files = {f"data/{name}.csv.gz": csv_data([("b", f"{name}.jpg", 1, "e", True, False)]) for name in "zay"}
    assert [task.source for task in listed("inventory-many", files, manifest(files))] == ["z.jpg", "a.jpg", "y.jpg"]
    some = listed("inventory-some", files, manifest(files), exclude=("a.*",), limit=2)
    assert [task.source for task in some] == ["z.jpg", "y.jpg"]


def test_optional_columns_may_be_absent() -> None:
    files = {"data/1.csv.gz": gzip.compress(b'"b","a.jpg"\n')}
    (task,) = listed("inventory-short", files, manifest(files, fileSchema="Bucket, Key"))
    assert task == ImageTask("a.jpg", "memory://b/a.jpg", 0, "")


def test_a_downloaded_inventory_names_objects_on_s3(tmp_path: Path) -> None:
    data = csv_data()
    folder = tmp_path / "photos" / "daily"
    (folder / "2024-05-01T00-00Z").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "1.csv.gz").write_bytes(data)
    path = folder / "2024-05-01T00-00Z" / "manifest.json"
    path.write_bytes(manifest({"prefix/photos/daily/data/1.csv.gz": data}))
    listing = open_source(SourceConfig(url=str(path)))
    tasks = list(listing.iterate())
    assert listing.root_url == str(folder)
    assert [task.key for task in tasks] == [f"s3://photos/{source}" for source, _, _ in TAKEN]


@pytest.mark.parametrize(
    ("stored", "changes", "message"),
    [
        pytest.param(csv_data(), {"fileFormat": "ORC"}, "'orc' is not supported; choose CSV or Parquet", id="orc"),
        pytest.param(csv_data(), {"fileSchema": "Bucket, Size"}, "no column 'key'", id="no-key"),
        pytest.param(csv_data(), {"files": "none"}, "not an S3 Inventory manifest", id="no-files"),
        pytest.param(None, {}, "data file memory://.*/data/1.csv.gz is missing", id="missing"),
        pytest.param(csv_data()[:-30], {}, "does not match its MD5", id="md5"),
        pytest.param(csv_data()[:-30], NO_MD5, "cannot be read", id="cut"),
        pytest.param(b"plain text", NO_MD5, "cannot be read", id="no-gzip"),
        pytest.param(gzip.compress(b'"b"\n', mtime=0), NO_MD5, "a row has 1 of 6 columns", id="short-row"),
        pytest.param(gzip.compress(b'"b","%FF"\n', mtime=0), NO_MD5, "cannot be read", id="no-utf8"),
        pytest.param(b"PAR1", NO_MD5 | {"fileFormat": "Parquet"}, "cannot be read", id="no-parquet"),
        pytest.param(
            parquet_without_bucket(), NO_MD5 | {"fileFormat": "Parquet"}, "no column 'bucket'", id="no-bucket"
        ),
        pytest.param(gzip.compress(b'"b","a.jpg","big"\n', mtime=0), NO_MD5, "cannot be read", id="size"),
    ],
)
def test_damage_is_named_in_one_line(
    request: pytest.FixtureRequest, stored: bytes | None, changes: dict[str, object], message: str
) -> None:
    bucket = "inventory-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    files = {} if stored is None else {"data/1.csv.gz": stored}
    with pytest.raises(SourceError, match=message) as caught:
        listed(bucket, files, manifest({"data/1.csv.gz": csv_data()}, **changes))
    assert "\n" not in str(caught.value)


def test_names_that_no_store_or_output_can_have_are_counted() -> None:
    keys = ["/a.jpg", "x/../b.jpg", "s3://c.jpg", "bell\x07.jpg", "good//d.jpg"]
    files = {"data/1.csv.gz": csv_data([("b", key, 1, "e", True, False) for key in keys])}
    store = open_store("memory://inventory-names", StorageConfig())
    store.replace("data/1.csv.gz", files["data/1.csv.gz"])
    store.replace("inv/manifest.json", manifest(files))
    listing = open_source(SourceConfig(url="memory://inventory-names/inv/manifest.json"))
    assert [task.source for task in listing.iterate()] == ["good//d.jpg"]
    assert listing.counts.num_unusable == 4
    assert listing.counts.unusable_examples == ["/a.jpg", "x/../b.jpg", "s3://c.jpg", "bell\\x07.jpg"]
    assert listing.num_ignored == 0


def test_a_manifest_that_is_no_json() -> None:
    with pytest.raises(SourceError, match="not an S3 Inventory manifest"):
        listed("inventory-text", {}, b"hello")


def test_inventories_that_were_put_together_give_each_object_once() -> None:
    old = ("photos", "2024/a b+ü.jpg", 10, "e0", False, False)  # an earlier version is no contradiction
    files = {"data/1.csv.gz": csv_data(ROWS), "data/2.csv.gz": csv_data([old, *ROWS])}
    tasks = listed("twice", files, manifest(files))
    assert [(task.source, task.size_bytes, task.etag) for task in tasks] == TAKEN


@pytest.mark.parametrize(("bucket", "size", "etag"), [("photos", 10, "e9"), ("photos", 9, "e1"), ("other", 10, "e1")])
def test_an_object_that_is_listed_in_two_ways_is_refused_by_name(bucket: str, size: int, etag: str) -> None:
    other = (bucket, "2024/a b+ü.jpg", size, etag, True, False)
    files = {"data/1.csv.gz": csv_data(ROWS), "data/2.csv.gz": csv_data([other])}
    with pytest.raises(SourceError, match=r"2024/a b\+ü\.jpg is listed more than once, with another bucket, size or"):
        listed(f"ways-{bucket}-{size}-{etag}", files, manifest(files))
