"""What a collection removes, what it never removes, and what a killed one leaves."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from incremental_job import World, killed_at_each_step
from photographs import jpeg, picture

from jobs.options import parse_duration
from pipeline.codecs.exr import OutputIdentity, decode_exr
from pipeline.collection import Collection, collect
from pipeline.collection.revisions import _superseded
from pipeline.errors import ConfigError, LeaseLostError, ManifestError
from pipeline.manifest import Manifest, compact, open_manifest, part_key
from pipeline.manifest.head import newest_head
from pipeline.outputs import OutputStore
from pipeline.records import ImageTask

NOTHING = timedelta(0)
ONE, TWO, THREE = (jpeg(picture(12, 16, seed=seed)) for seed in range(3))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`a.jpg` at its third revision, `b.jpg` at its second, `c.jpg` and `sub/d.jpg` at their first; `e.jpg` broken."""
    world = World(tmp_path / "photos")
    for name in ("a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"):
        world.write(name, ONE)
    world.write("e.jpg", b"no picture")
    world.convert()
    world.write("a.jpg", TWO)
    world.write("b.jpg", TWO)
    world.convert()
    world.write("a.jpg", THREE)
    world.convert()
    return world


def gc(world: World, keep: int | None = 1, older_than: timedelta = NOTHING, **options: Any) -> Collection:
    return collect(world.store, keep_revisions=keep, older_than=older_than, **options)


def without_marks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "collected_at"} for row in rows]


def collected(world: World) -> set[str]:
    return {row["output"] for row in world.rows() if row["collected_at"] is not None}


def test_old_revisions_go_and_their_rows_stay_and_say_so(world: World) -> None:
    before, now = world.rows(), datetime.now(UTC)
    done = gc(world, now=now)
    assert world.images() == {"a.jpg.v3.exr", "b.jpg.v2.exr", "c.jpg.exr", "sub/d.jpg.exr"}
    assert (done.num_marked, done.num_outputs) == (3, 3)
    assert done.output_bytes > 0
    after = world.rows()
    assert without_marks(after) == without_marks(before)
    marks = {(row["source"], row["plan"]): row["collected_at"] for row in after if row["collected_at"] is not None}
    assert marks == {("a.jpg", 1): now, ("a.jpg", 2): now, ("b.jpg", 1): now}
    assert world.findings() == []
    again = gc(world)
    assert (again.num_marked, again.num_outputs, again.num_parts) == (0, 0, 5), "the marks' head has covered the parts"
    assert gc(world).num_deleted == 0
    assert world.rows() == after
    assert world.findings() == []


def test_as_many_revisions_as_asked_for_are_kept(world: World) -> None:
    gc(world, keep=2)
    assert world.images() == {
        f"{name}.exr" for name in ("a.jpg.v2", "a.jpg.v3", "b.jpg", "b.jpg.v2", "c.jpg", "sub/d.jpg")
    }
    gc(world, keep=9)
    assert len(world.images()) == 6
    gc(world, keep=1)
    assert len(world.images()) == 4
    with pytest.raises(ValueError, match="at least 1"):
        gc(world, keep=0)


def test_without_a_number_no_output_is_given_up(world: World) -> None:
    compact(world.store)
    images = world.images()
    done = gc(world, keep=None)
    assert (done.num_marked, done.num_outputs, done.num_parts) == (0, 0, 5)
    assert world.images() == images
    assert world.findings() == []


def test_nothing_younger_than_the_grace_period_is_touched(world: World) -> None:
    compact(world.store)
    objects = world.store.objects()
    done = gc(world, older_than=timedelta(hours=1))
    assert (done.num_marked, done.num_deleted) == (0, 0)
    assert world.store.objects() == objects
    soon = datetime.now(UTC) + timedelta(minutes=59)
    assert gc(world, older_than=timedelta(hours=1), now=soon).num_deleted == 0
    later = datetime.now(UTC) + timedelta(minutes=61)
    done = gc(world, older_than=timedelta(hours=1), now=later)
    assert (done.num_marked, done.num_outputs, done.num_parts, done.num_generation_files) == (3, 3, 5, 1)


def test_a_dry_run_says_the_same_and_writes_nothing(world: World) -> None:
    compact(world.store)
    objects = world.store.objects()
    told = gc(world, dry_run=True)
    assert world.store.objects() == objects
    done = gc(world)
    for name in ("num_marked", "num_outputs", "output_bytes", "num_parts", "num_plan_parts"):
        assert getattr(told, name) == getattr(done, name), name
    assert (told.num_outputs, told.num_parts) == (3, 5)


def test_the_output_of_a_current_row_stays_however_old_its_revision(world: World) -> None:
    world.write("b.jpg", ONE)  # as it was: adopts its first revision
    world.convert()
    assert (world.current("b.jpg")["output"], world.current("b.jpg")["adopted"]) == ("images/b.jpg.exr", True)
    gc(world)
    assert {"b.jpg.exr", "b.jpg.v2.exr", "a.jpg.v3.exr"} <= world.images()
    assert collected(world) == {"images/a.jpg.exr", "images/a.jpg.v2.exr"}
    world.write("b.jpg", b"broken now")
    world.convert()
    gc(world)
    assert {"b.jpg.v2.exr"} <= world.images(), "a failure takes nothing away"
    assert world.findings() == []


def test_what_a_store_may_take_for_a_current_output_stays(world: World) -> None:
    """On a store without case, A.jpg and a.jpg of the same bytes have one output: a.jpg adopts it."""
    world.write("X.jpg", ONE)
    world.convert()
    manifest = open_manifest(world.store)
    twin = {"source": "x.jpg", "output": "images/x.jpg.exr", "plan": 99}
    row = next(row for row in manifest.history.to_pylist() if row["source"] == "X.jpg")
    newer = {**row, "plan": 98, "revision": 2, "output": "images/X.jpg.v2.exr"}
    history = pa.Table.from_pylist([row, newer, {**row, **twin}], schema=manifest.history.schema)
    long_after = datetime.now(UTC) + timedelta(days=1)
    assert _superseded(Manifest(history), 1, long_after) == []
    alone = pa.Table.from_pylist([row, newer], schema=manifest.history.schema)
    assert _superseded(Manifest(alone), 1, long_after) == [("X.jpg", "images/X.jpg.exr")]


def test_a_collected_output_is_neither_adopted_nor_made_again(world: World) -> None:
    gc(world)
    world.write("a.jpg", ONE)  # the bytes of the first revision, which is gone
    world.convert()
    row = world.current("a.jpg")
    assert (row["output"], row["revision"], row["adopted"]) == ("images/a.jpg.v4.exr", 4, False)
    world.write("a.jpg", ONE)  # touched: adopts what is there
    world.convert()
    row = world.current("a.jpg")
    assert (row["output"], row["revision"], row["adopted"]) == ("images/a.jpg.v4.exr", 4, True)
    assert world.findings() == []


def identity(world: World, key: str) -> OutputIdentity:
    found = decode_exr(world.store.inner.read(key)).identity
    assert found is not None
    return found


def is_whole(data: bytes) -> bool:
    return decode_exr(data).image.pixels.size > 0


def test_the_output_store_passes_collected_revisions_by(world: World) -> None:
    third = world.store.inner.read("images/a.jpg.v3.exr")
    known = identity(world, "images/a.jpg.v3.exr")
    first, data = identity(world, "images/a.jpg.exr"), world.store.inner.read("images/a.jpg.exr")
    gc(world)
    outputs = OutputStore(world.store)
    # A planner that knows nothing of the later revisions, as of a source under another name of the same output.
    task = ImageTask("a.jpg", "a.jpg", 1, "", revision=1)
    found = outputs.find(task, known, is_whole)
    assert found is not None, "collected revisions are no gap"
    assert (found.revision, found.data) == (3, third)
    assert outputs.find(task, first, is_whole) is None
    assert outputs.put(task, first, data, is_whole).key == "images/a.jpg.v4.exr"
    # What comes back under a collected name is nobody's: not adopted, an orphan, and deleted by the next collection.
    world.store.create("images/a.jpg.exr", data)
    world.store.delete("images/a.jpg.v4.exr")
    assert outputs.find(task, first, is_whole) is None
    assert world.findings() == [("orphan", "images/a.jpg.exr")]
    assert "the next gc deletes it" in world.verify().findings[0].message
    done = gc(world)
    assert (done.num_marked, done.num_outputs) == (0, 1)
    assert world.findings() == []


def test_outputs_of_planned_work_are_left_alone(world: World) -> None:
    world.write("a.jpg", ONE)
    world.plan()
    done = gc(world)
    assert (done.num_marked, done.num_outputs) == (1, 1)
    assert {"a.jpg.exr", "a.jpg.v2.exr", "a.jpg.v3.exr"} <= world.images()
    world.finish()
    assert world.current("a.jpg")["output"] == "images/a.jpg.exr"
    assert world.findings() == []
    gc(world)
    assert world.images() == {"a.jpg.exr", "a.jpg.v3.exr", "b.jpg.v2.exr", "c.jpg.exr", "sub/d.jpg.exr"}
    assert world.findings() == []


def test_work_that_is_planned_and_done_before_the_marks_keeps_what_it_adopted(world: World) -> None:
    world.write("a.jpg", ONE)
    world.store.once("create", "manifest/head/", world.convert)
    done = gc(world)
    assert done.num_marked == 3, "the plan was not there yet"
    assert world.current("a.jpg")["output"] == "images/a.jpg.exr"
    assert "a.jpg.exr" in world.images()
    assert world.findings() == []
    gc(world)
    assert "a.jpg.exr" in world.images()
    world.write("a.jpg", TWO)
    world.convert()
    gc(world)
    assert "a.jpg.exr" not in world.images()
    assert world.findings() == []


def test_work_that_is_planned_before_the_marks_is_left_alone_until_it_is_done(world: World) -> None:
    world.write("a.jpg", ONE)
    world.store.once("create", "manifest/head/", world.plan)
    gc(world)
    assert {"a.jpg.exr", "a.jpg.v2.exr", "a.jpg.v3.exr"} <= world.images()
    assert "b.jpg.exr" not in world.images()
    world.finish()
    assert world.current("a.jpg")["output"] == "images/a.jpg.v4.exr", "marked by now"
    assert set(world.findings()) == {("orphan", "images/a.jpg.exr"), ("orphan", "images/a.jpg.v2.exr")}
    gc(world)
    assert world.images() == {"a.jpg.v4.exr", "b.jpg.v2.exr", "c.jpg.exr", "sub/d.jpg.exr"}
    assert world.findings() == []


def test_work_that_is_planned_while_outputs_are_deleted_does_not_adopt_them(world: World) -> None:
    world.write("a.jpg", ONE)
    world.store.once("delete", "images/a.jpg.exr", world.convert)
    gc(world)
    assert "a.jpg.exr" not in world.images()
    assert (world.current("a.jpg")["output"], world.current("a.jpg")["adopted"]) == ("images/a.jpg.v4.exr", False)
    assert world.findings() == []


def test_a_worker_that_outlives_a_collection_learns_of_it(world: World) -> None:
    worker = world.converter()
    world.write("c.jpg", TWO)
    world.plan()
    world.finish(worker)
    gc(world)
    world.write("a.jpg", ONE)
    world.store.create("images/a.jpg.exr", world.store.inner.read("images/sub/d.jpg.exr"))  # as a zombie brings it back
    world.plan()
    world.finish(worker)
    worker.close()
    assert world.current("a.jpg")["output"] == "images/a.jpg.v4.exr"
    assert world.findings() == [("orphan", "images/a.jpg.exr")]


def test_a_collection_that_is_killed_at_any_step_is_finished_by_the_next(world: World) -> None:
    compact(world.store)
    start = world.store.objects()
    gc(world)
    rows, end = without_marks(world.rows()), world.store.objects("images")
    num_steps = 0
    for trial in killed_at_each_step(world, start, gc):
        num_steps += 1
        assert without_marks(trial.rows()) == rows
        given_up = collected(trial)
        # Nothing is missing, and what is left over belongs to rows that say that they gave it up.
        findings = trial.findings(share=0.0)
        assert {code for code, _ in findings} <= {"orphan"}
        assert {key for _, key in findings} <= given_up
        gc(trial)
        assert trial.findings(share=0.0) == []
        assert trial.store.objects("images") == end
        assert without_marks(trial.rows()) == rows
        assert not [key for key in trial.store.objects("manifest") if "/plan=" in key]
    # Rows, names of outputs, head; 3 outputs, 5 parts, a head and its file. Deletions overlap, so some fall together.
    assert num_steps >= 3 + 3


def test_a_zombies_part_is_removed_with_the_others(world: World) -> None:
    compact(world.store)
    part = world.store.inner.read(part_key(1, 0))
    gc(world, keep=None)
    assert not list(world.store.list("manifest/plan=1"))
    world.store.create(part_key(1, 0), part)
    before = world.rows()
    assert world.job.pending() == []
    assert gc(world, keep=None).num_parts == 1
    assert world.rows() == before
    assert world.findings() == []


def test_superseded_generations_and_files_of_losers_go_and_those_in_the_making_stay(world: World) -> None:
    compact(world.store)
    world.write("c.jpg", TWO)
    world.convert()
    compact(world.store)
    ours = {info.key for info in world.store.list("manifest/gen-2")}
    for key in ("manifest/gen-1/part-00000-lost.parquet", "manifest/gen-2/part-00009-lost.parquet"):
        world.store.create(key, b"x")
    world.store.create("manifest/gen-3/part-00000-0123456789ab.parquet", b"x")
    world.store.create("manifest/head/1.json.old", b"not ours")
    done = gc(world, keep=None)
    assert (done.num_heads, done.num_generation_files) == (1, 3)
    left = {info.key for info in world.store.list("manifest")}
    assert left == ours | {
        "manifest/head/2.json",
        "manifest/head/1.json.old",
        "manifest/gen-3/part-00000-0123456789ab.parquet",
    }
    assert world.findings() == [("unknown_object", "manifest/head/1.json.old")]


def test_a_generation_is_superseded_when_the_next_one_has_settled(world: World) -> None:
    compact(world.store)
    start = datetime.now(UTC)
    world.write("c.jpg", TWO)
    world.convert()
    compact(world.store)
    # The first head is of age, the second is not: a query may still read the first.
    head = json.loads(world.store.inner.read("manifest/head/1.json"))
    head["created_at"] = (start - timedelta(hours=2)).isoformat()
    world.store.inner.replace("manifest/head/1.json", json.dumps(head).encode())
    done = gc(world, keep=None, older_than=timedelta(hours=1))
    assert (done.num_parts, done.num_heads, done.num_generation_files) == (5, 0, 0)
    assert [info.key for info in world.store.list("manifest/plan=4")] == [part_key(4, 0)]
    assert world.findings() == []


def test_plan_parts_that_no_committed_plan_names_go(world: World) -> None:
    folder = "_hdrfleet/plan"
    lost, in_the_making = f"{folder}/1/part-00000-lost.parquet", f"{folder}/9/part-00000-0123456789ab.parquet"
    for key in (lost, in_the_making, f"{folder}/1/notes.txt"):
        world.store.create(key, b"x")
    assert gc(world, keep=None, older_than=timedelta(hours=1)).num_plan_parts == 0
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert gc(world, keep=None, now=later).num_plan_parts == 1
    left = {info.key for info in world.store.list(folder)}
    assert lost not in left
    assert {in_the_making, f"{folder}/1/notes.txt"} <= left
    assert world.findings() == [("unknown_object", f"{folder}/1/notes.txt")]


def test_nothing_goes_for_a_generation_that_is_damaged(world: World) -> None:
    compact(world.store)
    (file,) = world.store.list("manifest/gen-1")
    world.store.inner.replace(file.key, b"PAR1")
    objects = world.store.objects()
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        gc(world, keep=None)
    assert world.store.objects() == objects
    assert [(code, key) for code, key in world.findings() if code != "orphan"] == [("part_damaged", file.key)]


def test_verification_sees_what_is_wrong_with_a_head(world: World) -> None:
    compact(world.store)
    key = "manifest/head/1.json"
    good = world.store.inner.read(key)
    (file,) = world.store.list("manifest/gen-1")
    head = json.loads(good)
    world.store.inner.replace(key, json.dumps({**head, "num_rows": 99}).encode())
    assert world.findings() == [("head_damaged", key)]
    world.store.inner.replace(key, b"{}")
    assert world.findings() == [("head_damaged", "manifest/head")]
    covered = {**head["covered"], "1": [[0, 9]]}
    world.store.inner.replace(key, json.dumps({**head, "covered": covered}).encode())
    assert {code for code, _ in world.findings()} == {"part_unplanned"}
    world.store.inner.replace(key, good)
    assert world.findings() == []
    world.store.delete(file.key)
    assert [(code, found) for code, found in world.findings() if code != "orphan"] == [("part_damaged", file.key)]


def test_verification_reads_what_a_head_says_was_collected(world: World) -> None:
    gc(world)
    (marks,) = [info.key for info in world.store.list("manifest") if "/collected-" in info.key]
    assert world.findings() == []
    world.store.inner.replace(marks, b"damaged")
    assert {code for code, _ in world.findings()} == {"head_damaged"}
    world.store.delete(marks)
    assert {code for code, _ in world.findings()} == {"head_damaged"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("30m", 1800), ("1h", 3600), ("1.5h", 5400), (" 2D ", 172800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text, "--older-than") == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "5", "-1h", "h", "nan", "infh", "1e99d", "1w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--older-than"):
        parse_duration(text, "--older-than")


class Owner:
    """Owns the destination for so many questions, and knows what was done between them."""

    def __init__(self, world: World, num_answers: int) -> None:
        self.num_left = num_answers
        self.done: list[tuple[str, str]] = []
        world.store.before = lambda operation, key: self.done.append((operation, key))

    def confirm(self) -> None:
        self.num_left -= 1
        if self.num_left < 0:
            raise LeaseLostError("taken over")
        self.done.append(("confirm", ""))


def test_a_collection_asks_before_its_head_and_before_every_few_deletions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pipeline.collection.collect"], "_BATCH_KEYS", 2)
    owner = Owner(world, 100)
    done = collect(world.store, keep_revisions=1, older_than=NOTHING, before_step=owner.confirm)
    assert done.num_outputs == 3
    steps = [operation for operation, key in owner.done if operation != "read" and "/gen-" not in key]
    assert steps[:6] == ["confirm", "create", "confirm", "delete", "delete", "confirm"]
    batches = " ".join(steps).split("confirm")
    assert all(batch.count("delete") <= 2 for batch in batches)


def test_a_collection_that_lost_the_destination_commits_and_deletes_nothing_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pipeline.collection.collect"], "_BATCH_KEYS", 2)
    before = world.images()
    for num_answers, num_deleted in ((0, 0), (1, 0), (1, 2)):
        owner = Owner(world, num_answers)
        with pytest.raises(LeaseLostError):
            collect(world.store, keep_revisions=1, older_than=NOTHING, before_step=owner.confirm)
        assert (newest_head(world.store) is not None) == (num_answers > 0)
        assert len(before) - len(world.images()) == num_deleted
