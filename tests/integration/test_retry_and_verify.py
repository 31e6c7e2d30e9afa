"""After a conversion: retry what failed, and prove that the destination is whole. In-process, on files and moto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture, write_library
from safetensors.torch import save_file

from pipeline.config import StorageConfig
from pipeline.job import read_job
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

NUM_PHOTOS = 8  # of 64 x 48 px, above the limit as the truncated file is; the others are below it
NUM_LARGE = NUM_PHOTOS + 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fakes import tiny_network

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tiny_network().state_dict(), path)
    return path


def rows(dst: str | Path) -> dict[str, dict[str, Any]]:
    current = open_manifest(open_store(str(dst), StorageConfig())).current
    return {row["source"]: row for row in current.to_pylist()}


def codes(dst: str | Path) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for row in rows(dst).values():
        found[row["error_code"]] = found.get(row["error_code"], 0) + 1
    return found


@pytest.fixture
def converted(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job that was started with relative paths and a limit that refuses eight pictures."""
    write_library(tmp_path / "photos", NUM_PHOTOS)
    monkeypatch.chdir(tmp_path)
    arguments = ("--weights", "../" + str(weights.relative_to(tmp_path.parent)), "--max-pixels", "2000")
    assert hdrfleet_here("convert", "photos", "hdr", *arguments, "--executor", "local", "--quiet") == 3
    assert codes("hdr") == {None: 3, "too_large": NUM_LARGE, "empty": 1, "unsupported_format": 1}
    monkeypatch.chdir("/")
    return tmp_path / "hdr"


def test_failures_of_one_code_are_converted_again_and_nothing_else(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(converted)
    assert hdrfleet_here("retry", converted, "--code", "too_large", "--max-pixels", "10000", "--json", "-q") == 3
    result = json.loads(capsys.readouterr().out)
    assert result["num_planned"] == NUM_LARGE
    after = rows(converted)
    for source, row in before.items():
        if source == "bad/truncated.jpg":
            assert after[source]["error_code"] == "decode_truncated"
        elif row["error_code"] == "too_large":
            assert (after[source]["status"], after[source]["plan"], after[source]["revision"]) == ("ok", 2, 1)
            assert after[source]["output"] == f"images/{source}.exr"
        else:
            assert after[source] == row
    assert len(open_manifest(open_store(str(converted), StorageConfig())).history) == len(before) + NUM_LARGE
    assert hdrfleet_here("verify", converted, "--deep", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["is_sound"]
    assert (report["num_rows"], report["num_decoded"]) == (len(before) + NUM_LARGE, 3 + NUM_PHOTOS)


def test_without_a_code_every_failure_is_tried_and_mended_files_convert(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (converted.parent / "photos/bad/truncated.jpg").write_bytes(jpeg(picture(16, 16)))
    (converted.parent / "photos/bad/empty.jpg").unlink()
    assert hdrfleet_here("retry", converted, "--max-pixels", "10000") == 3
    told = capsys.readouterr()
    assert "1 failed image no longer in the source" in told.err
    assert codes(converted) == {None: 4 + NUM_PHOTOS, "empty": 1, "unsupported_format": 1}
    assert rows(converted)["bad/truncated.jpg"]["revision"] == 1
    # New and changed sources are for `convert`.
    (converted.parent / "photos/new.jpg").write_bytes(jpeg(picture(16, 16)))
    assert hdrfleet_here("retry", converted, "-q") == 3
    assert "new.jpg" not in rows(converted)


def test_a_code_that_nothing_failed_with_is_refused_by_name(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here("retry", converted, "--code", "typo") == 2
    message = capsys.readouterr().err
    assert "--code typo: no image failed with it" in message
    assert "there are: empty, too_large, unsupported_format" in message
    assert len(message.strip().splitlines()) == 1


def test_retry_needs_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("retry", tmp_path) == 2
    assert hdrfleet_here("verify", tmp_path) == 2
    assert capsys.readouterr().err.count("holds no conversion") == 2


def test_other_weights_are_refused(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("retry", converted, "--weights", "identity") == 2
    assert "weights are tiny.safetensors" in capsys.readouterr().err


def test_what_verify_finds_is_told_and_exits_with_3(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (converted / "images/dot.png.exr").unlink()
    (converted / "images/stranger.exr").write_bytes(b"x")
    assert hdrfleet_here("verify", converted) == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{converted}: not sound; 14 rows of 1 plan, 3 outputs")
    assert "output_missing  images/dot.png.exr: its row is there, the object is not" in told
    assert any(line.startswith("orphan  images/stranger.exr: ") for line in told)
    assert hdrfleet_here("verify", converted, "--sample", "lots") == 2


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_a_bucket_is_verified(
    s3_bucket: Any, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_library(tmp_path / "photos", 2)
    dst = f"{s3_bucket.url}/hdr"
    arguments = ("--weights", weights, "--executor", "local", "-q")
    assert hdrfleet_here("convert", tmp_path / "photos", dst, *arguments) == 3
    record = read_job(open_store(dst, StorageConfig()))
    assert record is not None
    assert record.config.source.url == str(tmp_path / "photos")
    capsys.readouterr()
    assert hdrfleet_here("verify", dst, "--deep") == 0
    assert "sound; 8 rows of 1 plan, 5 outputs, 5 of them decoded" in capsys.readouterr().out
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key="hdr/images/dot.png.exr", Body=b"x")
    s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key="hdr/images/large.exr")
    assert hdrfleet_here("verify", dst) == 3
    out = capsys.readouterr().out
    assert "output_size  images/dot.png.exr" in out
    assert "unfinished_write  images/large.exr" in out
