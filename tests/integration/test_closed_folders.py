"""A source with folders that may not be read and names that cannot be used: what is done again looks past them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture
from unprivileged import without_override

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

RUN = ("--executor", "local", "--quiet")
CONVERT = ("--weights", "identity", *RUN)
SOUND = jpeg(picture(16, 24))


@pytest.fixture(autouse=True)
def closed_to_us() -> Iterator[None]:
    with without_override():
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One sound image, two that fail, one in a folder of its own; and what `convert` has to be told to leave out."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(SOUND)
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "sub/bad.jpg").write_bytes(b"no image")
    (folder / "left out").mkdir()
    (folder / "left out/\x01.jpg").write_bytes(SOUND)
    (folder / ".Trashes").mkdir(mode=0)
    return folder


@pytest.fixture
def converted(tmp_path: Path, photos: Path) -> Path:
    options = (*CONVERT, "--exclude", "**/.Trashes/**", "--exclude", "left out/**")
    assert hdrfleet_here("convert", photos, tmp_path / "hdr", *options) == 3
    assert codes(tmp_path / "hdr") == {
        "a.jpg": None,
        "bad.jpg": "unsupported_format",
        "sub/bad.jpg": "unsupported_format",
    }
    return tmp_path / "hdr"


def codes(dst: Path) -> dict[str, str | None]:
    rows = open_manifest(open_store(str(dst), StorageConfig())).current.to_pylist()
    return {row["source"]: row["error_code"] for row in rows}


def test_retry_needs_no_option_for_what_convert_was_told_to_leave_out(converted: Path, photos: Path) -> None:
    for name in ("bad.jpg", "sub/bad.jpg"):
        (photos / name).write_bytes(SOUND)
    assert hdrfleet_here("retry", converted, *RUN) == 0
    assert set(codes(converted).values()) == {None}


def test_repair_needs_none_either(converted: Path, photos: Path) -> None:
    (converted / "images/a.jpg.exr").unlink()
    assert hdrfleet_here("repair", converted, *RUN) == 0
    assert (converted / "images/a.jpg.v2.exr").is_file()
    assert codes(converted)["a.jpg"] is None


def test_what_a_later_filter_leaves_out_is_retried_where_it_can_be_read(
    converted: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "sub").chmod(0)
    options = ("--exclude", "**/.Trashes/**", "--exclude", "left out/**", "--exclude", "sub/**")
    assert hdrfleet_here("convert", photos, converted, *CONVERT, *options) == 3
    (photos / "bad.jpg").write_bytes(SOUND)
    capsys.readouterr()
    assert hdrfleet_here("retry", converted, "--executor", "local") == 3
    says = "1 failed image no longer in the source, or in a folder of it that may not be read, such as sub"
    assert says in capsys.readouterr().err
    assert codes(converted) == {"a.jpg": None, "bad.jpg": None, "sub/bad.jpg": "unsupported_format"}
    (photos / "sub").chmod(0o755)
    (photos / "sub/bad.jpg").write_bytes(SOUND)
    assert hdrfleet_here("retry", converted, *RUN) == 0
    assert set(codes(converted).values()) == {None}


def test_a_repair_whose_source_cannot_be_opened_records_nothing(
    converted: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (converted / "images/a.jpg.exr").unlink()
    photos.rename(photos.with_name("elsewhere"))
    assert hdrfleet_here("repair", converted, *RUN) == 2
    assert not (converted / "_hdrfleet/distrusted").exists()
    photos.with_name("elsewhere").rename(photos)
    capsys.readouterr()
    assert hdrfleet_here("repair", converted, "--json", *RUN) == 0
    assert json.loads(capsys.readouterr().out)["num_replaced"] == 1
