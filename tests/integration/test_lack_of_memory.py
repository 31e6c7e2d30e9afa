"""What the machine lacks is no property of an image: nothing is refused as too large or damaged for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import little_memory
import pytest
from commands import hdrfleet
from fakes import tiny_network
from PIL import Image
from safetensors.torch import save_file

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

SIDE_PX = 6000  # 36 megapixels, 103 MiB of pixels
SMALL_PX = 64
OUTPUT_PX, LESS_THAN_ITS_PIXELS_MIB = 4000, 85  # they are 92 MiB, and all else that `verify` does needs 60


def in_little_memory(*arguments: str | Path | int, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, little_memory.__file__, *map(str, arguments)],
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "RGB", {}),
        # libjpeg keeps the coefficients of all scans, and says in words of its own that it cannot.
        ("a.jpg", "RGB", {"progressive": True}),
        pytest.param("a.jpg", "CMYK", {}, marks=pytest.mark.long),
        pytest.param("a.png", "RGB", {"compress_level": 1}, marks=pytest.mark.long),
        pytest.param("a.png", "RGBA", {"compress_level": 1}, marks=pytest.mark.long),
    ],
)
def test_decoding_without_enough_memory_says_nothing_about_the_image(
    tmp_path: Path, name: str, mode: str, options: dict[str, object]
) -> None:
    small = tmp_path / f"small-{name}"
    for path, side_px in ((tmp_path / name, SIDE_PX), (small, SMALL_PX)):
        Image.new(mode, (side_px, side_px), 0).save(path, **options)
    done = in_little_memory("decode", tmp_path / name, small, 20, 400, home=tmp_path)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert set(outcomes) == {"MemoryError", "ok"}, outcomes
    assert (outcomes[0], outcomes[-1]) == ("MemoryError", "ok")


def test_an_image_that_memory_does_not_suffice_for_costs_its_own_row_and_says_so(tmp_path: Path) -> None:
    small, photos = tmp_path / "small", tmp_path / "photos"
    for folder in (small, photos):
        folder.mkdir()
        for index in range(4):
            Image.new("RGB", (SMALL_PX, SMALL_PX), index).save(folder / f"{index}.jpg")
    Image.new("RGB", (2 * SIDE_PX, SIDE_PX)).save(photos / "large.jpg")
    done = in_little_memory("convert", small, photos, tmp_path / "hdr", 160, home=tmp_path)
    assert done.returncode == 3, done.stderr
    rows = open_manifest(open_store(str(tmp_path / "hdr"), StorageConfig())).current.to_pylist()
    assert {row["source"]: (row["status"], row["error_code"]) for row in rows} == {
        **{f"{index}.jpg": ("ok", None) for index in range(4)},
        "large.jpg": ("quarantined", "worker_oom"),
    }


@pytest.mark.long
def test_an_output_that_memory_does_not_suffice_for_is_not_called_damaged(tmp_path: Path) -> None:
    save_file(dict(tiny_network().state_dict()), tmp_path / "tiny.safetensors")
    small, photos, hdr = tmp_path / "small", tmp_path / "photos", tmp_path / "hdr"
    for folder, side_px in ((small, SMALL_PX), (photos, OUTPUT_PX)):
        folder.mkdir()
        Image.new("RGB", (side_px, side_px)).save(folder / "a.jpg")
    for source, destination in ((small, tmp_path / "small-hdr"), (photos, hdr)):
        run = ("convert", source, destination, "--weights", tmp_path / "tiny.safetensors", "--executor", "local")
        assert hdrfleet(*run, "--quiet", home=tmp_path, timeout_s=150).returncode == 0
    output = hdr / "images/a.jpg.exr"
    lacking = findings(in_little_memory("verify", tmp_path / "small-hdr", hdr, LESS_THAN_ITS_PIXELS_MIB, home=tmp_path))
    assert lacking == {"output_unreadable"}
    # One that lost its end is called damaged with as little memory.
    output.write_bytes(output.read_bytes()[:-1])
    damaged = findings(in_little_memory("verify", tmp_path / "small-hdr", hdr, LESS_THAN_ITS_PIXELS_MIB, home=tmp_path))
    assert damaged == {"output_sha256", "output_size", "output_undecodable"}


def findings(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The codes that the last `verify --json` wrote."""
    assert done.returncode == 3, done.stderr
    return {each["code"] for each in json.loads(done.stdout[done.stdout.index("{") :])["findings"]}
