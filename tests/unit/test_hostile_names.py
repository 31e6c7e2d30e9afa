"""Whatever a source is called, its output lies below DST, is its own, and has a row."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from fakes import FakeEngine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from photographs import jpeg, picture

from pipeline.codecs.exr import decode_exr, read_exr_identity
from pipeline.config import StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.manifest import open_manifest
from pipeline.records import ImageTask, Provenance, Shard
from pipeline.sharding.names import output_key
from pipeline.storage import ObjectInfo, ObjectStore, open_store

HOSTILE = (
    "../../../../../../tmp/hdrfleet-escaped.jpg",
    "/tmp/hdrfleet-escaped.jpg",
    "..\\..\\escaped.jpg",
    "a/../../../escaped.jpg",
    "file:///tmp/hdrfleet-escaped.jpg",
    "%2e%2e/%2e%2e/escaped.jpg",
    "line\nbreak\r\x1b[31m\x00.jpg",
    "manifest/plan=1/shard-000000.parquet",
    "../_hdrfleet/job.json",
    "é" * 510 + ".jpg",
    "/".join(["é" * 63] * 8),
    "\u202egpj.exe",
    "CON/aux. /b.jpg ",
)
TEXT = st.text(st.characters(codec=None, categories=None), max_size=30)
NAMES = st.lists(st.sampled_from(["..", ".", "/", "\\", "%2e", "\0", "\n", "a", "~", ":", "c:"]) | TEXT, max_size=12)


def convert(
    source: ObjectStore, destination: ObjectStore, tasks: tuple[ImageTask, ...]
) -> dict[str, dict[str, object]]:
    config = build_config(source={"url": "s"}, destination={"url": "d"})
    converter = ShardConverter(
        source=source,
        destination=destination,
        engine=FakeEngine(),
        config=config,
        provenance=Provenance("0", "fake", "0" * 64, config.pixel_digest(), "w", "n"),
    )
    converter.run(Shard(1, 0, tasks))
    converter.close()
    return {str(row["source"]): row for row in open_manifest(destination).current.to_pylist()}


def put(store: ObjectStore, names: tuple[str, ...]) -> tuple[ImageTask, ...]:
    """One image of its own for each name, under a plain key."""
    tasks = []
    for index, name in enumerate(names):
        info = store.create(f"{index}.jpg", jpeg(picture(8, 12, index)))
        tasks.append(ImageTask(name, info.key, info.size_bytes, info.etag))
    return tuple(tasks)


def test_hostile_names_are_converted_below_the_destination(tmp_path: Path) -> None:
    source = open_store(f"memory://{uuid4().hex}", StorageConfig())
    root = tmp_path / "a" / "b" / "out"
    destination = open_store(str(root), StorageConfig())
    rows = convert(source, destination, put(source, HOSTILE))
    assert rows.keys() == set(HOSTILE)
    assert {row["status"] for row in rows.values()} == {"ok"}
    outputs = {str(row["output"]) for row in rows.values()}
    assert len(outputs) == len(HOSTILE)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(root) for path in files)
    assert {str(path.relative_to(root)) for path in files if path.is_relative_to(root / "images")} == outputs
    assert not Path("/tmp/hdrfleet-escaped.jpg.exr").exists()


@settings(max_examples=150, deadline=None)
@given(NAMES.map("".join), st.integers(1, 3))
@example("../../x", 1)
@example("\ud800/..", 2)
def test_no_name_leads_out_of_a_folder(name: str, revision: int) -> None:
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent) / "out"
        open_store(str(root), StorageConfig()).create(output_key(name, revision), b"x")
        assert [path.parts[0] for path in (p.relative_to(root) for p in root.iterdir())] == ["images"]
        assert [path.name for path in Path(parent).iterdir()] == ["out"]


@dataclass
class FoldingStore:
    """A store that takes names for equal that differ in case or Unicode form only, as macOS and Windows do."""

    inner: ObjectStore
    url: str = "memory://folding"
    has_atomic_create: bool = True

    @staticmethod
    def fold(key: str) -> str:
        return unicodedata.normalize("NFC", key).casefold()

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        return self.inner.read(self.fold(key), if_match=if_match, max_bytes=max_bytes)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        return self.inner.create(self.fold(key), data, metadata=metadata)

    def __getattr__(self, name: str) -> object:
        if name == "stat":
            return lambda key: self.inner.stat(self.fold(key))
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "names", [("a/IMG.JPG", "a/img.jpg", "A/Img.jpg"), ("caf\u00e9.jpg", "cafe\u0301.jpg"), ("x" * 300, "X" * 300)]
)
def test_names_that_a_file_system_takes_for_one_get_outputs_of_their_own(names: tuple[str, ...]) -> None:
    source, inner = (open_store(f"memory://{uuid4().hex}", StorageConfig()) for _ in range(2))
    destination = FoldingStore(inner)
    rows = convert(source, destination, put(source, names))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len({FoldingStore.fold(str(row["output"])) for row in rows.values()}) == len(names)
    for row in rows.values():
        stored = destination.read(str(row["output"]))
        assert decode_exr(stored).image.pixels.shape == (8, 12, 3)
        assert read_exr_identity(stored).source_sha256 == row["source_sha256"]
