"""Processes die by SIGKILL at each step by which the last shard of a job is split, and its rows come together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet, wait_for_workers
from forked import forked
from independent_checker import Bucket, Folder, Reader, Row, comparable, require_whole, rows_in
from photographs import jpeg, picture

NUM_PHOTOS = 26
LARGE_SHARD = 25
OPTIONS = (
    *("--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(LARGE_SHARD), "--quiet"),
)
WORKER_STEPS = ["images.ceded", "rows.ready"]
DRIVER_STEPS = [("shard.split", 1), ("rows.settled", 1), ("rows.settled", 2)]


@dataclass(frozen=True)
class Library:
    """What is converted, and the rows of a job that nothing happened to."""

    folder: Path
    inputs: dict[str, bytes]
    rows: list[Row]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The second shard is one small image: it brings the second worker, which is idle soon."""
    root = tmp_path_factory.mktemp("tail")
    folder = root / "photos"
    folder.mkdir()
    inputs = {f"{index:02}.jpg": jpeg(picture(192, 192, seed=index)) for index in range(NUM_PHOTOS - 1)}
    inputs["last.jpg"] = jpeg(picture(16, 16))
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    quiet = ("convert", folder, root / "whole", "--executor", "local", *OPTIONS)
    assert forked(*quiet, log=root / "log", timeout_s=150) == 0, (root / "log").read_text()
    return Library(folder, inputs, comparable(require_whole(Folder(root / "whole"), inputs)))


@dataclass(frozen=True)
class Destination:
    url: str
    reader: Reader
    num_leftovers: int  # that a killed worker may leave


@pytest.fixture
def folder(tmp_path: Path) -> Destination:
    return Destination(str(tmp_path / "out"), Folder(tmp_path / "out"), 2)


@pytest.fixture
def bucket(s3_bucket: Any) -> Destination:
    return Destination(f"{s3_bucket.url}/out", Bucket(s3_bucket.client, s3_bucket.name, "out/"), 0)


def require_like_a_quiet_run(dst: Destination, library: Library, log: Path, num_leftovers: int) -> None:
    rows = require_whole(dst.reader, library.inputs, num_leftovers=num_leftovers)
    assert sum(key.startswith("manifest/plan=1/") for key in dst.reader.stamps()) == 2
    assert comparable(rows) == library.rows
    code = forked("verify", dst.url, "--deep", "--quiet", log=log, timeout_s=100)
    assert code == (3 if dst.reader.leftovers() else 0), log.read_text()


def lose_a_worker(library: Library, dst: Destination, tmp_path: Path, step: str) -> None:
    once = tmp_path / "once"
    once.mkdir()
    env = {"HDRFLEET_FAULTS": f"{step}=kill", "HDRFLEET_FAULTS_ONCE": str(once)}
    command = ("convert", library.folder, dst.url, *OPTIONS, "--workers", "2")
    run = hdrfleet(*command, home=tmp_path / "home", env=env, timeout_s=400)
    assert run.returncode == 0, run.stderr
    assert list(once.iterdir()), f"the step was not reached: {run.stderr}"
    require_like_a_quiet_run(dst, library, tmp_path / "verified", dst.num_leftovers)


def lose_the_driver(library: Library, dst: Destination, tmp_path: Path, step: str, passes: int) -> None:
    reader = dst.reader
    command = ("convert", library.folder, dst.url, *OPTIONS, "--workers", "2")
    env = {"HDRFLEET_FAULTS": f"{step}=kill:{passes}"}
    first = hdrfleet(*command, home=tmp_path / "home", env=env, timeout_s=400)
    assert first.returncode == -9, f"the step was not reached: {first.stderr}"
    wait_for_workers(tmp_path / "home")
    assert len(rows_in(reader)) <= 1, "what was split is committed as a whole or not at all"
    before = reader.stamps()
    again = hdrfleet(*command, home=tmp_path / "home", timeout_s=400)
    assert again.returncode == 0, again.stderr
    after = reader.stamps()
    stored = {key for key in before if key.startswith("images/")}
    assert stored, "the driver died before there was anything to adopt"
    assert {key: after[key] for key in stored} == {key: before[key] for key in stored}, "written again"
    require_like_a_quiet_run(dst, library, tmp_path / "verified", 2 * dst.num_leftovers)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("step", WORKER_STEPS)
def test_a_worker_dies(library: Library, folder: Destination, tmp_path: Path, step: str) -> None:
    lose_a_worker(library, folder, tmp_path, step)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("step", "passes"), DRIVER_STEPS)
def test_the_driver_dies(library: Library, folder: Destination, tmp_path: Path, step: str, passes: int) -> None:
    lose_the_driver(library, folder, tmp_path, step, passes)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize("step", WORKER_STEPS)
def test_a_worker_dies_on_s3(library: Library, bucket: Destination, tmp_path: Path, step: str) -> None:
    lose_a_worker(library, bucket, tmp_path, step)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize(("step", "passes"), DRIVER_STEPS)
def test_the_driver_dies_on_s3(library: Library, bucket: Destination, tmp_path: Path, step: str, passes: int) -> None:
    lose_the_driver(library, bucket, tmp_path, step, passes)
