"""One contract for every executor: the whole path from files to EXRs, manifest, resume and incremental runs."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from photographs import jpeg, picture, pq_png, tiff, write_library

from jobs.convert import ConversionOutcome, run_conversion
from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig, build_config
from pipeline.errors import DestinationError
from pipeline.manifest import RUN_COLUMNS, open_manifest, run_query
from pipeline.storage import open_store


class QuietReporter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.counts: list[object] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def job(self, job_id: str) -> None:
        self.notes.append(job_id)

    def finished(self, exit_code: int, seconds: float) -> None:
        self.notes.append(f"exit code {exit_code}")

    def watch(self, num_images: int) -> QuietReporter:
        return self

    def __enter__(self) -> QuietReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def __call__(self, counts: object) -> None:
        self.counts.append(counts)


def convert(src: str | Path, dst: str | Path, executor: str, **parts: dict[str, object]) -> ConversionOutcome:
    parts.setdefault("inference", {"device": "cpu", "precision": "fp32"})
    parts.setdefault("sharding", {"max_images": 4})
    execution = {"executor": executor, **parts.pop("execution", {})}
    config = build_config(source={"url": str(src)}, destination={"url": str(dst)}, execution=execution, **parts)
    return run_conversion(config, QuietReporter())


def manifest(dst: str | Path) -> pa.Table:
    return open_manifest(open_store(str(dst), StorageConfig())).current.sort_by("source")


def history(dst: str | Path) -> pa.Table:
    return open_manifest(open_store(str(dst), StorageConfig())).history


def comparable(table: pa.Table) -> list[dict[str, object]]:
    return table.drop_columns(sorted(RUN_COLUMNS & set(table.column_names))).to_pylist()


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return request.param


@pytest.fixture
def library(tmp_path: Path) -> tuple[Path, dict[str, str | None]]:
    folder = tmp_path / "photos"
    return folder, write_library(folder)


def test_every_input_becomes_one_row_and_good_ones_a_linear_exr(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, expected = library
    outcome = convert(src, tmp_path / "out", executor, encode={"verify": "all"}, model={"weights": "identity"})
    rows = manifest(tmp_path / "out").to_pylist()
    assert {row["source"]: row["error_code"] for row in rows} == expected
    assert outcome.exit_code == 3
    assert outcome.num_ignored == 1
    store = open_store(str(tmp_path / "out"), StorageConfig())
    for row in rows:
        if row["status"] == "ok":
            assert row["verified"]
            image = decode_exr(store.read(row["output"])).image.pixels
            assert image.shape == (row["height"], row["width"], 3)
    stored = decode_exr(store.read("images/dot.png.exr")).image.pixels
    np.testing.assert_allclose(stored, (200 / 255) ** 2.24, rtol=1e-3)


def stamps(dst: Path) -> dict[Path, int]:
    """When each file was written; every run has a lease of its own."""
    files = (path for path in dst.rglob("*") if path.is_file() and path.parent.name != "lease")
    return {path: path.stat().st_mtime_ns for path in files}


def test_running_again_does_nothing_and_says_the_same(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, _ = library
    convert(src, tmp_path / "out", executor)
    before = stamps(tmp_path / "out")
    again = convert(src, tmp_path / "out", executor)
    assert not again.did_work
    assert again.exit_code == 3
    assert stamps(tmp_path / "out") == before


def test_new_and_changed_sources_make_the_next_plan_and_a_new_revision(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, expected = library
    convert(src, tmp_path / "out", executor)
    old = (tmp_path / "out/images/trip 1/photo_001.jpg.exr").read_bytes()
    (src / "trip 1/photo_001.jpg").write_bytes(jpeg(picture(48, 64, seed=77)))
    (src / "later.jpg").write_bytes(jpeg(picture(16, 16, seed=78)))
    outcome = convert(src, tmp_path / "out", executor)
    assert outcome.num_planned == 2
    rows = {row["source"]: row for row in manifest(tmp_path / "out").to_pylist()}
    assert len(rows) == len(expected) + 1
    changed = rows["trip 1/photo_001.jpg"]
    assert (changed["plan"], changed["revision"]) == (2, 2)
    assert changed["output"] == "images/trip 1/photo_001.jpg.v2.exr"
    assert (tmp_path / "out/images/trip 1/photo_001.jpg.exr").read_bytes() == old
    assert rows["later.jpg"]["plan"] == 2
    assert len(history(tmp_path / "out")) == len(expected) + 2


def test_a_source_that_was_only_touched_keeps_its_output(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, _ = library
    convert(src, tmp_path / "out", executor)
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.exr")}
    (src / "dot.png").touch()
    convert(src, tmp_path / "out", executor)
    row = next(row for row in manifest(tmp_path / "out").to_pylist() if row["source"] == "dot.png")
    assert (row["plan"], row["revision"], row["adopted"], row["output"]) == (2, 1, True, "images/dot.png.exr")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.exr")} == images


def test_an_uncommitted_shard_adopts_what_was_stored(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, _ = library
    convert(src, tmp_path / "out", executor)
    before = manifest(tmp_path / "out")
    part = tmp_path / "out/manifest/plan=1/shard-000001.parquet"
    lost = [row for row in before.to_pylist() if row["shard"] == 1]
    part.unlink()
    modified = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.exr")}
    outcome = convert(src, tmp_path / "out", executor)
    assert outcome.run.num_shards == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").rglob("*.exr")} == modified
    after = manifest(tmp_path / "out")
    assert comparable(after) == comparable(before)
    adopted = [row["source"] for row in after.to_pylist() if row["adopted"]]
    assert adopted == [row["source"] for row in lost if row["status"] == "ok"]


def test_other_pixels_for_one_destination_are_refused_by_name(
    executor: str, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, _ = library
    convert(src, tmp_path / "out", executor)
    with pytest.raises(DestinationError, match=r"exposure_ev is 0\.0 there and 2\.0 here"):
        convert(src, tmp_path / "out", executor, encode={"exposure_ev": 2.0})


def test_every_input_that_is_hdr_already_is_found_by_its_warnings(tmp_path: Path) -> None:
    photos, made = tmp_path / "photos", tmp_path / "made"
    photos.mkdir()
    (photos / "plain.jpg").write_bytes(jpeg(picture(16, 16)))
    assert convert(photos, made, "local").exit_code == 0
    gradient = np.linspace(0, 4, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    files = {
        "float.tif": tiff(gradient),
        "half.tif": tiff(gradient.astype(np.float16)),
        "exr.png": (made / "images" / "plain.jpg.exr").read_bytes(),
        "rgbe.png": bytes(imagecodecs.rgbe_encode(gradient)),
        "pq.png": pq_png(picture(16, 16)),
        "plain.tif": tiff(picture(16, 16)),
        "text.jpg": b"this is a text file",
    }
    for name, data in files.items():
        (photos / name).write_bytes(data)
    convert(photos, tmp_path / "hdr", "local")
    rows = manifest(tmp_path / "hdr").to_pylist()
    found = {row["source"]: (row["error_code"], row["warnings"]) for row in rows}
    refused = ("already_hdr_float", ["already_hdr_float"])
    assert found == {
        **dict.fromkeys(("float.tif", "half.tif", "exr.png", "rgbe.png"), refused),
        "pq.png": ("already_hdr_transfer", ["already_hdr_transfer"]),
        **dict.fromkeys(("plain.jpg", "plain.tif"), (None, [])),
        "text.jpg": ("unsupported_format", []),
    }
    # The query of docs/manifest.md.
    sql = "SELECT source FROM manifest WHERE warnings::text LIKE '%already_hdr%' ORDER BY source"
    hdr = run_query(open_manifest(open_store(str(tmp_path / "hdr"), StorageConfig())), sql)["source"].to_pylist()
    assert hdr == ["exr.png", "float.tif", "half.tif", "pq.png", "rgbe.png"]


def test_both_executors_give_the_same_rows_and_the_same_bytes(
    ray_here: None, library: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    src, _ = library
    for name in ("local", "ray"):
        convert(src, tmp_path / name, name)
    assert comparable(manifest(tmp_path / "local")) == comparable(manifest(tmp_path / "ray"))
    files = {name: sorted((tmp_path / name / "images").rglob("*.exr")) for name in ("local", "ray")}
    assert [path.read_bytes() for path in files["local"]] == [path.read_bytes() for path in files["ray"]]


def test_the_outcome_is_json(library: tuple[Path, dict[str, str | None]], tmp_path: Path) -> None:
    outcome = convert(library[0], tmp_path / "out", "local")
    document = json.loads(json.dumps(outcome.to_json()))
    assert document["exit_code"] == 3
    assert document["manifest"]["num_by_status"] == {"ok": 11, "failed": 3}
