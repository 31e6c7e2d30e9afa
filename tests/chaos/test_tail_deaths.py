"""Processes die by SIGKILL at each step by which the last shard of a job is split, and its rows come together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import hdrfleet
from forked import forked
from independent_checker import Folder, Row, comparable, require_whole, rows_in
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


def require_like_a_quiet_run(dst: Path, library: Library, num_leftovers: int) -> None:
    rows = require_whole(Folder(dst), library.inputs, num_leftovers=num_leftovers)
    assert len(list(dst.glob("manifest/plan=1/*"))) == 2
    assert comparable(rows) == library.rows
    code = forked("verify", dst, "--deep", "--quiet", log=dst.with_name("verified"), timeout_s=100)
    assert code == (3 if Folder(dst).leftovers() else 0), dst.with_name("verified").read_text()


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("step", WORKER_STEPS)
def test_a_worker_dies(library: Library, tmp_path: Path, step: str) -> None:
    once = tmp_path / "once"
    once.mkdir()
    env = {"HDRFLEET_FAULTS": f"{step}=kill", "HDRFLEET_FAULTS_ONCE": str(once)}
    command = ("convert", library.folder, tmp_path / "out", *OPTIONS, "--workers", "2")
    run = hdrfleet(*command, home=tmp_path / "home", env=env, timeout_s=400)
    assert run.returncode == 0, run.stderr
    assert list(once.iterdir()), f"the step was not reached: {run.stderr}"
    require_like_a_quiet_run(tmp_path / "out", library, num_leftovers=2)


@pytest.mark.long
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("step", "passes"), DRIVER_STEPS)
def test_the_driver_dies(library: Library, tmp_path: Path, step: str, passes: int) -> None:
    reader = Folder(tmp_path / "out")
    command = ("convert", library.folder, tmp_path / "out", *OPTIONS, "--workers", "2")
    env = {"HDRFLEET_FAULTS": f"{step}=kill:{passes}"}
    first = hdrfleet(*command, home=tmp_path / "home", env=env, timeout_s=400)
    assert first.returncode == -9, f"the step was not reached: {first.stderr}"
    assert len(rows_in(reader)) <= 1, "what was split is committed as a whole or not at all"
    before = reader.stamps()
    again = hdrfleet(*command, home=tmp_path / "home", timeout_s=400)
    assert again.returncode == 0, again.stderr
    after = reader.stamps()
    stored = {key for key in before if key.startswith("images/")}
    assert stored, "the driver died before there was anything to adopt"
    assert {key: after[key] for key in stored} == {key: before[key] for key in stored}, "written again"
    require_like_a_quiet_run(tmp_path / "out", library, num_leftovers=4)
