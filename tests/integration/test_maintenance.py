"""After a conversion: retry what failed, and prove that the destination is whole. In-process, on files and moto."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet, hdrfleet_here
from photographs import jpeg, picture, write_library
from safetensors.torch import save_file

from pipeline.config import StorageConfig
from pipeline.job import read_job
from pipeline.manifest import open_manifest, part_key
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


def test_a_code_that_nothing_failed_with_is_no_advice_to_ask_again(
    converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here("retry", converted, "--code", "decode_corrupt") == 3
    told = capsys.readouterr().out
    assert (
        f"nothing to do: in {converted}, none failed with decode_corrupt; {NUM_LARGE + 2} images failed otherwise"
        in told
    )
    assert "tries again" not in told


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


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_objects_in_a_bucket_whose_names_cannot_be_keys_are_found_and_left_to_a_person(
    s3_bucket: Any, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(jpeg(picture(24, 32)))
    dst = f"{s3_bucket.url}/hdr"
    assert hdrfleet_here("convert", tmp_path / "photos", dst, "--weights", weights, "--executor", "local", "-q") == 0
    unusable = {"images/a/../b.exr", r"images/bell\x07.exr"}
    for key in ("images/a/../b.exr", "images/bell\a.exr", "images/stranger.exr"):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=f"hdr/{key}", Body=b"x")
    capsys.readouterr()
    assert hdrfleet_here("repair", dst, "--delete-orphans", "--json", "-q") == 3
    report = json.loads(capsys.readouterr().out)
    assert report["num_deleted"] == 1
    findings = report["after"]["findings"]
    assert {(finding["code"], finding["key"]) for finding in findings} == {("orphan_unusable", key) for key in unusable}
    assert hdrfleet_here("verify", dst) == 3
    told = capsys.readouterr().out
    for key in unusable:
        assert any(line.startswith(f"orphan_unusable  {key}: ") and "by hand" in line for line in told.splitlines())


def digests(dst: Path) -> dict[str, bytes]:
    return {path.relative_to(dst).as_posix(): path.read_bytes() for path in sorted((dst / "images").rglob("*.exr"))}


@pytest.fixture
def whole(tmp_path: Path, weights: Path) -> Path:
    write_library(tmp_path / "photos", 4)
    for path in (tmp_path / "photos/bad").iterdir():
        path.unlink()
    arguments = ("--weights", weights, "--executor", "local", "--shard-images", "3", "--quiet")
    assert hdrfleet_here("convert", tmp_path / "photos", tmp_path / "hdr", *arguments) == 0
    return tmp_path / "hdr"


def test_damaged_outputs_become_the_next_revision_and_nothing_else_changes(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(whole)
    flipped, gone = whole / "images/dot.png.exr", whole / "images/trip 1/photo_001.jpg.exr"
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    damaged = flipped.read_bytes()
    gone.unlink()
    assert hdrfleet_here("repair", whole, "--json", "-q") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_replaced"], report["num_deleted"]) == (2, 0)
    assert report["after"]["is_sound"]
    after = digests(whole)
    assert after.pop("images/dot.png.v2.exr") == before["images/dot.png.exr"]
    assert after.pop("images/trip 1/photo_001.jpg.v2.exr") == before.pop("images/trip 1/photo_001.jpg.exr")
    assert after.pop("images/dot.png.exr") == damaged, "evidence stays"
    del before["images/dot.png.exr"]
    assert after == before
    current = rows(whole)
    assert (current["dot.png"]["revision"], current["dot.png"]["plan"]) == (2, 2)
    assert (current["dot.png"]["status"], current["dot.png"]["adopted"]) == ("ok", False)
    assert hdrfleet_here("verify", whole, "--deep") == 0
    assert hdrfleet_here("repair", whole, "-q") == 0, "a second repair finds nothing to do"
    assert len(rows(whole)) == len(current)
    assert max(row["plan"] for row in rows(whole).values()) == 2

    # Damage to a repaired output is found and repaired as well.
    (whole / "images/dot.png.v2.exr").write_bytes(b"x")
    assert hdrfleet_here("repair", whole, "-q") == 0
    assert rows(whole)["dot.png"]["output"] == "images/dot.png.v3.exr"


def test_an_uncommitted_shard_is_finished_from_the_outputs_that_are_there(whole: Path) -> None:
    before, images = rows(whole), digests(whole)
    (whole / part_key(1, 0)).unlink()
    assert hdrfleet_here("verify", whole) == 3
    assert hdrfleet_here("repair", whole, "-q") == 0
    after = rows(whole)
    assert {source: row["output_sha256"] for source, row in after.items()} == {
        source: row["output_sha256"] for source, row in before.items()
    }
    assert sum(row["adopted"] for row in after.values()) == 3, "nothing was computed twice"
    assert digests(whole) == images


def test_a_damaged_output_of_an_uncommitted_shard_is_made_anew(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(row["source"] for row in rows(whole).values() if (row["shard"], row["status"]) == (0, "ok"))
    (whole / part_key(1, 0)).unlink()
    damaged = whole / f"images/{name}.exr"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-40] + bytes(byte ^ 0xFF for byte in good[-40:]))
    assert hdrfleet_here("repair", whole, "-q") == 3
    row = rows(whole)[name]
    assert (row["status"], row["output"], row["adopted"]) == ("ok", f"images/{name}.v2.exr", False)
    assert (whole / row["output"]).read_bytes() == good
    capsys.readouterr()
    assert hdrfleet_here("verify", whole, "--deep", "--json") == 3
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["code"], finding["key"]) == ("orphan", f"images/{name}.exr")
    assert hdrfleet_here("repair", whole, "--delete-orphans", "-q") == 0
    assert not damaged.exists()
    assert hdrfleet_here("verify", whole, "--deep") == 0


def test_damaged_parts_and_plans_are_left_to_a_person(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "images/stranger.exr").write_bytes(b"x")
    (whole / "images/dot.png.exr").unlink()
    for name, code in ((part_key(1, 1), 1), ("_hdrfleet/plan/1/plan.json", 3)):
        damaged = whole / name
        good = damaged.read_bytes()
        damaged.write_bytes(b"{}")
        assert hdrfleet_here("repair", whole, "--delete-orphans") == code
        told = capsys.readouterr()
        assert damaged.name in told.out + told.err
        assert damaged.read_bytes() == b"{}"
        assert (whole / "images/stranger.exr").exists()
        damaged.write_bytes(good)
    assert hdrfleet_here("repair", whole, "--delete-orphans", "-q") == 0


def test_a_lost_plan_keeps_its_outputs(whole: Path) -> None:
    images = digests(whole)
    (whole / "_hdrfleet/plan/1/plan.json").unlink()
    assert hdrfleet_here("verify", whole) == 3
    assert hdrfleet_here("repair", whole, "--delete-orphans", "-q") == 3
    assert digests(whole) == images


def test_a_replacement_that_fails_is_not_sound(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "images/dot.png.exr").write_bytes(b"x")
    (whole.parent / "photos/dot.png").write_bytes(b"no longer a picture" * 9)
    assert hdrfleet_here("repair", whole, "--json", "-q") == 3
    report = json.loads(capsys.readouterr().out)
    assert [finding["code"] for finding in report["after"]["findings"]] == [
        "output_size",
        "output_sha256",
        "output_undecodable",
    ]
    assert report["run"]["failures"][0]["error_code"] == "unsupported_format"


def test_a_source_that_is_touched_after_a_repair_adopts_the_repaired_output(whole: Path) -> None:
    flipped = whole / "images/dot.png.exr"
    good = flipped.read_bytes()
    flipped.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert hdrfleet_here("repair", whole, "-q") == 0
    os.utime(whole.parent / "photos/dot.png", (1, 1))
    weights = ("--weights", read_weights_path(whole))
    assert hdrfleet_here("convert", whole.parent / "photos", whole, *weights, "--executor", "local", "-q") == 0
    row = rows(whole)["dot.png"]
    assert (row["plan"], row["output"], row["adopted"]) == (3, "images/dot.png.v2.exr", True)
    assert (whole / row["output"]).read_bytes() == good


def read_weights_path(dst: Path) -> str:
    record = read_job(open_store(str(dst), StorageConfig()))
    assert record is not None
    return record.config.model.weights


@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)
def test_a_source_that_moved_is_reached_by_the_options_of_convert(
    s3_bucket: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, name = s3_bucket.client, s3_bucket.name
    client.put_object(Bucket=name, Key="in/a.jpg", Body=jpeg(picture(24, 32, seed=1)))
    client.put_object(Bucket=name, Key="in/bad.jpg", Body=b"not a picture")
    run = ("--weights", weights, "--executor", "local", "--quiet")
    gone = ("--src-endpoint-url", "http://127.0.0.1:9", "--src-attempts", "1", "--src-timeout", "2")
    here = ("--src-endpoint-url", s3_bucket.server.endpoint_url, "--src-region", s3_bucket.server.region)
    dst = tmp_path / "hdr"
    assert hdrfleet_here("convert", f"{s3_bucket.url}/in", dst, *run, *here) == 3
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    client.put_object(Bucket=name, Key="in/bad.jpg", Body=jpeg(picture(24, 32, seed=2)))
    (dst / "images/a.jpg.exr").unlink()
    for command in ("retry", "repair"):
        assert hdrfleet_here(command, dst, *run, *gone) == 2
        assert "cannot read the source" in " ".join(capsys.readouterr().err.split())
    job = dst / "_hdrfleet/job.json"
    job.write_text(job.read_text().replace(s3_bucket.server.endpoint_url, "http://127.0.0.1:9"))
    assert hdrfleet_here("retry", dst, *run, *here) == 0
    assert hdrfleet_here("repair", dst, *run, *here, "--no-src-requester-pays") == 0
    assert {row["output"] for row in rows(dst).values()} == {"images/a.jpg.v2.exr", "images/bad.jpg.exr"}


def test_a_first_run_with_a_limit_does_not_limit_retry(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_library(tmp_path / "photos", 2)
    arguments = ("convert", tmp_path / "photos", tmp_path / "hdr", "--weights", weights, "--executor", "local", "-q")
    assert hdrfleet_here(*arguments, "--limit", "1", "--exclude", "*/alpha.png") == 3
    assert hdrfleet_here(*arguments) == 3
    capsys.readouterr()
    assert hdrfleet_here("retry", tmp_path / "hdr", "--json", "-q") == 3
    assert json.loads(capsys.readouterr().out)["num_planned"] == 3


def test_orphans_are_deleted_on_demand_alone(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "images/stranger.exr").write_bytes(b"x")
    (whole / "images/.hdrfleet-tmp-9-00").write_bytes(b"x")
    before = digests(whole)
    assert hdrfleet_here("repair", whole, "-q") == 3
    assert "--delete-orphans removes them" in capsys.readouterr().out
    assert digests(whole) == before
    assert hdrfleet_here("repair", whole, "--delete-orphans", "-q") == 0
    del before["images/stranger.exr"]
    assert digests(whole) == before
    assert not (whole / "images/.hdrfleet-tmp-9-00").exists()


def test_what_cannot_be_made_anew_is_said(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole.parent / "photos/dot.png").unlink()
    (whole / "images/dot.png.exr").unlink()
    assert hdrfleet_here("repair", whole) == 3
    told = capsys.readouterr()
    assert "1 image cannot be made anew: no longer in the source" in told.err
    assert "docs/operations.md" in told.out
    assert told.out.startswith("1 finding before; 0 outputs made anew, 0 leftovers deleted")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("s3_server", ["moto", pytest.param("swift", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.long)])
def test_a_bucket_is_retried_repaired_and_verified(
    s3_bucket: Any, weights: Path, executor: str, tmp_path: Path
) -> None:
    def run_command(*arguments: str | Path) -> int:
        """Above Ray in a process of its own: a Ray that other tests have started lacks the bucket's credentials."""
        if executor == "local":
            return hdrfleet_here(*arguments)
        return hdrfleet(*arguments, home=tmp_path / "home").returncode

    client, name, url = s3_bucket.client, s3_bucket.name, s3_bucket.url
    for index in range(5):
        client.put_object(Bucket=name, Key=f"in/{index}.jpg", Body=jpeg(picture(24, 32, seed=index)))
    client.put_object(Bucket=name, Key="in/bad.jpg", Body=b"not a picture")
    run = ("--weights", weights, "--executor", executor, "--quiet")
    assert run_command("convert", f"{url}/in", f"{url}/out", *run, "--device", "cpu", "--shard-images", "2") == 3

    client.put_object(Bucket=name, Key="in/bad.jpg", Body=jpeg(picture(24, 32, seed=9)))
    assert run_command("retry", f"{url}/out", "--code", "unsupported_format", *run) == 0

    client.delete_object(Bucket=name, Key="out/images/1.jpg.exr")
    client.put_object(Bucket=name, Key="out/images/2.jpg.exr", Body=b"damaged")
    assert run_command("verify", f"{url}/out", "--deep", "--quiet", "--executor", executor) == 3
    assert run_command("repair", f"{url}/out", *run) == 0
    assert run_command("verify", f"{url}/out", "--deep", "--quiet", "--executor", executor) == 0
    keys = {item["Key"] for item in client.list_objects_v2(Bucket=name, Prefix="out/images/")["Contents"]}
    assert {"out/images/1.jpg.v2.exr", "out/images/2.jpg.v2.exr", "out/images/bad.jpg.exr"} <= keys
