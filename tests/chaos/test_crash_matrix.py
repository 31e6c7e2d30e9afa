"""The driver dies by SIGKILL at every named step; the same command again, and an independent look at the store.

The local executor's process is driver and worker at once, so each step of both is reached. Workers and raylets of Ray
die in test_crash_ray.py.
"""

from __future__ import annotations

import json
import signal
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import forked
from independent_checker import Bucket, Folder, Reader, comparable, require_whole, rows_in
from photographs import jpeg, picture, write_library

from pipeline.faults import POINTS
from pipeline.storage.probe import NUM_ROUNDS

SHARD_IMAGES = 3
OPTIONS = (
    *("--executor", "local", "--weights", "identity", "--precision", "fp32", "--device", "cpu"),
    *("--shard-images", str(SHARD_IMAGES), "--quiet"),
)
FINISHED_WITH_FAILURES = 3

# (point, at which pass). Files are named often: for job.json, the lease, the plan, outputs, parts.
ONCE = ["job.created", "lease.created", "plan.part_written", "plan.committed", "job.finished"]
PER_SHARD = ["shard.leased", "shard.settled", "part.ready", "part.created"]
PER_IMAGE = ["image.fetched", "image.decoded", "image.inferred", "image.encoded", "output.created", "image.measured"]
PER_FILE = ["file.written", "file.named"]
EVERYWHERE = [(name, 1) for name in ONCE] + [(name, n) for name in PER_SHARD + PER_IMAGE for n in (1, 3)]
# (point, at which pass, what else happens). A job of a fraction of a second has to wait for its first sign of life.
STANDS_STILL = ",image.inferred=hang:2"
ON_LEASE = [
    ("lease.claimed", 1, ""),
    ("lease.renewed", 1, STANDS_STILL),
    ("lease.renewed", 3, STANDS_STILL),
    ("lease.released", 1, ""),
]
# What the probe of the store makes comes first: in each of its rounds eight creators race, with a file each.
NUM_CREATORS = 8
PROBE_FILES = {"file.written": 2 + NUM_CREATORS * NUM_ROUNDS, "file.named": 1 + NUM_ROUNDS}
ON_FILES = [(name, n) for name in PER_FILE for n in (1, 2, 3, PROBE_FILES[name])]
ON_FILES += [(name, PROBE_FILES[name] + n) for name in PER_FILE for n in (*range(1, 5), 7, 11)]
# One pass of each step is in the short tier, a few steps on moto; all of them, and Swift, are in the long one.
SHORT_ON_FILES = {
    *((name, 1) for name in ONCE),
    *((name, 3) for name in PER_SHARD + PER_IMAGE),
    ("file.written", 3),
    ("file.named", PROBE_FILES["file.named"] + 7),
}
SHORT_ON_LEASE = {("lease.renewed", 1, STANDS_STILL)}
SHORT_ON_S3 = {("plan.part_written", 1), ("output.created", 3), ("part.ready", 1), ("part.created", 3)}
NUM_LEFTOVERS = NUM_CREATORS


@dataclass(frozen=True)
class Library:
    """What is converted, and the rows of a job that nothing happened to."""

    folder: Path
    inputs: dict[str, bytes]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    root = tmp_path_factory.mktemp("crash")
    folder = root / "photos"
    expected = write_library(folder, num_photos=6, size=(24, 32))
    code = forked("convert", folder, root / "whole", *OPTIONS, log=root / "log")
    assert code == FINISHED_WITH_FAILURES, (root / "log").read_text()
    inputs = {name: (folder / name).read_bytes() for name in expected}
    rows = require_whole(Folder(root / "whole"), inputs)
    assert {row["source"]: row["error_code"] for row in rows} == expected
    return Library(folder, inputs, comparable(rows))


def done_in(reader: Reader) -> set[str]:
    """The sources of which a row is committed or an output stored: nothing of them is to be computed again."""
    stored = {key.removeprefix("images/") for key in reader.stamps() if key.startswith("images/")}
    return {row["source"] for row in rows_in(reader)} | {key.removesuffix(".exr") for key in stored}


def unless_computed(sources: Collection[str]) -> str:
    """Faults that end a process as soon as it computes one of these."""
    return ",".join(f"image.inferred@{source}=abort" for source in sources)


def crash_and_resume(
    library: Library, dst: str, reader: Reader, log: Path, fault: str, options: tuple[str, ...] = ()
) -> None:
    code = forked("convert", library.folder, dst, *OPTIONS, *options, log=log, faults=fault)
    assert code == -signal.SIGKILL, f"the step was not reached: {log.read_text()}"
    before, committed = reader.stamps(), {row["output"] for row in rows_in(reader)}
    code = forked("convert", library.folder, dst, *OPTIONS, log=log, faults=unless_computed(done_in(reader)))
    assert code == FINISHED_WITH_FAILURES, log.read_text()

    rows = require_whole(reader, library.inputs, num_leftovers=NUM_LEFTOVERS if fault.startswith("file.") else 1)
    assert comparable(rows) == library.rows, "rows differ from those of a job that nothing happened to"
    after = reader.stamps()
    durable = {key for key in before if not key.startswith("_hdrfleet/lease/")}
    assert {key: after.get(key) for key in durable} == {key: before[key] for key in durable}, "written again"
    stored = {key for key in before if key.startswith("images/")}
    adopted = {row["output"] for row in rows if row["adopted"]}
    # Computing again what is there gives the same bytes, which the row then calls its own.
    assert adopted - committed == stored - committed, "what was stored and not committed was computed again"

    again = forked("convert", library.folder, dst, *OPTIONS, log=log, faults=unless_computed(library.inputs))
    assert again == FINISHED_WITH_FAILURES, log.read_text()
    assert rows_in(reader) == rows, "a finished job did work"
    verified = log.with_name("verify.json")
    code = forked("verify", dst, "--deep", "--json", "--quiet", log=verified)
    findings = json.loads(verified.read_text())["findings"]
    assert {finding["code"] for finding in findings} <= {"unfinished_write"}
    assert len(findings) == len(reader.leftovers())
    assert code == (FINISHED_WITH_FAILURES if findings else 0)


def test_every_point_is_in_the_matrix() -> None:
    elsewhere = {"upload.started", "upload.sent"}
    elsewhere |= {
        "generation.written",
        "head.created",
        "collection.deleted",
        "distrust.recorded",
    }  # test_crash_upkeep.py
    elsewhere |= {"images.ceded", "shard.split", "rows.ready", "rows.settled"}  # test_tail_deaths.py
    on_lease = {name for name, _, _ in ON_LEASE}
    assert set(POINTS) == {*ONCE, *on_lease, *PER_SHARD, *PER_IMAGE, *PER_FILE, *elsewhere}


def _tiers(steps: Sequence[tuple[Any, ...]], short: Collection[tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*step, marks=() if step in short else pytest.mark.long) for step in steps]


@pytest.mark.parametrize(("point", "passes"), _tiers(EVERYWHERE + ON_FILES, SHORT_ON_FILES))
def test_files(library: Library, tmp_path: Path, point: str, passes: int) -> None:
    dst = tmp_path / "out"
    crash_and_resume(library, str(dst), Folder(dst), tmp_path / "log", f"{point}=kill:{passes}")


@pytest.mark.parametrize("s3_server", ["moto", pytest.param("swift", marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize(("point", "passes"), _tiers(EVERYWHERE, SHORT_ON_S3))
def test_s3(library: Library, s3_bucket: Any, tmp_path: Path, point: str, passes: int) -> None:
    reader = Bucket(s3_bucket.client, s3_bucket.name, "out/")
    crash_and_resume(library, f"{s3_bucket.url}/out", reader, tmp_path / "log", f"{point}=kill:{passes}")


def leases(reader: Reader) -> dict[int, Any]:
    """What the objects of the lease say, by epoch."""
    keys = sorted(key for key in reader.stamps() if key.startswith("_hdrfleet/lease/"))
    return {record["epoch"]: record for record in (json.loads(reader.read(key)) for key in keys)}


def crash_on_lease(library: Library, dst: str, reader: Reader, log: Path, fault: str) -> None:
    # The first sign of life comes after a sixth of this time. The next driver of the same machine does not wait for it.
    is_renewed = fault.startswith("lease.renewed")
    crash_and_resume(library, dst, reader, log, fault, ("--lease-timeout", "1") if is_renewed else ())
    found = leases(reader)
    assert sorted(found) == [1, 2, 3], "one epoch for each run"
    assert [found[epoch]["released"] for epoch in found] == [fault.startswith("lease.released"), True, True]
    if is_renewed:
        assert found[1]["beat"] == int(fault.partition(",")[0].rpartition(":")[2])


@pytest.mark.parametrize(("point", "passes", "besides"), _tiers(ON_LEASE, SHORT_ON_LEASE))
def test_lease_on_files(library: Library, tmp_path: Path, point: str, passes: int, besides: str) -> None:
    dst = tmp_path / "out"
    crash_on_lease(library, str(dst), Folder(dst), tmp_path / "log", f"{point}=kill:{passes}{besides}")


@pytest.mark.long
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize(("point", "passes", "besides"), ON_LEASE)
def test_lease_on_s3(library: Library, s3_bucket: Any, tmp_path: Path, point: str, passes: int, besides: str) -> None:
    reader, dst = Bucket(s3_bucket.client, s3_bucket.name, "out/"), f"{s3_bucket.url}/out"
    crash_on_lease(library, dst, reader, tmp_path / "log", f"{point}=kill:{passes}{besides}")


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("s3_server", ["moto", "swift"], indirect=True)
@pytest.mark.parametrize("point", ["upload.started", "upload.sent"])
def test_an_upload_in_parts(s3_bucket: Any, tmp_path: Path, point: str) -> None:
    """The output is larger than 100 MB, so it is sent in parts; the process dies before it is complete."""
    from fakes import tiny_network
    from safetensors.torch import save_file

    save_file(dict(tiny_network().state_dict()), tmp_path / "tiny.safetensors")
    photos, log = tmp_path / "photos", tmp_path / "log"
    photos.mkdir()
    (photos / "large.jpg").write_bytes(jpeg(picture(3000, 3100)))
    options = ("--executor", "local", "--precision", "fp32", "--device", "cpu", "--quiet")
    large = ("--weights", tmp_path / "tiny.safetensors", "--pixel-type", "float", "--compression", "none")
    command = ("convert", photos, f"{s3_bucket.url}/out", *options, *large)
    reader = Bucket(s3_bucket.client, s3_bucket.name, "out/")
    assert forked(*command, log=log, faults=f"{point}=kill", timeout_s=120) == -signal.SIGKILL, log.read_text()
    assert len(reader.leftovers()) == 1
    assert forked(*command, log=log, timeout_s=120) == 0, log.read_text()
    (row,) = require_whole(reader, {"large.jpg": (photos / "large.jpg").read_bytes()})
    assert row["output_bytes"] > 100 * 2**20
    assert reader.leftovers() == [], "what the dead one had sent is still there"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40))
def test_one_job_that_dies_again_and_again(library: Library, tmp_path: Path, seed: int) -> None:
    """Up to six deaths of the same job, each at a step drawn from the seed."""
    dst = tmp_path / "out"
    steps = EVERYWHERE + ON_FILES
    for death in range(6):
        point, passes = steps[zlib.crc32(f"{seed}/{death}".encode()) % len(steps)]
        code = forked("convert", library.folder, dst, *OPTIONS, log=tmp_path / "log", faults=f"{point}=kill:{passes}")
        assert code in {-signal.SIGKILL, FINISHED_WITH_FAILURES}, (tmp_path / "log").read_text()
    assert forked("convert", library.folder, dst, *OPTIONS, log=tmp_path / "log") == FINISHED_WITH_FAILURES
    rows = require_whole(Folder(dst), library.inputs, num_leftovers=6 * NUM_LEFTOVERS)
    assert comparable(rows) == library.rows
