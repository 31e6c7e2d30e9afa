"""Workers and drivers are killed with SIGKILL in the middle of a job: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import descendants, end, hdrfleet, rows_of, start_hdrfleet, wait_until
from photographs import jpeg, picture

from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig
from pipeline.storage import open_store

NUM_PHOTOS = 60
SHARD_IMAGES = 2
LEASES = 2
# The published width is the slower one, so that there is time to kill.
OPTIONS = (
    *("--shard-images", str(SHARD_IMAGES), "--weights", "identity"),
    *("--precision", "fp32", "--device", "cpu", "--quiet"),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(NUM_PHOTOS):
        (folder / f"{index:02d}.jpg").write_bytes(jpeg(picture(160, 160, seed=index)))
    return folder


def num_parts(dst: Path) -> int:
    return len(list(dst.glob("manifest/plan=*/shard-*.parquet")))


def assert_complete(dst: Path) -> None:
    found = rows_of(dst)
    assert Counter(row["source"] for row in found) == {f"{index:02d}.jpg": 1 for index in range(NUM_PHOTOS)}
    assert {row["status"] for row in found} == {"ok"}
    store = open_store(str(dst), StorageConfig())
    for row in found:
        assert decode_exr(store.read(str(row["output"]))).image.pixels.shape == (160, 160, 3)
    assert {info.key for info in store.list("images")} == {row["output"] for row in found}


@pytest.mark.long  # in the short tier test_ray_executor kills one, without a command
@pytest.mark.timeout(240)
def test_a_killed_worker_costs_only_its_leases(photos: Path, tmp_path: Path) -> None:
    dst, log = tmp_path / "out", tmp_path / "log"
    driver = start_hdrfleet("convert", photos, dst, *OPTIONS, home=tmp_path / "home", log=log)
    everything = []
    try:
        wait_until(lambda: num_parts(dst) >= 2 or driver.poll() is not None, "two shards committed")
        everything = descendants(driver.pid)
        (worker,) = descendants(driver.pid, "RayWorker")
        committed = num_parts(dst)
        worker.kill()
        assert driver.wait(150) == 0, log.read_text()
    finally:
        driver.kill()
        driver.wait(20)
        end(everything)
    assert_complete(dst)
    attempts = Counter(row["attempt"] for row in rows_of(dst))
    assert committed < NUM_PHOTOS / SHARD_IMAGES, "the worker was killed too late to test anything"
    assert 0 < attempts[2] <= LEASES * SHARD_IMAGES
    assert set(attempts) == {1, 2}


@pytest.mark.timeout(300)
def test_a_killed_driver_is_resumed_without_repeating_finished_images(photos: Path, tmp_path: Path) -> None:
    dst, log = tmp_path / "out", tmp_path / "log"
    driver = start_hdrfleet("convert", photos, dst, *OPTIONS, home=tmp_path / "home", log=log)
    everything = []
    try:
        wait_until(lambda: num_parts(dst) >= 3 or driver.poll() is not None, "three shards committed")
        everything = descendants(driver.pid)
        driver.kill()
        driver.wait(20)
    finally:
        driver.kill()
        end(everything)
    assert 3 <= num_parts(dst) < NUM_PHOTOS / SHARD_IMAGES
    stored = {path: path.stat().st_mtime_ns for path in dst.rglob("*.exr")}
    committed = {path: path.read_bytes() for path in dst.glob("manifest/plan=*/shard-*.parquet")}
    result = hdrfleet("convert", photos, dst, *OPTIONS, home=tmp_path / "home", timeout_s=200)
    assert result.returncode == 0, result.stderr
    assert_complete(dst)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert {path: path.read_bytes() for path in committed} == committed
    num_adopted = sum(bool(row["adopted"]) for row in rows_of(dst))
    assert num_adopted == len(stored) - len(committed) * SHARD_IMAGES


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("executor", "number", "times"),
    [
        pytest.param("ray", signal.SIGINT, 1, id="ray SIGINT", marks=pytest.mark.long),
        pytest.param("ray", signal.SIGTERM, 2, id="ray SIGTERM twice", marks=pytest.mark.long),
        pytest.param("local", signal.SIGINT, 2, id="local SIGINT twice"),
    ],
)
def test_an_interrupt_ends_cleanly_and_says_how_to_go_on(
    photos: Path, tmp_path: Path, executor: str, number: signal.Signals, times: int
) -> None:
    dst, log = tmp_path / "out", tmp_path / "log"
    options = (*OPTIONS, "--executor", executor)
    driver = start_hdrfleet("convert", photos, dst, *options, home=tmp_path / "home", log=log)
    everything = []
    try:
        wait_until(lambda: num_parts(dst) >= 1 or driver.poll() is not None, "one shard committed")
        everything = descendants(driver.pid)
        for _ in range(times):
            driver.send_signal(number)
            time.sleep(0.2)
        assert driver.wait(60) == 1, log.read_text()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the driver did not stop: {log.read_text()}")
    finally:
        driver.kill()
        driver.wait(20)
        end(everything)
    message = log.read_text().strip().splitlines()
    assert message[-1].endswith("run the same command again to carry on [interrupted]")
    assert "Traceback" not in log.read_text()
    assert not any(process.is_running() and process.status() != "zombie" for process in everything)
    assert num_parts(dst) < NUM_PHOTOS / SHARD_IMAGES
    result = hdrfleet("convert", photos, dst, *options, home=tmp_path / "home", timeout_s=200)
    assert result.returncode == 0, result.stderr
    assert_complete(dst)
