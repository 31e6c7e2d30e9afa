"""Images that abort, crash, hang or eat memory in the decoder: each is quarantined alone, its neighbours converted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from commands import hdrfleet, hdrfleet_here
from independent_checker import Folder, comparable, require_whole
from photographs import jpeg, picture
from poison import FAULTS, poison_jpeg, write_poisoned_library

from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--executor", "local", "--verify", "all")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("num_sound", "shard_images"), [(30, 12), pytest.param(200, 64, marks=pytest.mark.long)], ids=["30", "200"]
)
def test_poison_is_quarantined_alone(num_sound: int, shard_images: int, tmp_path: Path) -> None:
    src, dst = tmp_path / "photos", tmp_path / "out"
    expected = write_poisoned_library(src, num_sound)
    arguments = ("convert", src, dst, *OPTIONS, "--shard-images", str(shard_images), "--decode-timeout", "5")
    result = hdrfleet(*arguments, "--json", home=tmp_path / "home", env=FAULTS, timeout_s=250)
    assert result.returncode == 3, result.stderr
    assert json.loads(result.stdout)["run"]["num_workers_lost"] == 0
    store = open_store(str(dst), StorageConfig())
    rows = {str(row["source"]): row for row in open_manifest(store).history.to_pylist()}
    assert {name: row["error_code"] for name, row in rows.items()} == expected
    assert len(rows) == open_manifest(store).history.num_rows
    # One process did it all, at the first attempt: it was never taken down.
    assert {row["attempt"] for row in rows.values()} == {1}
    assert len({row["worker"] for row in rows.values()}) == 1
    for name, row in rows.items():
        if expected[name] is None:
            assert row["status"] == "ok", name
            assert decode_exr(store.read(str(row["output"]))).image.pixels.shape == (24, 32, 3)
        else:
            assert row["status"] == "quarantined", name
            assert row["error_message"]
    assert list(dst.rglob("*.exr")) != []
    assert list(tmp_path.rglob("core*")) == []

    # Without the faults the same files are sound: what the neighbours are in a run that nothing happens to.
    inputs = {name: (src / name).read_bytes() for name in expected}
    undisturbed = tmp_path / "undisturbed"
    assert hdrfleet_here("convert", src, undisturbed, *OPTIONS, "--shard-images", str(shard_images), "--quiet") == 0
    found, whole = (
        [row for row in comparable(require_whole(Folder(folder), inputs)) if not expected[row["source"]]]
        for folder in (dst, undisturbed)
    )
    assert found == whole


@pytest.mark.timeout(200)
def test_what_was_quarantined_can_be_tried_again(tmp_path: Path) -> None:
    src, dst = tmp_path / "photos", tmp_path / "out"
    expected = write_poisoned_library(src, 3)
    poisoned = {name for name, code in expected.items() if code}
    first = hdrfleet("convert", src, dst, *OPTIONS, "--decode-timeout", "3", home=tmp_path / "home", env=FAULTS)
    assert first.returncode == 3, first.stderr
    assert f"{len(poisoned)} quarantined" in first.stdout + hdrfleet("status", dst, home=tmp_path / "home").stdout
    # Without the faults the same files are sound, as a decoder that was mended would find them.
    assert hdrfleet_here("retry", dst, "--code", "decoder_hang", "--decode-timeout", "60", "--quiet") == 3
    assert hdrfleet_here("retry", dst, "--quiet") == 0
    table = open_manifest(open_store(str(dst), StorageConfig()))
    assert set(table.current["status"].to_pylist()) == {"ok"}
    assert table.history.num_rows == len(expected) + len(poisoned)


def test_an_isolated_jpeg_cannot_take_down_the_worker(tmp_path: Path) -> None:
    src, dst = tmp_path / "photos", tmp_path / "out"
    src.mkdir()
    (src / "a.jpg").write_bytes(jpeg(picture(24, 32)))
    (src / "b.jpg").write_bytes(poison_jpeg("segfault"))
    result = hdrfleet("convert", src, dst, *OPTIONS, "--isolate-decode", home=tmp_path / "home", env=FAULTS)
    assert result.returncode == 3, result.stderr
    rows = open_manifest(open_store(str(dst), StorageConfig())).current.to_pylist()
    assert {row["source"]: row["error_code"] for row in rows} == {"a.jpg": None, "b.jpg": "decoder_crash"}
    assert "SIGSEGV" in str(rows)


def test_a_jpeg_that_has_twice_taken_down_the_local_executor_costs_its_row_in_the_next_run(tmp_path: Path) -> None:
    src, dst = tmp_path / "photos", tmp_path / "out"
    src.mkdir()
    (src / "a.jpg").write_bytes(jpeg(picture(24, 32)))
    (src / "b.jpg").write_bytes(poison_jpeg("segfault"))
    crash = {"HDRFLEET_FAULTS": "image.fetched@b.jpg=segv"}
    for _ in range(2):
        died = hdrfleet("convert", src, dst, *OPTIONS, home=tmp_path, env=crash)
        assert died.returncode == -signal.SIGSEGV, died.stderr
        assert "in a process of its own" not in died.stderr
    again = hdrfleet("convert", src, dst, *OPTIONS, home=tmp_path, env=FAULTS)
    assert again.returncode == 3, again.stderr
    assert "every image is decoded in a process of its own" in again.stderr
    rows = open_manifest(open_store(str(dst), StorageConfig())).current.to_pylist()
    assert {row["source"]: row["error_code"] for row in rows} == {"a.jpg": None, "b.jpg": "decoder_crash"}
    # The run before has ended as it should: nothing is slower than need be any more.
    (src / "c.jpg").write_bytes(jpeg(picture(24, 32, seed=1)))
    more = hdrfleet("convert", src, dst, *OPTIONS, home=tmp_path, env=FAULTS)
    assert more.returncode == 3, more.stderr
    assert "in a process of its own" not in more.stderr
