"""Which files a compaction keeps and which it writes: few files, few rewritten rows, and every row once."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_builders import PROVENANCE, DictStore, make_shard, ok_result
from test_compaction import drop_parts, rows_of_head, rows_of_parts

from pipeline.errors import ManifestError, TransientStorageError
from pipeline.manifest import commit_part, compact, open_manifest, part_key, tiers
from pipeline.manifest.compaction import commit_marked
from pipeline.manifest.head import GenerationFile, Head, newest_head, shard_ranges
from pipeline.manifest.snapshot import take_snapshot
from pipeline.manifest.tiers import FULL_ROWS, MAX_FILE_ROWS, SMALL_ROWS, Segment, plan_segments


def file(first: tuple[int, int], last: tuple[int, int], num_rows: int) -> GenerationFile:
    return GenerationFile(key=f"{first}-{last}", sha256="", num_bytes=1, num_rows=num_rows, first=first, last=last)


def written(segments: list[Segment]) -> list[GenerationFile]:
    """The files of the next generation, cut as `write_files` cuts them where shards are small."""
    found: list[GenerationFile] = []
    for segment in segments:
        if segment.is_kept:
            found += segment.files
            continue
        keys = sorted([*segment.parts, *(key for one in segment.files for key in (one.first, one.last))])
        num_files = -(-segment.num_rows // MAX_FILE_ROWS)
        middle = [(keys[0][0], keys[0][1] + step) for step in range(1, num_files)]
        starts, ends = [keys[0], *middle], [*middle, keys[-1]]
        rows = [segment.num_rows // num_files] * num_files
        rows[-1] += segment.num_rows - sum(rows)
        found += [file(*span) for span in zip(starts, ends, rows, strict=True)]
    return found


@settings(max_examples=60)
@given(st.lists(st.integers(1, 3 * FULL_ROWS), min_size=1, max_size=60))
def test_daily_batches_leave_few_files_and_are_rewritten_a_bounded_number_of_times(batches: list[int]) -> None:
    files: list[GenerationFile] = []
    num_rows = num_written = 0
    for day, rows in enumerate(batches, start=1):
        segments = plan_segments(files, [((day, 0), rows)])
        num_written += sum(one.num_rows for one in segments if not one.is_kept)
        num_rows += rows
        files = written(segments)
        assert sum(one.num_rows for one in files) == num_rows
        open_files = [one.num_rows for one in files if one.num_rows < FULL_ROWS]
        assert [one.num_rows for one in files[len(files) - len(open_files) :]] == open_files, "only at the end"
        assert all(after <= before / 2 for before, after in pairwise(open_files))
        assert len(open_files) <= 1 + math.log2(FULL_ROWS / SMALL_ROWS) + 1
    # Each time that a row is written again its file has grown by half at least, or is small.
    assert num_written <= num_rows * (2 + math.log(FULL_ROWS / SMALL_ROWS, 1.5)) + len(batches) * SMALL_ROWS


def test_ten_years_of_days_cost_little_more_than_their_rows() -> None:
    files: list[GenerationFile] = []
    num_rows = num_written = whole = 0
    for day in range(1, 3651):
        segments = plan_segments(files, [((day, 0), 2_000)])
        num_written += sum(one.num_rows for one in segments if not one.is_kept)
        num_rows += 2_000
        whole += num_rows
        files = written(segments)
    assert num_written < 5 * num_rows
    assert whole > 300 * num_written, "what writing everything every day would have cost"
    assert len(files) <= num_rows / FULL_ROWS + 5


def test_late_parts_join_the_file_where_they_belong() -> None:
    files = [file((1, 2), (1, 9), FULL_ROWS), file((2, 0), (2, 9), FULL_ROWS), file((3, 0), (3, 9), FULL_ROWS)]
    late = [((1, 0), 5), ((1, 11), 6), ((2, 3), 7), ((4, 0), 8)]
    first, second, third, tail = plan_segments(files, late)
    assert (first.parts, first.num_rows) == ([(1, 0), (1, 11)], FULL_ROWS + 11)
    assert (second.parts, second.files) == ([(2, 3)], [files[1]])
    assert third.is_kept
    assert (tail.files, tail.parts, tail.num_rows) == ([], [(4, 0)], 8)


def test_a_mark_has_its_file_written_and_no_other() -> None:
    files = [file((plan, 0), (plan, 9), FULL_ROWS) for plan in (1, 2, 3)]
    assert [one.is_kept for one in plan_segments(files, [], {files[1].key})] == [True, False, True]


def test_a_small_file_does_not_stay_beside_what_comes_after() -> None:
    files = [file((1, 0), (1, 9), FULL_ROWS), file((2, 0), (2, 9), 9_000), file((3, 0), (3, 9), 4_400)]
    assert [one.num_rows for one in plan_segments(files, [((4, 0), 100)])] == [FULL_ROWS, 9_000, 4_400, 100]
    assert [one.num_rows for one in plan_segments(files, [((4, 0), 2_300)])] == [FULL_ROWS, 15_700]
    assert [one.num_rows for one in plan_segments(files, [((4, 0), 90_000)])] == [FULL_ROWS, 103_400]


def test_a_head_knows_which_shards_lie_between_two() -> None:
    head = Head(
        generation=1,
        created_at="",
        software_version="",
        num_rows=0,
        files=(),
        covered={1: shard_ranges({0, 1, 5}), 2: shard_ranges({0}), 4: shard_ranges({0, 2, 3})},
    )
    assert head.covered_between((1, 1), (4, 2)) == {(1, 1), (1, 5), (2, 0), (4, 0), (4, 2)}
    assert head.covered_between((4, 1), (4, 2)) == {(4, 2)}
    assert head.covered_between((3, 0), (3, 9)) == set()


@pytest.fixture
def small_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 8 rows, closed at 4: tens of rows make many of them."""
    for name, value in (("MAX_FILE_ROWS", 8), ("FULL_ROWS", 4), ("SMALL_ROWS", 0)):
        monkeypatch.setattr(tiers, name, value)


def commit(store: DictStore, plan: int, shard: int, num_rows: int) -> None:
    results = [ok_result(f"{plan}/{shard}/{index}.jpg") for index in range(num_rows)]
    commit_part(store, results, make_shard(*results, plan=plan, shard=shard), 1, PROVENANCE)


def keys_of(store: DictStore) -> list[str]:
    head = newest_head(store)
    return [one.key for one in head.files] if head else []


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_every_row_is_in_one_file_of_the_newest_head_whatever_came_when(small_tiers: None, seed: int) -> None:
    rng, store = random.Random(seed), DictStore()
    shards = [(plan, shard) for plan in range(1, 7) for shard in range(4)]
    # Mostly in order, with some that come late.
    shards.sort(key=lambda key: (key[0] + rng.choice((0, 0, 0, 0, 3)), key[1]))
    for generation, start in enumerate(range(0, len(shards), 3), start=1):
        for plan, shard in shards[start : start + 3]:
            commit(store, plan, shard, rng.choice((1, 1, 2, 3, 9)))
        history = open_manifest(store).history
        before = set(keys_of(store))
        done = compact(store)
        assert (done.generation, done.num_rows, done.won) == (generation, history.num_rows, True)
        assert rows_of_head(store, generation) == rows_of_parts(store)
        assert open_manifest(store).history.equals(history)
        kept = [key for key in keys_of(store) if key in before]
        head = newest_head(store)
        assert head is not None
        assert done.num_written == sum(one.num_rows for one in head.files if one.key not in kept)
        rows = [one.num_rows for one in head.files]
        assert max(rows) <= 9, "one shard has more rows than a file"
        assert sum(number < 4 for number in rows) <= 2 + rows.count(9)
    drop_parts(store)
    assert open_manifest(store).history.equals(history)


def test_files_that_need_no_change_are_neither_read_nor_written(small_tiers: None) -> None:
    store = DictStore()
    for plan in (1, 2, 3):
        commit(store, plan, 0, 6)
        compact(store)
    before = keys_of(store)
    assert len(before) == 3
    commit(store, 4, 0, 5)
    store.reads.clear()
    done = compact(store)
    assert (done.num_written, done.num_rows, done.num_files) == (5, 23, 4)
    assert not set(before) & set(store.reads)
    assert keys_of(store)[:3] == before
    assert len({key.split("/")[1] for key in keys_of(store)}) == 4, "files of four generations"


class Stopping(DictStore):
    """Ends with an error after so many objects were created."""

    def __init__(self, num_left: int) -> None:
        super().__init__()
        self.num_left = num_left

    def create(self, key: str, data: bytes, **options: Any) -> Any:
        if not self.num_left:
            raise TransientStorageError("killed here")
        self.num_left -= 1
        return super().create(key, data, **options)


def test_a_compaction_that_stops_at_any_step_changes_nothing(small_tiers: None) -> None:
    start = DictStore()
    for plan in (1, 2, 3):
        commit(start, plan, 0, 5)
        commit(start, plan, 2, 1)
        compact(start)
    commit(start, 2, 1, 2)
    commit(start, 4, 0, 3)
    history, num_steps = open_manifest(start).history, 0
    while True:
        store = Stopping(num_steps)
        store.objects = dict(start.objects)
        try:
            compact(store)
            break
        except TransientStorageError:
            num_steps += 1
        store.num_left = 99
        assert open_manifest(store).history.equals(history)
        assert compact(store).won
        assert rows_of_head(store, 4) == rows_of_parts(start)
    assert num_steps >= 3, "a file with a late shard, a file of what is new, the head"


def test_a_damaged_file_that_has_to_change_stops_a_compaction(small_tiers: None) -> None:
    store = DictStore()
    for plan in (1, 2):
        commit(store, plan, 0, 5)
        commit(store, plan, 2, 1)
        compact(store)
    first, second = keys_of(store)
    commit(store, 1, 1, 2)
    good = store.objects[first]
    store.objects[first] = good[:-9]
    before = dict(store.objects)
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        compact(store)
    assert store.objects == before
    store.objects[first] = good
    store.objects[second] = b"not looked at"
    compact(store)
    assert keys_of(store)[-1] == second
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        open_manifest(store)


def test_a_file_that_lacks_a_shard_that_its_head_covers_is_not_carried_on(small_tiers: None) -> None:
    store = DictStore()
    commit(store, 1, 0, 2)
    commit(store, 1, 3, 2)
    compact(store)
    head = newest_head(store)
    assert head is not None
    claims = head.model_copy(update={"covered": {1: ((0, 1), (3, 3))}})
    store.objects["manifest/head/1.json"] = claims.model_dump_json().encode()
    commit(store, 1, 2, 2)
    with pytest.raises(ManifestError, match="shard 1 of plan 1"):
        compact(store)


def test_marks_change_their_files_alone(small_tiers: None) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    store = DictStore()
    for plan in (1, 2, 3):
        commit(store, plan, 0, 5)
        compact(store)
    commit(store, 4, 0, 1)
    before = keys_of(store)
    snapshot, history = take_snapshot(store), open_manifest(store).history
    marks = pc.equal(history["source"], "2/0/3.jpg")
    field = history.schema.field("collected_at")
    values = pa.array(
        [
            row["finished_at"] if mark else None
            for row, mark in zip(history.to_pylist(), marks.to_pylist(), strict=True)
        ],
        field.type,
    )
    marked = history.set_column(history.schema.get_field_index("collected_at"), field, values)
    done = commit_marked(store, snapshot, marked, marks)
    assert (done.num_written, done.num_files, done.num_rows) == (6, 4, 16)
    after = keys_of(store)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]
    assert open_manifest(store).history.equals(marked)
    head = newest_head(store)
    assert head is not None
    assert len(head.collected) == 1
    commit(store, 5, 0, 5)
    compact(store)
    assert newest_head(store).collected == head.collected  # type: ignore[union-attr]
    assert part_key(4, 0) in store.objects
