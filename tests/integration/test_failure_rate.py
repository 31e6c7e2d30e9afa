"""A job that an option makes fail: it stops early, and what it says to do next leaves no image behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from commands import hdrfleet_here, rows_of
from photographs import jpeg, picture

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

NUM_IMAGES = 260


@pytest.mark.timeout(200)
def test_a_mistaken_option_is_mended_by_the_same_command_and_retry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, dst = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(NUM_IMAGES):
        (photos / f"{index:03}.jpg").write_bytes(jpeg(picture(8, 8, seed=index % 7)))
    command = (
        "convert",
        photos,
        dst,
        "--executor",
        "local",
        "--weights",
        "identity",
        "--shard-images",
        "20",
        "--quiet",
    )
    assert hdrfleet_here(*command, "--max-pixels", "10") == 1
    said = capsys.readouterr().err
    assert "of them with too_large" in said
    next_step = "run the same command again once this is mended, then hdrfleet retry with the same change"
    assert f"{next_step} for the images that failed" in said
    num_failed = len(rows_of(dst))
    assert 0 < num_failed < NUM_IMAGES
    assert hdrfleet_here(*command) == 3, "those are not tried again"
    assert hdrfleet_here("retry", dst, "--code", "too_large", "--max-pixels", "1000", "--quiet") == 0
    current = open_manifest(open_store(str(dst), StorageConfig())).current
    assert Counter(current["status"].to_pylist()) == {"ok": NUM_IMAGES}
