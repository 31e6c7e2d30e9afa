"""Plans as they are stored: committed once, verified when read."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config import ShardingConfig, SourceConfig, StorageConfig
from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.records import ImageTask, Shard
from pipeline.sharding import (
    changed_tasks,
    iter_shards,
    load_inventory,
    open_source,
    plan_shards,
    read_plan_summaries,
    read_plan_summary,
    write_plan,
)
from pipeline.sharding.plan import PLAN_SCHEMA
from pipeline.storage import ObjectInfo, ObjectStore, open_store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    memory = f"memory://plans-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"
    opened = open_store(str(tmp_path / "dst") if request.param == "local" else memory, StorageConfig())
    for info in list(opened.list()):
        opened.delete(info.key)
    return opened


def tasks_of(number: int, etag: str = "e", start: int = 0) -> list[ImageTask]:
    return [ImageTask(f"f/ü {i:04d}.jpg", f"k/f/ü {i:04d}.jpg", 1000 + i, etag) for i in range(start, start + number)]


def shards_of(tasks: list[ImageTask], plan: int = 1, size: int = 4) -> list[Shard]:
    return list(plan_shards(tasks, plan, ShardingConfig(max_images=size)))


def keys_of(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list()]


def test_a_plan_survives_the_round_trip(store: ObjectStore) -> None:
    shards = shards_of(tasks_of(30))
    summary = write_plan(store, 1, iter(shards), max_part_images=10)
    assert summary is not None
    assert (summary.plan, summary.num_shards, summary.num_images) == (1, 8, 30)
    assert summary.num_bytes == sum(1000 + i for i in range(30))
    assert [(part.first_shard, part.last_shard, part.num_images) for part in summary.parts] == [
        (0, 1, 8),
        (2, 3, 8),
        (4, 5, 8),
        (6, 7, 6),
    ]
    assert read_plan_summaries(store) == [summary]
    assert list(iter_shards(store, summary)) == shards
    assert list(iter_shards(store, summary, skip={0, 1, 3, 7})) == [shards[i] for i in (2, 4, 5, 6)]
    assert list(iter_shards(store, summary, skip=range(8))) == []


def test_an_empty_plan_is_never_written(store: ObjectStore) -> None:
    assert write_plan(store, 1, []) is None
    assert keys_of(store) == []
    assert read_plan_summaries(store) == []


def test_plans_sort_by_number_and_only_committed_ones_count(store: ObjectStore) -> None:
    for plan in (10, 2, 1):
        write_plan(store, plan, shards_of(tasks_of(plan), plan))
    store.create("_hdrfleet/plan/3/part-00000-0123456789ab.parquet", b"a planner died here")
    store.create("_hdrfleet/plan/04/plan.json", b"not ours")
    store.create("_hdrfleet/plan/5/plan.json.bak", b"not ours")
    assert [summary.plan for summary in read_plan_summaries(store)] == [1, 2, 10]
    with pytest.raises(ObjectMissingError):
        read_plan_summary(store, 3)


def test_the_loser_of_a_race_adopts_the_winners_plan(store: ObjectStore) -> None:
    winner = write_plan(store, 1, shards_of(tasks_of(5)))
    loser = write_plan(store, 1, shards_of(tasks_of(9, etag="later")))
    assert winner is not None
    assert loser == winner
    assert [task for shard in iter_shards(store, winner) for task in shard.tasks] == tasks_of(5)


def test_writing_the_same_plan_again_is_harmless(store: ObjectStore) -> None:
    first = write_plan(store, 1, shards_of(tasks_of(5)))
    keys = keys_of(store)
    assert write_plan(store, 1, shards_of(tasks_of(5))) == first
    assert keys_of(store) == keys


class DyingStore:
    """Passes everything on until the n-th create, which it refuses for good."""

    def __init__(self, inner: ObjectStore, num_creates: int) -> None:
        self._inner = inner
        self._left = num_creates

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        if self._left == 0:
            raise ConnectionResetError
        self._left -= 1
        return self._inner.create(key, data, metadata=metadata)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("num_creates", [0, 1, 2, 3])
def test_a_planner_that_dies_leaves_no_plan_and_the_next_completes_it(store: ObjectStore, num_creates: int) -> None:
    shards = shards_of(tasks_of(24))
    with pytest.raises(ConnectionResetError):
        write_plan(DyingStore(store, num_creates), 1, shards, max_part_images=8)  # type: ignore[arg-type]
    assert read_plan_summaries(store) == []
    summary = write_plan(store, 1, shards, max_part_images=8)
    assert summary is not None
    assert list(iter_shards(store, summary)) == shards
    assert len(keys_of(store)) == 4


def test_writing_streams_part_by_part(store: ObjectStore) -> None:
    seen: list[int] = []

    def counted() -> Iterator[Shard]:
        for shard in shards_of(tasks_of(12)):
            seen.append(sum(key.endswith(".parquet") for key in keys_of(store)))
            yield shard

    write_plan(store, 1, counted(), max_part_images=4)
    assert seen == [0, 0, 1]


def test_a_shard_larger_than_a_part_stays_whole(store: ObjectStore) -> None:
    shards = shards_of(tasks_of(20), size=9)
    summary = write_plan(store, 1, shards, max_part_images=5)
    assert summary is not None
    assert list(iter_shards(store, summary)) == shards


def test_damage_is_found(store: ObjectStore) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(8)), max_part_images=4)
    assert summary is not None
    key = f"_hdrfleet/plan/1/{summary.parts[1].name}"
    data = store.read(key)
    store.replace(key, data[:-1] + bytes([data[-1] ^ 1]))
    shards = iter_shards(store, summary)
    assert len(list(itertools.islice(shards, 1))) == 1
    with pytest.raises(ManifestError, match="SHA-256 differs"):
        next(shards)
    store.delete(key)
    with pytest.raises(ManifestError, match="is missing"):
        list(iter_shards(store, summary))
    with pytest.raises(ManifestError, match="is missing"):
        load_inventory(store, [summary])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": 2}, "says plan 2"),
        ({"schema_version": 99}, "schema version 99"),
        ({"parts": []}, "is not a plan: parts"),
        ({"surprise": 1}, "is not a plan: surprise"),
        ({"num_shards": 9}, "its parts are not its shards"),
        ({"num_images": 77}, "its parts do not have as many images"),
        ({"adopts_earlier": False}, "its SHA-256 differs"),
        ({"megapixels": 1.0}, "its SHA-256 differs"),
        ({"sha256": "0" * 64}, "its SHA-256 differs"),
        (None, "is not a plan"),
    ],
)
def test_a_damaged_summary_is_named(store: ObjectStore, change: dict[str, object] | None, message: str) -> None:
    write_plan(store, 1, shards_of(tasks_of(3)))
    key = "_hdrfleet/plan/1/plan.json"
    store.replace(key, b"{torn" if change is None else json.dumps(json.loads(store.read(key)) | change).encode())
    with pytest.raises(ManifestError, match=message):
        read_plan_summaries(store)


@pytest.mark.parametrize("changes", [{"first_shard": 2}, {"last_shard": 7}, {"first_shard": 3, "last_shard": 2}])
@pytest.mark.parametrize("index", [0, 1])
def test_parts_that_leave_shards_out_are_refused(store: ObjectStore, changes: dict[str, int], index: int) -> None:
    """Whoever reads a plan skips the parts of which every shard is done, by these numbers."""
    summary = write_plan(store, 1, shards_of(tasks_of(8)), max_part_images=4)
    assert summary is not None
    document = summary.model_dump(mode="json") | {"sha256": ""}
    document["parts"][index] |= changes
    store.replace("_hdrfleet/plan/1/plan.json", json.dumps(document).encode())
    with pytest.raises(ManifestError, match="its parts are not its shards"):
        read_plan_summaries(store)


def test_a_part_of_other_shards_than_the_plan_says_is_refused(store: ObjectStore) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(8)))
    assert summary is not None
    part = summary.parts[0].model_copy(update={"last_shard": summary.parts[0].last_shard + 1})
    with pytest.raises(ManifestError, match=r"does not hold the shards that plan\.json says"):
        list(iter_shards(store, summary.model_copy(update={"parts": (part,)})))


def test_a_plan_of_a_release_without_digests_is_read(store: ObjectStore) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(8)))
    assert summary is not None
    document = summary.model_dump(mode="json")
    del document["sha256"]
    store.replace("_hdrfleet/plan/1/plan.json", json.dumps(document, indent=3).encode())
    assert read_plan_summaries(store) == [summary.model_copy(update={"sha256": ""})]


def test_a_part_of_other_columns_is_refused(store: ObjectStore) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(3)))
    assert summary is not None
    part = summary.parts[0].model_copy(update={"num_images": 4})
    with pytest.raises(ManifestError, match="columns and rows"):
        list(iter_shards(store, summary.model_copy(update={"parts": (part,)})))


def test_a_part_that_is_no_parquet_is_refused(store: ObjectStore) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(3)))
    assert summary is not None
    store.create("_hdrfleet/plan/1/other.parquet", b"PAR1")
    part = summary.parts[0].model_copy(update={"name": "other.parquet", "sha256": hashlib.sha256(b"PAR1").hexdigest()})
    with pytest.raises(ManifestError, match=r"other\.parquet is not readable"):
        list(iter_shards(store, summary.model_copy(update={"parts": (part,)})))


def test_parts_are_plain_parquet(store: ObjectStore, tmp_path: Path) -> None:
    summary = write_plan(store, 1, shards_of(tasks_of(3)))
    assert summary is not None
    path = tmp_path / "part.parquet"
    path.write_bytes(store.read(f"_hdrfleet/plan/1/{summary.parts[0].name}"))
    table = pq.read_table(path)
    assert table.schema.equals(PLAN_SCHEMA)
    assert table.column_names == ["shard", "source", "key", "size_bytes", "etag", "revision"]
    assert table.column("source").to_pylist() == [task.source for task in tasks_of(3)]


def test_the_inventory_takes_the_highest_plan(store: ObjectStore) -> None:
    plans = [
        write_plan(store, 1, shards_of(tasks_of(4, "a"))),
        write_plan(store, 2, shards_of(list(changed_tasks(tasks_of(2, "b"), {"f/ü 0000.jpg": ("a", 1)})), 2)),
    ]
    inventory = load_inventory(store, reversed([plan for plan in plans if plan]))
    assert inventory == {
        "f/ü 0000.jpg": ("b", 2),
        "f/ü 0001.jpg": ("b", 1),
        "f/ü 0002.jpg": ("a", 1),
        "f/ü 0003.jpg": ("a", 1),
    }


def test_from_a_folder_to_a_second_plan_with_just_what_changed(tmp_path: Path, store: ObjectStore) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.txt"):
        (folder / name).write_bytes(b"1")
    listing = open_source(SourceConfig(url=str(folder)))
    first = write_plan(store, 1, plan_shards(listing.iterate(), 1, ShardingConfig()), listing=listing)
    assert first is not None
    assert (first.num_images, first.num_ignored, first.ignored_by_extension) == (2, 1, {".txt": 1})
    assert first.ignored_examples == ("c.txt",)

    def replan() -> list[tuple[str, int]]:
        known = load_inventory(store, read_plan_summaries(store))
        return [(task.source, task.revision) for task in changed_tasks(listing.iterate(), known)]

    assert replan() == []
    (folder / "b.jpg").write_bytes(b"22")
    (folder / "d.jpg").write_bytes(b"1")
    assert replan() == [("b.jpg", 2), ("d.jpg", 1)]
