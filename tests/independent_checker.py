"""Is a destination whole? Asked with code of its own, which reads only the store and imports nothing of hdrfleet."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import OpenEXR
import pyarrow.parquet as pq

# What may differ between a job that was broken off and one that was not.
_OF_THE_RUN = frozenset({"attempt", "worker", "node", "adopted", "verified"})
_TEMPORARY = ".hdrfleet-tmp-"

Row = dict[str, Any]


class Reader(Protocol):
    """A destination's objects."""

    def stamps(self) -> dict[str, object]:
        """Every key, and what changes when its object is written again."""
        ...

    def read(self, key: str) -> bytes: ...

    def leftovers(self) -> list[str]:
        """Temporary files, or pending multipart uploads."""
        ...


@dataclass(frozen=True)
class Folder:
    path: Path

    def stamps(self) -> dict[str, object]:
        found = {}
        for path in self.path.rglob("*"):
            if path.is_file() and not path.name.startswith(_TEMPORARY):
                stat = path.stat()
                found[str(path.relative_to(self.path))] = stat.st_ino, stat.st_mtime_ns, stat.st_size
        return found

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.path.rglob(f"{_TEMPORARY}*")]


@dataclass(frozen=True)
class Bucket:
    """`client` is boto3's; `prefix` ends in a slash."""

    client: Any
    name: str
    prefix: str

    def stamps(self) -> dict[str, object]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix)
        return {
            item["Key"].removeprefix(self.prefix): (item["ETag"], item["LastModified"])
            for page in pages
            for item in page.get("Contents", ())
        }

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"].read())

    def leftovers(self) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


def rows_in(reader: Reader) -> list[Row]:
    """All rows of all parts."""
    found: list[Row] = []
    for key in sorted(reader.stamps()):
        if key.startswith("manifest/plan="):
            found += pq.read_table(io.BytesIO(reader.read(key))).to_pylist()
    return found


def require_whole(reader: Reader, inputs: Mapping[str, bytes], *, num_leftovers: int = 0) -> list[Row]:
    """Return the rows, one for each input. AssertionError says what is lost, twice, damaged, or too much.

    `num_leftovers` temporary files or uploads may be there.
    """
    rows = rows_in(reader)
    assert Counter(row["source"] for row in rows) == dict.fromkeys(inputs, 1), "not one row for each input"
    for row in rows:
        data = inputs[row["source"]]
        assert row["source_sha256"] in {None, hashlib.sha256(data).hexdigest()}, f"another source: {row}"
        assert (row["status"] == "ok") == (row["output"] is not None) == (row["error_code"] is None), f"unclear: {row}"
    ok = [row for row in rows if row["status"] == "ok"]
    for row in ok:
        _require_output(reader.read(row["output"]), row)
    stored = {key for key in reader.stamps() if key.startswith("images/")}
    assert stored == {row["output"] for row in ok}, "objects that no row names, or rows without one"
    assert len(reader.leftovers()) <= num_leftovers, f"left behind: {reader.leftovers()}"
    return rows


def comparable(rows: list[Row]) -> list[Row]:
    """The rows by source, without what depends on the run."""
    dropped = {name for row in rows for name in row if name.endswith(("_ms", "_at"))} | _OF_THE_RUN
    return sorted(({k: v for k, v in row.items() if k not in dropped} for row in rows), key=lambda row: row["source"])


def _require_output(data: bytes, row: Row) -> None:
    assert len(data) == row["output_bytes"], f"another size: {row}"
    assert hashlib.sha256(data).hexdigest() == row["output_sha256"], f"other bytes: {row}"
    file = OpenEXR.File(io.BytesIO(data), separate_channels=True)
    header = file.header()
    identity = {name: header[f"hdrfleet.{name}"] for name in ("sourceSha256", "weightsSha256", "pixelDigest")}
    assert identity == {
        "sourceSha256": row["source_sha256"],
        "weightsSha256": row["weights_sha256"],
        "pixelDigest": row["pixel_digest"],
    }, f"another identity: {row}"
    for name in ("R", "G", "B"):
        pixels = file.channels()[name].pixels
        assert pixels.shape == (row["height"], row["width"]), f"another shape: {row}"
        assert np.isfinite(pixels).all(), f"not finite: {row}"
        assert pixels.any(), f"black: {row}"
