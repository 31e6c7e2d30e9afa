"""`compact`, `gc` and `repair` die by SIGKILL at each of their steps; the same command again, and nothing done anew.

On local files, moto and Swift. What must not be computed ends its process by another signal than the one that the test
asks for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import forked
from independent_checker import Bucket, Folder, Reader, Row, current, rows_in
from photographs import jpeg, picture

from pipeline.config import StorageConfig
from pipeline.storage import open_store

RUN = ("--executor", "local", "--quiet")
CONVERT = ("--weights", "identity", "--shard-images", "1", *RUN)
COMMANDS = {"compact": (), "gc": ("--keep-revisions", "1", "--older-than", "0")}
SOURCES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
CHANGED, DAMAGED = "c.jpg", "b.jpg"
OLD, EVIDENCE = f"images/{CHANGED}.exr", f"images/{DAMAGED}.exr"

ON_UPKEEP = [
    ("compact", "generation.written"),
    ("compact", "head.created"),
    ("gc", "generation.written"),
    ("gc", "head.created"),
    ("gc", "collection.deleted"),
]
SHORT_ON_UPKEEP = {("compact", "head.created"), ("gc", "collection.deleted")}
# Behind these the output of the repair is stored, and the next one adopts it.
STORED = ("output.created", "image.measured", "part.ready", "part.created", "shard.settled", "job.finished")
ON_REPAIR = (
    *("distrust.recorded", "lease.created", "plan.part_written", "plan.committed", "shard.leased"),
    *("image.fetched", "image.decoded", "image.inferred", "image.encoded", *STORED),
)
SHORT_ON_REPAIR = {"distrust.recorded", "part.ready"}
# A command takes seconds there; the steps of any job on Swift are in test_crash_matrix.py.
ON_REPAIR_ON_SWIFT = {"distrust.recorded", "plan.committed", "part.ready", "part.created"}


@dataclass(frozen=True)
class World:
    """A destination of four photographs, one of which changed; `reader` is no code of hdrfleet's."""

    photos: Path
    dst: str
    reader: Reader
    log: Path

    def run(self, command: str, *options: str, kill_at: str = "", forbidden: Iterable[str] = ()) -> int:
        """The command's exit code; `forbidden` are sources of which none may be computed."""
        faults = [f"{kill_at}=kill"] if kill_at else []
        faults += [f"image.inferred@{source}=abort" for source in forbidden]
        sources = (self.photos,) if command == "convert" else ()
        return forked(command, *sources, self.dst, *options, log=self.log, faults=",".join(faults))

    def change(self, seed: int) -> None:
        (self.photos / CHANGED).write_bytes(jpeg(picture(16, 24, seed=seed)))
        os.utime(self.photos / CHANGED, (seed, seed))

    def rows(self) -> list[Row]:
        """Every row of every revision, without when its output was given up."""
        found = [{name: value for name, value in row.items() if name != "collected_at"} for row in rows_in(self.reader)]
        return sorted(found, key=lambda row: (row["plan"], row["source"]))

    def images(self) -> dict[str, object]:
        return {key: stamp for key, stamp in self.reader.stamps().items() if key.startswith("images/")}

    def require_sound(self) -> None:
        assert self.run("verify", "--deep") == 0, self.log.read_text()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    photos, log = tmp_path / "photos", tmp_path / "log"
    photos.mkdir()
    for seed, name in enumerate(SOURCES):
        (photos / name).write_bytes(jpeg(picture(16, 24, seed=seed)))
    if request.param == "files":
        made = World(photos, str(tmp_path / "hdr"), Folder(tmp_path / "hdr"), log)
    else:
        server = request.getfixturevalue(f"{request.param}_server")
        bucket: Any = request.getfixturevalue("s3_bucket_on")(server)
        made = World(photos, f"{bucket.url}/hdr", Bucket(bucket.client, bucket.name, "hdr/"), log)
    assert made.run("convert", *CONVERT) == 0, log.read_text()
    made.change(50)
    assert made.run("convert", *CONVERT) == 0, log.read_text()
    return made


UPKEEP = [
    pytest.param(world, *step, marks=() if step in SHORT_ON_UPKEEP and world == "files" else pytest.mark.long)
    for step in ON_UPKEEP
    for world in ("files", "moto", "swift")
]


@pytest.mark.parametrize(("world", "command", "point"), UPKEEP, indirect=["world"])
def test_upkeep_that_died_is_done_by_the_next_one(world: World, command: str, point: str) -> None:
    rows, images = world.rows(), world.images()
    assert world.run(command, *COMMANDS[command], kill_at=point) == -signal.SIGKILL, world.log.read_text()
    assert world.rows() == rows
    assert images.items() - world.images().items() <= {(OLD, images[OLD])}
    assert world.run(command, *COMMANDS[command]) == 0, world.log.read_text()
    assert world.rows() == rows
    kept = {key: stamp for key, stamp in images.items() if command != "gc" or key != OLD}
    assert world.images() == kept
    assert world.run("convert", *CONVERT, forbidden=SOURCES) == 0, world.log.read_text()
    assert (world.rows(), world.images()) == (rows, kept), "a finished job did work"
    world.require_sound()


REPAIRS = [
    pytest.param(world, point, marks=() if point in SHORT_ON_REPAIR and world == "files" else pytest.mark.long)
    for point in ON_REPAIR
    for world in ("files", "moto", "swift")
    if world != "swift" or point in ON_REPAIR_ON_SWIFT
]


@pytest.mark.parametrize(("world", "point"), REPAIRS, indirect=["world"])
def test_a_repair_that_died_computes_no_more_than_it_planned(world: World, point: str) -> None:
    store = open_store(world.dst, StorageConfig())
    store.replace(EVIDENCE, store.read(EVIDENCE)[:-40])
    rows, images = world.rows(), world.images()
    others = set(SOURCES) - {DAMAGED}
    assert world.run("repair", *RUN, kill_at=point, forbidden=others) == -signal.SIGKILL, world.log.read_text()
    forbidden = SOURCES if point in STORED else others
    assert world.run("repair", *RUN, forbidden=forbidden) == 0, world.log.read_text()

    after = world.rows()
    assert [row for row in after if row in rows] == rows
    (anew,) = (row for row in after if row not in rows)
    assert (anew["source"], anew["revision"], anew["status"]) == (DAMAGED, 2, "ok")
    assert world.images().items() >= images.items(), "what was there was written again"
    assert world.images().keys() - images.keys() == {anew["output"]}
    assert {row["source"]: row["output"] for row in current(rows_in(world.reader))}[DAMAGED] == anew["output"]
    assert world.run("repair", *RUN, forbidden=SOURCES) == 0, world.log.read_text()
    assert world.rows() == after, "a second repair finds nothing to do"
    world.require_sound()
