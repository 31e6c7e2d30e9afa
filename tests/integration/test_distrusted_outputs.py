"""What a repair found bad is never adopted again, wherever the repair was killed and whatever runs next."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import hdrfleet_here
from forked import forked
from photographs import jpeg, picture

from pipeline.codecs.exr import HdrImage, decode_exr, encode_exr
from pipeline.config import EncodeConfig, StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

# One image a shard, so that every step of the repair's plan is passed for the image that matters.
RUN = ("--executor", "local", "--quiet")
CONVERT = ("--weights", "identity", "--shard-images", "1", *RUN)
BAD = "b.jpg"


class World:
    """Photos and a destination where one output is not what its row says, though it is a sound EXR of its name."""

    def __init__(self, root: Path) -> None:
        self.photos, self.dst, self.log = root / "photos", root / "hdr", root / "log"
        self.photos.mkdir()
        for index, name in enumerate(("a.jpg", BAD, "c.jpg")):
            (self.photos / name).write_bytes(jpeg(picture(16, 24, seed=index)))
        assert hdrfleet_here("convert", self.photos, self.dst, *CONVERT) == 0
        self.bad_key = f"images/{BAD}.exr"
        self.good = (self.dst / self.bad_key).read_bytes()
        self.bad = darkened(self.good)
        (self.dst / self.bad_key).write_bytes(self.bad)

    def touch(self) -> None:
        """The same bytes with another time: a change by etag, which adopts where it can."""
        path = self.photos / BAD
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))

    def row(self) -> dict[str, Any]:
        current = open_manifest(open_store(str(self.dst), StorageConfig())).current.to_pylist()
        return next(row for row in current if row["source"] == BAD)

    def require_made_anew(self) -> None:
        """The current row names another object than the bad one, with the right pixels, and nothing is found."""
        row = self.row()
        assert row["status"] == "ok", row
        assert row["output"] != self.bad_key
        data = (self.dst / row["output"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
        assert data == self.good
        assert (self.dst / self.bad_key).read_bytes() == self.bad, "evidence stays"
        assert forked("verify", self.dst, "--deep", log=self.log) == 0, self.log.read_text()


def darkened(data: bytes) -> bytes:
    """Another picture under the same identity: no decoder can tell that it is not the one that was stored."""
    old = decode_exr(data)
    assert old.identity is not None
    assert old.provenance is not None
    pixels = np.ascontiguousarray(old.image.pixels / 2)
    return encode_exr(HdrImage(pixels, old.image.alpha), EncodeConfig(), old.identity, old.provenance)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


STEPS = (
    "distrust.recorded=kill",
    "lease.created=kill",
    "plan.part_written=kill",
    "plan.committed=kill",
    "image.fetched=kill",
    "image.inferred=kill",
    "output.created=kill",
    "part.ready=kill",
    "part.created=kill",
    "job.finished=kill",
)
# The others are in the long tier.
SHORT = {"distrust.recorded=kill", "plan.committed=kill", "output.created=kill"}
TIERS = [pytest.param(step, marks=() if step in SHORT else pytest.mark.long) for step in STEPS]


@pytest.mark.parametrize("step", TIERS)
@pytest.mark.parametrize("is_touched", [False, True], ids=["as it was", "touched"])
def test_a_killed_repair_is_finished_by_another(world: World, step: str, is_touched: bool) -> None:
    assert forked("repair", world.dst, *RUN, log=world.log, faults=step) == -signal.SIGKILL, world.log.read_text()
    if is_touched:
        world.touch()
    code = forked("repair", world.dst, *RUN, log=world.log)
    if is_touched and world.row()["error_code"] == "source_changed":
        assert code == 3  # the plan of the killed repair names the version of before
        code = forked("retry", world.dst, *RUN, log=world.log)
    assert code == 0, world.log.read_text()
    world.require_made_anew()


@pytest.mark.parametrize("step", TIERS)
def test_a_conversion_after_a_killed_repair_does_not_adopt_what_that_found(world: World, step: str) -> None:
    assert forked("repair", world.dst, *RUN, log=world.log, faults=step) == -signal.SIGKILL, world.log.read_text()
    world.touch()
    arguments = ("convert", world.photos, world.dst, *CONVERT)
    assert forked(*arguments, log=world.log) == 0, world.log.read_text()
    world.require_made_anew()


def test_a_plan_that_was_waiting_does_not_adopt_it_either(world: World) -> None:
    world.touch()
    arguments = ("convert", world.photos, world.dst, *CONVERT)
    assert forked(*arguments, log=world.log, faults="plan.committed=kill") == -signal.SIGKILL, world.log.read_text()
    # The waiting plan is finished first; it must not take the bad output for the row that it commits.
    assert forked("repair", world.dst, *RUN, log=world.log, faults="part.created=kill") == -signal.SIGKILL
    assert world.row()["plan"] == 2
    assert (world.row()["output"], world.row()["adopted"]) == (f"images/{BAD[:-4]}.jpg.v2.exr", False)
    assert forked("repair", world.dst, *RUN, log=world.log) == 0, world.log.read_text()
    world.require_made_anew()


def test_a_replacement_that_fails_and_is_retried_is_computed(world: World) -> None:
    source = world.photos / BAD
    data = source.read_bytes()
    source.write_bytes(b"no picture for a while")
    assert forked("repair", world.dst, *RUN, log=world.log) == 3
    assert world.row()["error_code"] == "unsupported_format"
    source.write_bytes(data)
    assert forked("retry", world.dst, *RUN, log=world.log) == 0, world.log.read_text()
    world.require_made_anew()


def test_a_repaired_output_that_is_lost_does_not_bring_the_bad_one_back(world: World) -> None:
    assert forked("repair", world.dst, *RUN, log=world.log) == 0, world.log.read_text()
    repaired = world.row()["output"]
    (world.dst / repaired).unlink()
    world.touch()
    assert forked("convert", world.photos, world.dst, *CONVERT, log=world.log) == 0, world.log.read_text()
    row = world.row()
    assert row["output"] not in {world.bad_key, repaired}
    assert (world.dst / row["output"]).read_bytes() == world.good
    assert forked("repair", world.dst, *RUN, log=world.log) == 0, world.log.read_text()
    assert forked("verify", world.dst, "--deep", log=world.log) == 0, world.log.read_text()


def test_a_compacted_manifest_is_no_way_around(world: World) -> None:
    assert hdrfleet_here("compact", world.dst) == 0
    assert forked("repair", world.dst, *RUN, log=world.log, faults="lease.created=kill") == -signal.SIGKILL
    world.touch()
    assert forked("convert", world.photos, world.dst, *CONVERT, log=world.log) == 0, world.log.read_text()
    world.require_made_anew()
    assert hdrfleet_here("compact", world.dst) == 0
    assert hdrfleet_here("gc", world.dst, "--older-than", "0") == 0
    world.require_made_anew()


def test_a_damaged_record_stops_work_and_is_found(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert forked("repair", world.dst, *RUN, log=world.log) == 0, world.log.read_text()
    (record,) = (world.dst / "_hdrfleet/distrusted").iterdir()
    data = record.read_bytes()
    record.write_bytes(data[:-4])
    capsys.readouterr()
    assert hdrfleet_here("verify", world.dst, "--json") == 3
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["code"] for finding in findings} == {"distrust_damaged"}
    world.touch()
    assert hdrfleet_here("convert", world.photos, world.dst, *CONVERT) == 1
    assert record.name in capsys.readouterr().err
    record.write_bytes(data)
    assert hdrfleet_here("convert", world.photos, world.dst, *CONVERT) == 0
    assert hdrfleet_here("verify", world.dst) == 0
