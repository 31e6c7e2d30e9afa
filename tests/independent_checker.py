"""Is a destination whole? Asked with code of its own, which reads only the store and imports nothing of hdrfleet."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
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
_PART = re.compile(r"manifest/plan=(?P<plan>\d+)/shard-(?P<shard>\d+)\.parquet")

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
        found = {
            item["Key"].removeprefix(self.prefix): (item["ETag"], item["LastModified"])
            for page in pages
            for item in page.get("Contents", ())
        }
        # Times are whole seconds: what is written from here on shall have another than what was just written.
        newest = max((changed.timestamp() for _, changed in found.values()), default=0.0)
        while time.time() < int(newest) + 1:
            time.sleep(0.02)
        return found

    def read(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"].read())

    def leftovers(self) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


def rows_in(reader: Reader) -> list[Row]:
    """Every committed row of every plan: those of the newest generation's files and of the parts beside it."""
    keys = sorted(reader.stamps())
    heads = sorted((int(Path(key).stem), key) for key in keys if key.startswith("manifest/head/"))
    files: list[str] = []
    covered: set[tuple[int, int]] = set()
    if heads:
        head = json.loads(reader.read(heads[-1][1]))
        files = [file["key"] for file in head["files"]]
        for plan, ranges in head["covered"].items():
            covered |= {(int(plan), shard) for first, last in ranges for shard in range(first, last + 1)}
    rows: list[Row] = []
    for key in files:
        rows += pq.read_table(io.BytesIO(reader.read(key))).to_pylist()
    for key in (key for key in keys if key.startswith("manifest/plan=")):
        part = _PART.fullmatch(key)
        assert part, f"no name of a part: {key}"
        if (int(part["plan"]), int(part["shard"])) not in covered:
            rows += pq.read_table(io.BytesIO(reader.read(key))).to_pylist()
    twice = [key for key, number in Counter((row["plan"], row["source"]) for row in rows).items() if number > 1]
    assert not twice, f"more than one row of a source in a plan: {twice}"
    return rows


def current(rows: list[Row]) -> list[Row]:
    """The row of each source that counts: that of the latest plan."""
    latest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["plan"]):
        latest[row["source"]] = row
    return list(latest.values())


def require_whole(reader: Reader, inputs: Mapping[str, bytes], *, num_leftovers: int = 0) -> list[Row]:
    """Return all rows; each input has a current one. AssertionError says what is lost, twice, damaged, or too much.

    `num_leftovers` temporary files or uploads may be there. Outputs of earlier revisions have to be there too, unless
    their rows say that they were collected.
    """
    rows = rows_in(reader)
    found = {row["source"] for row in current(rows)}
    assert found == set(inputs), f"without a row: {set(inputs) - found}; without an input: {found - set(inputs)}"
    for row in current(rows):
        digest = hashlib.sha256(inputs[row["source"]]).hexdigest()
        assert row["source_sha256"] in {None, digest}, f"another source: {row}"
    for row in rows:
        assert (row["status"] == "ok") == (row["output"] is not None) == (row["error_code"] is None), f"unclear: {row}"
    kept = [row for row in rows if row["status"] == "ok" and not row["collected_at"]]
    for row in kept:
        _require_output(reader.read(row["output"]), row)
    stored = {key for key in reader.stamps() if key.startswith("images/")}
    assert stored == {row["output"] for row in kept}, "objects that no row names, or rows without one"
    assert len(reader.leftovers()) <= num_leftovers, f"left behind: {reader.leftovers()}"
    return rows


def comparable(rows: list[Row]) -> list[Row]:
    """The rows by source, without what depends on the run."""
    dropped = {name for row in rows for name in row if name.endswith(("_ms", "_at"))} | _OF_THE_RUN
    return sorted(({k: v for k, v in row.items() if k not in dropped} for row in rows), key=lambda row: row["source"])


@dataclass(frozen=True)
class Durable:
    """What a destination held when a job had been broken off."""

    stamps: dict[str, object]
    committed: frozenset[str]

    @classmethod
    def of(cls, reader: Reader) -> Durable:
        committed = frozenset(row["output"] for row in rows_in(reader) if row["output"])
        stamps = {key: stamp for key, stamp in reader.stamps().items() if not key.startswith("_hdrfleet/lease/")}
        return cls(stamps, committed)

    def require_unwritten(self, reader: Reader) -> None:
        """Nothing was written again."""
        after = reader.stamps()
        assert {key: after.get(key) for key in self.stamps} == self.stamps, "written again"

    def require_kept(self, reader: Reader, rows: list[Row]) -> None:
        """Nothing was written again, and no image was computed again whose output was there."""
        self.require_unwritten(reader)
        stored = {key for key in self.stamps if key.startswith("images/")}
        # Workers that outlive their driver for a moment may have stored more.
        assert stored - self.committed <= {row["output"] for row in rows if row["adopted"]}, "computed again"


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
