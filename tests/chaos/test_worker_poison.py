"""Images that take down whoever touches them: each is quarantined alone, and all others are converted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from commands import hdrfleet, rows_of
from photographs import jpeg, picture

NUM_PHOTOS = 12
NETWORK = ("--weights", "identity", "--precision", "fp32", "--device", "cpu")
OPTIONS = (*NETWORK, "--shard-images", "4")
MANY = 204
MAX_DATA_BYTES = 6 * 2**30


def write_photos(folder: Path, num_photos: int) -> Path:
    folder.mkdir()
    for index in range(num_photos):
        (folder / f"{index:02d}.jpg").write_bytes(jpeg(picture(24, 16, seed=index)))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", NUM_PHOTOS)


def assert_quarantined(dst: Path, expected: dict[str, str], num_photos: int = NUM_PHOTOS) -> None:
    found = rows_of(dst)
    assert Counter(row["source"] for row in found) == {f"{index:02d}.jpg": 1 for index in range(num_photos)}
    quarantined = {row["source"]: row["error_code"] for row in found if row["status"] != "ok"}
    assert quarantined == expected
    assert {row["status"] for row in found} == {"ok", "quarantined"}
    outputs = {str(path.relative_to(dst)) for path in dst.rglob("*.exr")}
    assert outputs == {row["output"] for row in found if row["status"] == "ok"}


@pytest.mark.long  # test_bisection and test_lease_simulation have its rules, test_poison its faults
@pytest.mark.timeout(280)
def test_images_that_kill_or_hang_their_worker_are_quarantined_on_ray(photos: Path, tmp_path: Path) -> None:
    faults = "image.fetched@05.jpg=segv,image.decoded@09.jpg=hang"
    options = (*OPTIONS, "--image-timeout", "3")
    result = hdrfleet(
        *("convert", photos, tmp_path / "out", *options),
        home=tmp_path / "home",
        env={"HDRFLEET_FAULTS": faults},
        timeout_s=250,
    )
    assert result.returncode == 3, result.stderr
    assert_quarantined(tmp_path / "out", {"05.jpg": "worker_crash", "09.jpg": "worker_hang"})
    again = hdrfleet("convert", photos, tmp_path / "out", *options, home=tmp_path / "home", timeout_s=100)
    assert again.returncode == 3
    assert "nothing to do" in again.stdout


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_of_many_is_found_among_two_hundred(tmp_path: Path) -> None:
    """One aborts, one segfaults, one allocates without end, one never returns; two of them share a shard."""
    photos = write_photos(tmp_path / "photos", MANY)
    poison = {"07.jpg": "abort", "19.jpg": "segv", "100.jpg": "hog", "150.jpg": "hang"}
    result = hdrfleet(
        *("convert", photos, tmp_path / "out", *NETWORK, "--shard-images", "32", "--image-timeout", "10"),
        home=tmp_path / "home",
        env={"HDRFLEET_FAULTS": ",".join(f"image.decoded@{name}={action}" for name, action in poison.items())},
        timeout_s=1700,
        max_data_bytes=MAX_DATA_BYTES,
    )
    assert result.returncode == 3, result.stderr
    codes = {"abort": "worker_crash", "segv": "worker_crash", "hog": "worker_oom", "hang": "worker_hang"}
    expected = {name: codes[action] for name, action in poison.items()}
    assert_quarantined(tmp_path / "out", expected, MANY)


@pytest.mark.timeout(100)
def test_an_image_that_raises_what_nobody_foresaw_is_quarantined_in_this_process(photos: Path, tmp_path: Path) -> None:
    result = hdrfleet(
        *("convert", photos, tmp_path / "out", *OPTIONS, "--executor", "local"),
        home=tmp_path / "home",
        env={"HDRFLEET_FAULTS": "image.fetched@03.jpg=raise"},
    )
    assert result.returncode == 3, result.stderr
    assert_quarantined(tmp_path / "out", {"03.jpg": "worker_crash"})


@pytest.mark.timeout(100)
def test_an_image_that_never_ends_stops_a_process_that_cannot_be_replaced(photos: Path, tmp_path: Path) -> None:
    result = hdrfleet(
        *("convert", photos, tmp_path / "out", *OPTIONS, "--executor", "local", "--image-timeout", "2"),
        home=tmp_path / "home",
        env={"HDRFLEET_FAULTS": "image.decoded@03.jpg=hang"},
        timeout_s=60,
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("which quarantines such an image [stuck]")
    assert "03.jpg was not done" in result.stderr


@pytest.mark.long
@pytest.mark.timeout(100)
def test_a_job_in_which_most_images_fail_stops_early(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(1200):
        (folder / f"{index:04d}.jpg").write_bytes(jpeg(picture(24, 16, seed=0)) if index % 4 == 0 else b"no picture")
    options = (*OPTIONS, "--executor", "local", "--shard-images", "20")
    result = hdrfleet("convert", folder, tmp_path / "out", *options, home=tmp_path / "home")
    assert result.returncode == 1, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert "more than --max-failure-rate 50%" in last
    assert "unsupported_format" in last
    assert last.endswith("[too_many_failures]")
    assert 0 < len(rows_of(tmp_path / "out")) < 1200
    patient = hdrfleet(
        "convert", folder, tmp_path / "out", *options, "--max-failure-rate", "100%", home=tmp_path / "home"
    )
    assert patient.returncode == 3, patient.stderr
    assert Counter(row["status"] for row in rows_of(tmp_path / "out")) == {"ok": 300, "failed": 900}
