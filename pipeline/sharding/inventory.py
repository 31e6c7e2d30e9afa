"""S3 Inventory: the listing that S3 writes of a whole bucket, so that nothing has to be listed request by request.

The source is the URL of an inventory's `manifest.json`. Data files are CSV (gzip, no header, keys URL-encoded) or
Parquet; ORC is refused. Delete markers and versions that are not the latest are skipped. Format:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectMissingError, SourceError, first_line
from pipeline.records import ImageTask
from pipeline.sharding.duplicates import without_duplicates
from pipeline.sharding.locations import LOCAL_SCHEME, Location, join_root
from pipeline.storage.base import ObjectStore

# CSV names its columns in CamelCase, Parquet in snake_case; compared without case and underscores.
_COLUMNS = ("bucket", "key", "size", "etag", "islatest", "isdeletemarker")
_REQUIRED = ("bucket", "key")
_FORMATS = ("csv", "parquet")

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inventory:
    """A parsed `manifest.json`: the data files (key, MD5 in hex or empty) of one bucket's inventory."""

    location: Location
    file_format: str
    csv_columns: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def parse_manifest(data: bytes, location: Location) -> Inventory:
    """Parse the `manifest.json` that lies at `location`. Raises SourceError in one line when it is not one."""
    try:
        manifest = json.loads(data)
        file_format = str(manifest["fileFormat"]).lower()
        files = tuple((str(file["key"]), str(file.get("MD5checksum", "")).lower()) for file in manifest["files"])
        columns = tuple(_plain(name) for name in str(manifest["fileSchema"]).split(",")) if file_format == "csv" else ()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{location.url}: not an S3 Inventory manifest (fileFormat, fileSchema, files)") from error
    if file_format not in _FORMATS:
        raise SourceError(f"{location.url}: inventory format {file_format!r} is not supported; choose CSV or Parquet")
    if file_format == "csv" and (missing := [name for name in _REQUIRED if name not in columns]):
        raise SourceError(f"{location.url}: the inventory has no column {missing[0]!r}")
    return Inventory(location, file_format, columns, files)


def iterate_inventory(store: ObjectStore, inventory: Inventory) -> Iterator[ImageTask]:
    """Yield the current objects of the inventory in its own order, each once, with one data file in memory at a time.

    One that is listed twice alike, as in inventories that were put together, is one. 16 bytes are kept of each.

    `source` is the object's key; `key` its whole URL, for `RoutedStore`, in the scheme of the inventory (`s3` for one
    that was downloaded). An inventory without sizes or etags yields 0 and `''`: without etags a changed image cannot
    be noticed. `store` reads absolute paths and URLs. Raises SourceError for a data file that is missing or damaged,
    and for a key that is listed twice with another bucket, size or etag.
    """
    again = partial(_listed, store, inventory)
    return without_duplicates(again(), again, inventory.location.url)


def _listed(store: ObjectStore, inventory: Inventory) -> Iterator[ImageTask]:
    """Every current object, as often as the inventory lists it."""
    location = inventory.location
    scheme = "s3" if location.scheme == LOCAL_SCHEME else location.scheme
    for key, md5 in inventory.files:
        data = _read_data_file(store, location, key)
        if md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise SourceError(f"{location.url}: data file {key!r} does not match its MD5")
        try:
            rows = _csv_rows(data, inventory.csv_columns) if inventory.file_format == "csv" else _parquet_rows(data)
            for row in rows:
                if task := _task(row, scheme):
                    yield task
        except (OSError, EOFError, zlib.error, ValueError, csv.Error, pa.ArrowException) as error:
            raise SourceError(f"{location.url}: data file {key!r} cannot be read: {first_line(error)}") from error


def _read_data_file(store: ObjectStore, location: Location, key: str) -> bytes:
    """Data files are named by their key in the manifest's bucket; a downloaded inventory keeps them in `../data`."""
    url = join_root(location.root, key)
    if location.scheme == LOCAL_SCHEME:
        parent = posixpath.dirname(posixpath.dirname(location.key))
        url = join_root(location.root, posixpath.join(parent, "data", posixpath.basename(key)))
    try:
        return store.read(url)
    except ObjectMissingError as error:
        raise SourceError(f"{location.url}: data file {url} is missing") from error


def _csv_rows(data: bytes, columns: tuple[str, ...]) -> Iterator[_Row]:
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as text:
        for cells in csv.reader(text, strict=True):
            row: _Row = dict(zip(columns, cells, strict=False))
            if not all(row.get(name) for name in _REQUIRED):
                msg = f"a row has {len(cells)} of {len(columns)} columns"
                raise ValueError(msg)
            row["key"] = unquote_plus(row["key"], errors="strict")
            yield row


def _parquet_rows(data: bytes) -> Iterator[_Row]:
    file = pq.ParquetFile(io.BytesIO(data))
    names = {name: _plain(name) for name in file.schema_arrow.names if _plain(name) in _COLUMNS}
    if missing := set(_REQUIRED) - set(names.values()):
        msg = f"no column {min(missing)!r}"
        raise ValueError(msg)
    for batch in file.iter_batches(columns=list(names)):
        for values in batch.to_pylist():
            yield {names[name]: value for name, value in values.items()}


def _task(row: _Row, scheme: str) -> ImageTask | None:
    if not _flag(row.get("islatest"), default=True) or _flag(row.get("isdeletemarker"), default=False):
        return None
    size_bytes = int(row.get("size") or 0)
    etag = str(row.get("etag") or "").strip('"')
    return ImageTask(row["key"], f"{scheme}://{row['bucket']}/{row['key']}", size_bytes, etag)


def _flag(value: object, *, default: bool) -> bool:
    if value is None or value == "":
        return default
    return value is True or str(value).lower() == "true"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "")
