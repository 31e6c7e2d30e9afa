"""Generations: the same rows in fewer files, whatever happens beside or in the middle of a compaction."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from manifest_builders import PROVENANCE, DictStore, failed_result, make_shard, ok_result

from pipeline.errors import ManifestError, ObjectMissingError, TransientStorageError
from pipeline.manifest import (
    commit_part,
    committed_parts,
    compact,
    completed_shards,
    generation,
    open_manifest,
    part_key,
    tiers,
)
from pipeline.manifest.generation import GenerationReader
from pipeline.manifest.head import MAX_LOOKS, Head, head_key, newest_head, shard_ranges
from pipeline.records import ShardResult

Row = dict[str, Any]


class HookedStore(DictStore):
    """Calls `before(operation, key)` ahead of every read, create and list."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str, str], None] = lambda _operation, _key: None

    def read(self, key: str, **options: Any) -> bytes:
        self.before("read", key)
        return super().read(key, **options)

    def create(self, key: str, data: bytes, **options: Any) -> Any:
        self.before("create", key)
        return super().create(key, data, **options)

    def once(self, operation: str, text: str, action: Callable[[], None]) -> None:
        """Run `action` ahead of the first such operation, and none after."""

        def before(found: str, key: str) -> None:
            if found == operation and text in key:
                self.before = lambda _operation, _key: None
                action()

        self.before = before


def commit(store: DictStore, *sources: str, plan: int = 1, shard: int = 0, attempt: int = 1) -> ShardResult:
    results = [failed_result(source) if "bad" in source else ok_result(source) for source in sources]
    return commit_part(store, results, make_shard(*results, plan=plan, shard=shard), attempt, PROVENANCE)


def rows_of_parts(store: DictStore) -> list[Row]:
    """Every row of every part, by none of the code under test."""
    keys = [key for key in store.objects if key.startswith("manifest/plan=")]
    rows = [row for key in keys for row in pq.read_table(io.BytesIO(store.objects[key])).to_pylist()]
    return sorted(rows, key=lambda row: (row["plan"], row["shard"], row["source"]))


def rows_of_head(store: DictStore, number: int) -> list[Row]:
    """Every row that a head's files hold, by none of the code under test."""
    head = json.loads(store.objects[f"manifest/head/{number}.json"])
    rows: list[Row] = []
    for file in head["files"]:
        data = store.objects[file["key"]]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        found = pq.read_table(io.BytesIO(data)).to_pylist()
        assert len(found) == file["num_rows"]
        assert [[found[n]["plan"], found[n]["shard"]] for n in (0, -1)] == [file["first"], file["last"]]
        rows.extend(found)
    assert [(row["plan"], row["shard"]) for row in rows] == sorted((row["plan"], row["shard"]) for row in rows)
    return sorted(rows, key=lambda row: (row["plan"], row["shard"], row["source"]))


def drop_parts(store: DictStore) -> None:
    for key in [key for key in store.objects if key.startswith("manifest/plan=")]:
        del store.objects[key]


@pytest.fixture
def store() -> HookedStore:
    """Two plans; in plan 1, shard 2 is not committed yet."""
    store = HookedStore()
    commit(store, "a.jpg", "bad.jpg", plan=1, shard=0)
    commit(store, "c.jpg", "d.jpg", plan=1, shard=1)
    commit(store, "f.jpg", plan=1, shard=3)
    commit(store, "a.jpg", "g.jpg", plan=10, shard=0)
    return store


def sources(store: DictStore) -> list[tuple[int, int, str]]:
    rows = open_manifest(store).history.to_pylist()
    return [(row["plan"], row["shard"], row["source"]) for row in rows]


def test_a_generation_holds_every_row_as_it_was(store: HookedStore) -> None:
    before, history = rows_of_parts(store), open_manifest(store).history

    done = compact(store)

    assert (done.generation, done.did_work, done.won, done.num_merged, done.num_rows) == (1, True, True, 4, 7)
    assert rows_of_head(store, 1) == before
    assert rows_of_parts(store) == before, "parts stay"
    assert open_manifest(store).history.equals(history)
    store.reads.clear()
    assert open_manifest(store).history.equals(history)
    assert not [key for key in store.reads if "plan=" in key], "what is covered is not read"
    drop_parts(store)
    assert open_manifest(store).history.equals(history)


def test_covered_shards_count_as_committed_with_and_without_their_parts(store: HookedStore) -> None:
    expected = {1: {0, 1, 3}, 10: {0}}
    assert committed_parts(store) == expected
    compact(store)
    assert committed_parts(store) == expected
    drop_parts(store)
    assert committed_parts(store) == expected
    assert completed_shards(store, 1) == {0, 1, 3}
    commit(store, "e.jpg", plan=1, shard=2)
    assert committed_parts(store) == {1: {0, 1, 2, 3}, 10: {0}}


def test_a_late_shard_lies_between_the_rows_of_the_generation(store: HookedStore) -> None:
    compact(store)
    commit(store, "e.jpg", plan=1, shard=2)
    commit(store, "z.jpg", plan=11, shard=0)
    commit(store, "0.jpg", plan=2, shard=5)
    expected = [
        (1, 0, "a.jpg"),
        (1, 0, "bad.jpg"),
        (1, 1, "c.jpg"),
        (1, 1, "d.jpg"),
        (1, 2, "e.jpg"),
        (1, 3, "f.jpg"),
        (2, 5, "0.jpg"),
        (10, 0, "a.jpg"),
        (10, 0, "g.jpg"),
        (11, 0, "z.jpg"),
    ]
    assert sources(store) == expected
    before = rows_of_parts(store)

    done = compact(store)

    assert (done.generation, done.num_merged, done.num_rows) == (2, 3, 10)
    assert rows_of_head(store, 2) == before
    drop_parts(store)
    assert sources(store) == expected
    assert [row["plan"] for row in open_manifest(store).current.to_pylist() if row["source"] == "a.jpg"] == [10]


def test_nothing_new_is_no_work(store: HookedStore) -> None:
    assert not compact(DictStore()).did_work
    compact(store)
    objects = dict(store.objects)
    again = compact(store)
    assert (again.did_work, again.generation, again.num_rows) == (False, 1, 7)
    assert store.objects == objects


def test_files_and_row_groups_hold_whole_shards(store: HookedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "MAX_FILE_ROWS", 6)
    monkeypatch.setattr(generation, "MAX_GROUP_ROWS", 3)
    commit(store, *(f"many/{n}.jpg" for n in range(8)), plan=11, shard=0)
    commit(store, "late.jpg", plan=11, shard=1)
    history = open_manifest(store).history
    compact(store)
    head = newest_head(store)
    assert head is not None
    assert [(file.first, file.last, file.num_rows) for file in head.files] == [
        ((1, 0), (1, 3), 5),
        ((10, 0), (10, 0), 2),
        ((11, 0), (11, 0), 8),
        ((11, 1), (11, 1), 1),
    ]
    first = pq.ParquetFile(io.BytesIO(store.objects[head.files[0].key])).metadata
    assert [first.row_group(n).num_rows for n in range(first.num_row_groups)] == [2, 3]
    columns = [first.schema.column(n).name for n in range(first.num_columns)]
    shard = first.row_group(1).column(columns.index("shard")).statistics
    assert (shard.min, shard.max) == (1, 3)
    assert open_manifest(store).history.equals(history)
    assert open_manifest(store, columns=["width"]).history.equals(history.select(["source", "width", "plan"]))

    reader = GenerationReader(store, head, ("source", "status"))
    for plan, number in [(1, 0), (1, 1), (1, 3), (10, 0), (11, 0), (11, 1), (1, 1)]:
        found = reader.shard(plan, number).to_pylist()
        expected = [row for row in history.to_pylist() if (row["plan"], row["shard"]) == (plan, number)]
        assert found == [{"source": row["source"], "status": row["status"]} for row in expected]
    with pytest.raises(ManifestError, match="without its rows"):
        reader.shard(12, 0)
    with pytest.raises(ManifestError, match="lacks shard 2 of plan 1"):
        reader.shard(1, 2)


def test_a_part_that_a_zombie_brings_back_is_nobodys(store: HookedStore) -> None:
    compact(store)
    history = open_manifest(store).history
    drop_parts(store)
    late = commit(store, "a.jpg", "bad.jpg", plan=1, shard=0, attempt=7)
    assert (late.committed, late.num_ok, late.num_failed, late.megapixels) == (False, 1, 1, 6.0)
    assert open_manifest(store).history.equals(history)
    again = commit(store, "a.jpg", "bad.jpg", plan=1, shard=0, attempt=8)
    assert (again.committed, again.num_ok) == (False, 1)
    with pytest.raises(ManifestError, match="other sources"):
        commit(store, "x.jpg", plan=1, shard=1)


def test_a_part_that_is_collected_while_a_loser_reads_it_is_read_from_its_generation(store: HookedStore) -> None:
    compact(store)
    store.once("read", part_key(1, 0), lambda: drop_parts(store))
    late = commit(store, "a.jpg", "bad.jpg", plan=1, shard=0, attempt=2)
    assert (late.committed, late.num_ok, late.num_failed) == (False, 1, 1)


def test_an_attempt_that_is_compacted_before_it_looks_has_committed(store: HookedStore) -> None:
    list_before, calls = store.list, []

    def compacted_first(prefix: str = "") -> Any:
        if not calls:
            calls.append(prefix)
            compact(store)
        return list_before(prefix)

    store.list = compacted_first  # type: ignore[method-assign]
    done = commit(store, "e.jpg", plan=1, shard=2, attempt=3)
    assert calls
    assert committed_parts(store)[1] == {0, 1, 2, 3}
    assert newest_head(store).covers(1, 2)  # type: ignore[union-attr]
    assert done.committed


def test_of_two_compactors_one_wins_and_the_other_says_so(store: HookedStore) -> None:
    history = open_manifest(store).history
    store.once("create", "manifest/head/", lambda: compact(store) and commit(store, "e.jpg", plan=1, shard=2))
    lost = compact(store)
    assert (lost.did_work, lost.won, lost.generation) == (True, False, 1)
    assert len(sources(store)) == history.num_rows + 1
    # The loser had written the very same files: named by content, they are the winner's.
    assert len([key for key in store.objects if key.startswith("manifest/gen-1/")]) == 1


def test_a_lost_answer_to_the_head_is_success(store: HookedStore) -> None:
    def lose() -> None:
        store.lose_answer = True

    store.once("create", "manifest/head/", lose)
    done = compact(store)
    assert done.won
    assert open_manifest(store).history.num_rows == 7


def test_a_commit_beside_a_compaction_stays_a_part(store: HookedStore) -> None:
    store.once("create", "manifest/gen-1/", lambda: commit(store, "e.jpg", plan=1, shard=2))
    compact(store)
    head = newest_head(store)
    assert head is not None
    assert not head.covers(1, 2)
    assert (1, 2, "e.jpg") in sources(store)
    compact(store)
    assert rows_of_head(store, 2) == rows_of_parts(store)


def test_a_compaction_that_stops_at_any_step_changes_nothing_and_can_be_repeated(store: HookedStore) -> None:
    history, num_steps = open_manifest(store).history, 0
    while True:
        seen = 0

        def stop(operation: str, _key: str, at: int = num_steps) -> None:
            nonlocal seen
            seen += 1
            if seen > at:
                raise TransientStorageError("killed here")

        trial = HookedStore()
        trial.objects = dict(store.objects)
        trial.before = stop
        try:
            compact(trial)
            break
        except TransientStorageError:
            num_steps += 1
        trial.before = lambda _operation, _key: None
        assert open_manifest(trial).history.equals(history)
        assert not [key for key in trial.objects if key.startswith("manifest/head/")]
        compact(trial)
        assert rows_of_head(trial, 1) == rows_of_parts(store)
    assert num_steps == 4 + 1 + 1, "every part, one file, the head"


def test_a_query_that_listed_before_a_collection_looks_again(store: HookedStore) -> None:
    history = open_manifest(store).history

    def collect() -> None:
        compact(store)
        drop_parts(store)

    store.once("read", part_key(1, 1), collect)
    assert open_manifest(store).history.equals(history)

    def again() -> None:
        commit(store, "e.jpg", plan=1, shard=2)
        compact(store)
        drop_parts(store)
        for key in [key for key in store.objects if key.startswith(("manifest/gen-1/", "manifest/head/1."))]:
            del store.objects[key]

    store.once("read", "manifest/gen-1/", again)
    assert len(sources(store)) == 8


def test_a_head_that_is_collected_before_it_is_read_is_looked_for_again(store: HookedStore) -> None:
    compact(store)

    def supersede() -> None:
        commit(store, "e.jpg", plan=1, shard=2)
        compact(store)
        drop_parts(store)
        del store.objects[head_key(1)]

    store.once("read", head_key(1), supersede)
    assert len(sources(store)) == 8


def test_what_keeps_vanishing_ends_a_query_within_its_bound(store: HookedStore) -> None:
    compact(store)
    looks = []

    def vanish(operation: str, key: str) -> None:
        if operation == "read" and "gen-" in key:
            looks.append(key)
            number = 100 + len(looks)
            head = json.loads(store.objects[max(k for k in store.objects if "/head/" in k)])
            store.objects[head_key(number)] = json.dumps({**head, "generation": number}).encode()
            store.objects.pop(key, None)

    store.before = vanish
    with pytest.raises(ObjectMissingError):
        open_manifest(store)
    assert len(looks) == MAX_LOOKS


def test_a_file_that_is_gone_or_damaged_is_an_error(store: HookedStore) -> None:
    compact(store)
    (key,) = [key for key in store.objects if key.startswith("manifest/gen-1/")]
    data = store.objects.pop(key)
    with pytest.raises(ObjectMissingError):
        open_manifest(store)
    for damaged in (data[:-10], data[:100] + b"?" + data[101:], b""):
        store.objects[key] = damaged
        with pytest.raises(ManifestError, match="SHA-256 differs"):
            open_manifest(store)


def test_a_manifest_that_cannot_be_read_whole_is_not_compacted(store: HookedStore) -> None:
    good = store.objects[part_key(1, 1)]
    for bad in (good[:-20], store.objects[part_key(1, 3)]):
        store.objects[part_key(1, 1)] = bad
        before = dict(store.objects)
        with pytest.raises(ManifestError):
            compact(store)
        assert store.objects == before


def test_ranges_cover_what_they_were_made_of() -> None:
    shards = {0, 1, 2, 5, 7, 8}
    ranges = shard_ranges(shards)
    assert ranges == ((0, 2), (5, 5), (7, 8))
    head = Head(generation=1, created_at="", software_version="", num_rows=0, files=(), covered={4: ranges})
    assert {shard for shard in range(-1, 12) if head.covers(4, shard)} == shards == head.covered_shards(4)
    assert not head.covers(3, 0)


def test_parts_that_are_collected_between_two_listings_are_not_lost(store: HookedStore) -> None:
    expected, list_now, calls = open_manifest(store).history, store.list, []

    def listed_then_collected(prefix: str = "") -> Any:
        yield from list(list_now(prefix))
        calls.append(prefix)
        if len(calls) == 1:
            store.list = list_now  # type: ignore[method-assign]
            compact(store)
            drop_parts(store)

    store.list = listed_then_collected  # type: ignore[method-assign]
    committed = committed_parts(store)
    assert len(calls) == 1
    assert committed == {1: {0, 1, 3}, 10: {0}}
    assert open_manifest(store).history.equals(expected)
