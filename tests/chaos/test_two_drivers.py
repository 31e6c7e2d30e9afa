"""Two drivers on one destination: one of them owns it, whoever freezes and whoever wakes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import descendants, end, start_hdrfleet, wait_until
from forked import ended, forked, start_forked
from independent_checker import Bucket, Durable, Folder, Reader, comparable, require_whole
from photographs import jpeg, picture, write_library

OPTIONS = (
    *("--executor", "local", "--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", "3", "--quiet"),
)
DONE, IN_USE, DIED = 3, 2, 1
NUM_SHORT, NUM_LONG = 3, 50


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path / "photos"
    names = write_library(folder, num_photos=4, size=(24, 32))
    return folder, {name: (folder / name).read_bytes() for name in names}


def race(photos: tuple[Path, dict[str, bytes]], dst: str, reader: Reader, folder: Path) -> bool:
    """Start two drivers together; whether they overlapped, so that one of them was refused."""
    source, inputs = photos
    logs = [folder / "first.log", folder / "second.log"]
    for log in logs:
        log.unlink(missing_ok=True)
    drivers = [start_forked("convert", source, dst, *OPTIONS, log=log) for log in logs]
    codes = sorted(ended(driver, log) for driver, log in zip(drivers, logs, strict=True))
    texts = [log.read_text() for log in logs]
    assert codes in ([IN_USE, DONE], [DONE, DONE]), texts
    refused = sum("is in use by another hdrfleet" in text for text in texts)
    # Where none was refused, the second came when the first had finished and released the destination.
    assert refused == codes.count(IN_USE), texts
    assert sum("nothing to do" in text for text in texts) == codes.count(DONE) - 1, texts
    rows = require_whole(reader, inputs)
    assert {row["attempt"] for row in rows} == {1}
    workers = {row["worker"] for row in rows}
    assert len(workers) == 1, f"two drivers at work: {workers}"
    epochs = [key for key in reader.stamps() if key.startswith("_hdrfleet/lease/")]
    assert len(epochs) == codes.count(DONE)
    assert all(json.loads(reader.read(key))["released"] for key in epochs)
    return refused > 0


def require_overlap(overlapped: list[bool]) -> None:
    """Pairs that came one after the other show nothing of a race: most have to have met."""
    text = f"only {sum(overlapped)} of {len(overlapped)} pairs overlapped: the race was hardly tried"
    assert 2 * sum(overlapped) >= len(overlapped), text


@pytest.mark.parametrize(
    "rounds", [NUM_SHORT, pytest.param(NUM_LONG, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_started_together_on_files(photos: Any, tmp_path: Path, rounds: int) -> None:
    overlapped = []
    for index in range(rounds):
        dst = tmp_path / f"out-{index}"
        overlapped.append(race(photos, str(dst), Folder(dst), tmp_path))
    require_overlap(overlapped)


@pytest.mark.parametrize("s3_server", ["moto", pytest.param("swift", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize(
    "rounds", [NUM_SHORT, pytest.param(NUM_LONG, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_started_together_on_s3(photos: Any, s3_bucket: Any, tmp_path: Path, rounds: int) -> None:
    overlapped = []
    for index in range(rounds):
        reader = Bucket(s3_bucket.client, s3_bucket.name, f"out-{index}/")
        overlapped.append(race(photos, f"{s3_bucket.url}/out-{index}", reader, tmp_path))
    require_overlap(overlapped)


class Takeover:
    """A driver that was stopped in mid-job, and another one that took its destination."""

    def __init__(self, folder: Path, dst: Path, root: Path) -> None:
        self.command = ("convert", folder, dst, *OPTIONS, "--lease-timeout", "3")
        self.first_log, self.second_log = root / "first.log", root / "second.log"
        self.once = {"HDRFLEET_FAULTS_ONCE": str(root)}

    @contextlib.contextmanager
    def frozen(self, faults: str) -> Iterator[Any]:
        """The first driver, stopped there and silent for long enough to be taken over."""
        first = start_forked(*self.command, log=self.first_log, faults=faults, env=self.once)
        try:
            wait_until(lambda: _is_stopped(first.pid), "the first driver is frozen")
            time.sleep(2)  # for longer than half of the lease's time it counts as alive
            yield first
        finally:
            first.kill()
            first.join(20)

    def finish(self) -> None:
        assert forked(*self.command, log=self.second_log) == 0, self.second_log.read_text()

    def wake(self, first: Any) -> None:
        os.kill(first.pid, signal.SIGCONT)
        assert ended(first, self.first_log) == DIED, self.first_log.read_text()
        assert self.first_log.read_text().strip().endswith("[lease_lost]")


def stamps_beside_lease(dst: Path, epoch: int) -> dict[str, Any]:
    """What must stay as it is when the driver of that epoch wakes: all but its own sign of life.

    It may have been frozen between its look for a later epoch and the write of its lease, which nobody reads any more.
    """
    own = f"_hdrfleet/lease/{epoch:06d}.json"
    stamps = Folder(dst).stamps()
    del stamps[own]
    record = json.loads((dst / own).read_text())
    # As a part of the comparison: whose it is, and that a driver that was taken over does not say it had finished.
    return {**stamps, own: (record["holder"], record["epoch"], record["released"])}


def write_photos(folder: Path, first_seed: int = 0) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    inputs = {f"{index:02d}.jpg": jpeg(picture(24, 32, seed=first_seed + index)) for index in range(12)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    return inputs


@pytest.mark.timeout(200)
def test_a_driver_that_froze_stores_nothing_beside_what_its_successor_made(tmp_path: Path) -> None:
    """It is stopped with outputs to store, all sources change, another one takes over; then it wakes up."""
    folder, dst = tmp_path / "photos", tmp_path / "out"
    write_photos(folder)
    takeover = Takeover(folder, dst, tmp_path)
    with takeover.frozen("image.encoded=stop:2") as first:
        inputs = write_photos(folder, first_seed=100)
        takeover.finish()
        before = stamps_beside_lease(dst, 1)
        assert {f"images/{name}.exr" for name in inputs} <= before.keys(), "under each name there is an output"
        takeover.wake(first)
    assert stamps_beside_lease(dst, 1) == before, "a zombie changed something"


@pytest.mark.timeout(200)
def test_a_driver_that_froze_finds_that_it_was_taken_over(tmp_path: Path) -> None:
    """It is stopped in mid-job, another one takes the destination and finishes, and then it wakes up."""
    folder, dst = tmp_path / "photos", tmp_path / "out"
    inputs = write_photos(folder)
    takeover = Takeover(folder, dst, tmp_path)
    with takeover.frozen("image.inferred=stop:5") as first:
        takeover.finish()
        rows = require_whole(Folder(dst), inputs, num_leftovers=2)  # what the frozen one is writing
        before = stamps_beside_lease(dst, 1)
        takeover.wake(first)
    assert "another hdrfleet has taken over (epoch 2" in takeover.first_log.read_text()
    assert stamps_beside_lease(dst, 1) == before, "a zombie changed something"
    assert require_whole(Folder(dst), inputs) == rows
    assert len({row["worker"] for row in rows}) <= 2


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "command",
    [("compact",), pytest.param(("gc", "--keep-revisions", "1", "--older-than", "0"), marks=pytest.mark.long)],
)
def test_upkeep_that_froze_on_a_weak_store_finds_that_it_was_taken_over(tmp_path: Path, command: Any) -> None:
    """It is stopped when the files of a generation are there, and wakes up when another driver has been at work."""
    folder, dst, log = tmp_path / "photos", tmp_path / "out", tmp_path / "log"
    folder.mkdir()
    convert = ("convert", folder, dst, *OPTIONS, "--lease-timeout", "3")
    for seed in (0, 1):
        (folder / "a.jpg").write_bytes(jpeg(picture(24, 32, seed=seed)))
        assert forked(*convert, log=log) == 0, log.read_text()
    job = dst / "_hdrfleet/job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "store_weakness": "several creators won"}))
    frozen_log = tmp_path / "frozen.log"
    frozen = start_forked(command[0], dst, *command[1:], log=frozen_log, faults="generation.written=stop")
    assert frozen.pid is not None
    try:
        wait_until(lambda: _is_stopped(frozen.pid), "the command is frozen")
        time.sleep(2)  # for longer than half of the lease's time it counts as alive
        assert forked(*convert, log=log) == 0, log.read_text()
        before = stamps_beside_lease(dst, 3)
        os.kill(frozen.pid, signal.SIGCONT)
        assert ended(frozen, frozen_log) == DIED, frozen_log.read_text()
    finally:
        frozen.kill()
        frozen.join(20)
    assert frozen_log.read_text().strip().endswith("[lease_lost]")
    assert stamps_beside_lease(dst, 3) == before, "a zombie changed something"
    assert not [key for key in before if key.startswith("manifest/head/")]
    assert forked(command[0], dst, *command[1:], log=log) == 0, log.read_text()
    assert [key for key in Folder(dst).stamps() if key.startswith("manifest/head/")]


def _is_stopped(pid: int | None) -> bool:
    return f"{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]}".split()[0] == "T"


def _stopped_workers(pid: int) -> list[psutil.Process]:
    return [worker for worker in descendants(pid, "RayWorker") if worker.status() == psutil.STATUS_STOPPED]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_worker_that_froze_is_ended_before_another_does_its_shards(tmp_path: Path) -> None:
    """No zombie can be: its raylet kills it. One that wakes is that of a node that froze (test_node_loss.py)."""
    photos, dst, once, log = tmp_path / "photos", tmp_path / "out", tmp_path / "once", tmp_path / "log"
    names = write_library(photos, num_photos=6, size=(24, 32))
    once.mkdir()
    options = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "3", "--quiet")
    env = {"HDRFLEET_FAULTS": "part.ready=stop", "HDRFLEET_FAULTS_ONCE": str(once)}
    driver = start_hdrfleet(
        *("convert", photos, dst, *options, "--image-timeout", "5"), home=tmp_path / "home", log=log, env=env
    )
    everything: list[Any] = []
    try:
        wait_until(lambda: bool(_stopped_workers(driver.pid)) or driver.poll() is not None, "a worker is frozen")
        everything = descendants(driver.pid)
        (frozen,) = _stopped_workers(driver.pid)
        before = Durable.of(Folder(dst))
        num_parts = len(list(dst.glob("manifest/plan=*/*.parquet")))
        wait_until(
            lambda: len(list(dst.glob("manifest/plan=*/*.parquet"))) > num_parts or driver.poll() is not None,
            "its shards are done by another",
            200,
        )
        assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE, "it could wake, and go on"
        assert driver.wait(150) == DONE, log.read_text()
    finally:
        driver.kill()
        driver.wait(20)
        end(everything)
    inputs = {name: (photos / name).read_bytes() for name in names}
    rows = require_whole(Folder(dst), inputs)
    assert max(row["attempt"] for row in rows) > 1
    before.require_kept(Folder(dst), rows)
    assert {row["source"]: row["error_code"] for row in rows} == names
    whole = forked("convert", photos, tmp_path / "whole", "--executor", "local", *options, log=tmp_path / "whole-log")
    assert whole == DONE, (tmp_path / "whole-log").read_text()
    assert comparable(rows) == comparable(require_whole(Folder(tmp_path / "whole"), inputs))
