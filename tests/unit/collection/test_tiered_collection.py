"""Collections beside generations that share files: nothing that a head still names goes, and little is read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from incremental_job import World, killed_at_each_step
from photographs import jpeg, picture

from pipeline.collection import collect
from pipeline.errors import ManifestError
from pipeline.manifest import compact, tiers
from pipeline.manifest.head import newest_head

NOTHING = timedelta(0)
ONE, TWO, THREE = (jpeg(picture(12, 16, seed=seed)) for seed in range(3))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Three plans, compacted after each, with files of two rows: the heads share most of them."""
    for name, value in (("MAX_FILE_ROWS", 2), ("FULL_ROWS", 1), ("SMALL_ROWS", 0)):
        monkeypatch.setattr(tiers, name, value)
    world = World(tmp_path / "photos")
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"):
        world.write(name, ONE)
    world.convert()
    compact(world.store)
    for data in (TWO, THREE):
        world.write("a.jpg", data)
        world.convert()
        compact(world.store)
    return world


def named(world: World) -> list[str]:
    head = newest_head(world.store)
    assert head is not None
    return [file.key for file in head.files]


def stored(world: World) -> set[str]:
    return {info.key for info in world.store.list("manifest") if "/gen-" in info.key and "/part-" in info.key}


def test_files_that_the_newest_head_shares_with_older_ones_stay(world: World) -> None:
    assert len(named(world)) == 5
    assert {key.split("/")[1] for key in named(world)} == {"gen-1", "gen-2", "gen-3"}
    assert stored(world) == set(named(world)), "nothing was written twice"
    rows = world.rows()
    done = collect(world.store, older_than=NOTHING)
    assert (done.num_heads, done.num_generation_files, done.num_parts) == (2, 0, 5)
    assert stored(world) == set(named(world))
    assert world.rows() == rows
    assert world.findings() == []


def test_marks_have_only_their_files_written(world: World) -> None:
    before = named(world)
    done = collect(world.store, keep_revisions=1, older_than=NOTHING)
    assert (done.num_marked, done.num_outputs) == (2, 2)
    after = named(world)
    # The first and the second row of a.jpg: in the first file, and in that of the second plan.
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True, False, True]
    assert stored(world) == {*before, *after}, "the head of the marks is younger than this collection"
    again = collect(world.store, keep_revisions=1, older_than=NOTHING)
    assert (again.num_marked, again.num_heads, again.num_generation_files) == (0, 1, 2)
    assert stored(world) == set(after)
    assert world.findings() == []
    assert collect(world.store, keep_revisions=1, older_than=NOTHING).num_deleted == 0


def test_only_files_that_stand_in_for_what_goes_are_read(world: World) -> None:
    collect(world.store, older_than=NOTHING)
    world.write("b.jpg", TWO)
    world.convert()
    compact(world.store)
    read: list[str] = []
    world.store.before = lambda operation, key: read.append(key) if operation == "read" else None
    assert collect(world.store, older_than=NOTHING).num_parts == 1
    world.store.before = lambda _operation, _key: None
    assert {key for key in read if "/gen-" in key} == {named(world)[-1]}
    assert world.findings() == []


def test_nothing_goes_for_a_damaged_file_that_stands_in(world: World) -> None:
    collect(world.store, older_than=NOTHING)
    world.write("b.jpg", TWO)
    world.convert()
    compact(world.store)
    key = named(world)[-1]
    good = world.store.inner.read(key)
    world.store.inner.replace(key, good[:-3])
    objects = world.store.objects()
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        collect(world.store, older_than=NOTHING)
    assert world.store.objects() == objects
    world.store.inner.replace(key, good)
    # A part that a zombie brought back to an old shard is covered by an old file, which is read again.
    old = named(world)[0]
    part = "manifest/plan=1/shard-000000.parquet"
    world.store.create(part, b"a zombie's")
    data = world.store.inner.read(old)
    world.store.inner.replace(old, b"damaged")
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        collect(world.store, older_than=NOTHING)
    world.store.inner.replace(old, data)
    assert collect(world.store, older_than=NOTHING).num_parts == 2
    assert world.findings() == []


def test_a_collection_that_is_killed_at_any_step_is_finished_by_the_next(world: World) -> None:
    start = world.store.objects()
    collect(world.store, keep_revisions=1, older_than=NOTHING)
    rows, end = world.rows(), world.store.objects("images")
    without_marks = [{**row, "collected_at": None} for row in rows]
    num_trials = 0

    def gc(trial: World) -> None:
        collect(trial.store, keep_revisions=1, older_than=NOTHING)

    # Every other step: this takes seconds.
    for trial in killed_at_each_step(world, start, gc, stride=2):
        num_trials += 1
        assert [{**row, "collected_at": None} for row in trial.rows()] == without_marks
        assert {code for code, _ in trial.findings(share=0.0)} <= {"orphan"}
        for _ in range(2):  # the head of the marks is younger than the collection that made it
            gc(trial)
        assert trial.findings(share=0.0) == []
        assert trial.store.objects("images") == end
        assert stored(trial) == set(named(trial))
    assert 2 * num_trials >= 4, "two files, the names of outputs, the head"


def test_a_compaction_that_lost_to_others_and_a_collection_harms_nobody(world: World) -> None:
    """It takes files over from a generation that is gone when its own head comes."""
    world.write("c.jpg", TWO)
    world.convert()

    def overtake() -> None:
        compact(world.store)
        for data in (THREE, ONE):
            world.write("c.jpg", data)
            world.convert()
            compact(world.store)
        collect(world.store, keep_revisions=1, older_than=NOTHING)

    world.store.once("create", "manifest/gen-4/", overtake)
    compact(world.store)
    rows = world.rows()
    assert len(rows) == 11
    assert world.findings() == []
    collect(world.store, older_than=NOTHING)
    assert world.rows() == rows
    assert stored(world) == set(named(world))
    assert world.findings() == []
