"""A destination on a file system that takes folders for one that differ in case alone, as macOS and Windows do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from photographs import jpeg, picture
from test_verify import codes, convert, plan, repair

from pipeline.collection import collect
from pipeline.collection.revisions import find_given_up, mark_superseded
from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.manifest.distrusted import record_distrust
from pipeline.outputs import OutputStore
from pipeline.storage import open_store
from pipeline.storage.local import LocalStore

NAMES = ("A/x.jpg", "A/y.jpg", "a/y.jpg", "a/z.jpg", "caf\u00e9/1.jpg", "cafe\u0301/2.jpg")


def fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def preserving_path(self: LocalStore, key: str) -> Path:
    """The path as such a file system finds it: what is there keeps the name that it was made with."""
    path = Path(self.url)
    for part in key.split("/"):
        there = [] if (path / part).exists() or not path.is_dir() else sorted(path.iterdir())
        path = next((each for each in there if fold(each.name) == fold(part)), path / part)
    return path


@pytest.fixture
def destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for seed, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture(16, 24, seed=seed)))
    with monkeypatch.context() as patched:
        for folder in ("A", "caf\u00e9"):  # so that no two are made at once, which only the simulation would let be two
            (tmp_path / "hdr/images" / folder).mkdir(parents=True)
        patched.setattr(LocalStore, "_path", preserving_path)
        convert(tmp_path / "photos", tmp_path / "hdr")
        yield tmp_path / "hdr"


def outputs(destination: Path) -> dict[str, str]:
    rows = open_manifest(open_store(str(destination), StorageConfig())).current.to_pylist()
    return {row["source"]: row["output"] for row in rows}


def folders(destination: Path) -> list[Path]:
    """Those that are there, of which each has outputs that belong into another: who is first gives the name."""
    return sorted((destination / "images").iterdir(), key=lambda path: fold(path.name))


def test_it_is_sound_and_nothing_of_it_is_an_orphan(destination: Path) -> None:
    found = outputs(destination)
    assert len({fold(output) for output in found.values()}) == len(NAMES)
    assert sorted(output.count(".v2.") for source, output in found.items() if "y" in source) == [0, 1]
    assert [fold(path.name) for path in folders(destination)] == ["a", "caf\u00e9"]
    assert codes(destination) == {}


def test_no_output_is_deleted_beside_a_real_orphan(destination: Path) -> None:
    orphan = folders(destination)[0] / "stranger.exr"
    orphan.write_bytes(b"not ours")
    before = {path: path.read_bytes() for path in destination.joinpath("images").rglob("*.exr") if path != orphan}
    assert len(before) == len(NAMES)
    assert codes(destination) == {str(orphan.relative_to(destination)): "orphan"}
    assert repair(destination, delete_orphans=True).num_deleted == 1
    assert {path: path.read_bytes() for path in destination.joinpath("images").rglob("*.exr")} == before


@pytest.fixture
def with_old_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/A.jpg` was changed, and a collection has marked its first output and then died."""
    monkeypatch.setattr(LocalStore, "_path", preserving_path)
    photos, destination = tmp_path / "photos", tmp_path / "hdr"
    photos.mkdir()
    for seed in (1, 2):
        photos.joinpath("A.jpg").write_bytes(jpeg(picture(16, 24, seed=seed)))
        convert(photos, destination)
    store = open_store(str(destination), StorageConfig())
    now = datetime.now(UTC) + timedelta(seconds=5)
    assert mark_superseded(store, 1, now, now) == 1
    photos.joinpath("A.jpg").unlink()
    photos.joinpath("a.jpg").write_bytes(jpeg(picture(16, 24, seed=1)))  # what the marked output was made of
    return destination


def test_what_a_collection_gave_up_is_not_adopted_under_another_name(with_old_revision: Path, tmp_path: Path) -> None:
    convert(tmp_path / "photos", with_old_revision)
    assert outputs(with_old_revision)["a.jpg"].casefold() == "images/a.jpg.v3.exr"
    removed = collect(open_store(str(with_old_revision), StorageConfig()), older_than=timedelta(0))
    assert removed.num_outputs == 1
    assert codes(with_old_revision) == {}


def test_what_a_repair_found_bad_is_not_adopted_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "_path", preserving_path)
    photos, destination = tmp_path / "photos", tmp_path / "hdr"
    photos.mkdir()
    for name in ("A.jpg", "a.jpg"):
        photos.joinpath(name).write_bytes(jpeg(picture(16, 24, seed=1)))
        convert(photos, destination)
        photos.joinpath(name).unlink()
        record_distrust(open_store(str(destination), StorageConfig()), ["images/A.jpg.exr"])
    assert outputs(destination) == {"A.jpg": "images/A.jpg.exr", "a.jpg": "images/a.jpg.v2.exr"}


def test_what_was_adopted_under_another_name_is_not_collected(
    with_old_revision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an attempt that did not know of the collection."""
    with monkeypatch.context() as patched:
        patched.setattr(OutputStore, "_is_given_up", lambda _self, _key: False)
        convert(tmp_path / "photos", with_old_revision)
    assert outputs(with_old_revision)["a.jpg"] == "images/a.jpg.exr"
    collect(open_store(str(with_old_revision), StorageConfig()), older_than=timedelta(0))
    assert codes(with_old_revision) == {}


def test_an_output_whose_source_is_in_work_under_another_name_is_not_collected(
    with_old_revision: Path, tmp_path: Path
) -> None:
    store = open_store(str(with_old_revision), StorageConfig())
    assert find_given_up(store) == {"images/A.jpg.exr"}
    plan(tmp_path / "photos", with_old_revision)
    assert find_given_up(store) == set()


@pytest.mark.parametrize("name", ["x", "z"])
@pytest.mark.parametrize("cut", [True, False])
def test_what_is_damaged_or_gone_there_is_found(destination: Path, name: str, cut: bool) -> None:
    path = folders(destination)[0] / f"{name}.jpg.exr"
    if cut:
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    key = next(output for source, output in outputs(destination).items() if name in source)
    assert codes(destination, share=0) == {key: "output_size" if cut else "output_missing"}
