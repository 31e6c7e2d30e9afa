from __future__ import annotations

import errno
import io
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_builders import PROVENANCE, DictStore, failed_result, make_shard, ok_result
from written_parts import written_part

from pipeline.errors import ConfigError, DiskFullError, ManifestError, ObjectMissingError
from pipeline.manifest import (
    SCHEMA,
    SUMMARY_COLUMNS,
    commit_part,
    committed_parts,
    completed_shards,
    open_manifest,
    part_key,
    spool,
)
from pipeline.manifest.parts import parse_part_key, read_part
from pipeline.manifest.schema import META_SCHEMA_VERSION
from pipeline.manifest.seal import META_SEAL


def commit(store: DictStore, *results, plan: int = 1, shard: int = 0) -> None:
    commit_part(store, results, make_shard(*results, plan=plan, shard=shard), 1, PROVENANCE)


def rewritten(table: pa.Table, *, drop_metadata: bool = False, **metadata: str) -> bytes:
    """The table as a part, as another release might have written it."""
    merged = (
        {}
        if drop_metadata
        else {**table.schema.metadata, **{f"hdrfleet.{k}".encode(): v.encode() for k, v in metadata.items()}}
    )
    return written_part(table, merged)


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def part(store: DictStore) -> pa.Table:
    commit(store, ok_result("a.jpg"), failed_result("b.jpg"))
    return pq.read_table(io.BytesIO(store.objects[part_key(1, 0)]))


def test_completed_shards_lists_and_reads_nothing(store: DictStore) -> None:
    for shard in (0, 7, 12):
        commit(store, ok_result(f"{shard}.jpg"), plan=1, shard=shard)
    commit(store, ok_result("later.jpg"), plan=11, shard=3)
    store.objects["manifest/plan=1/notes.txt"] = b""
    store.objects["manifest/plan=1/shard-000001.parquet.tmp"] = b""
    store.reads.clear()

    assert completed_shards(store, 1) == {0, 7, 12}
    assert completed_shards(store, 11) == {3}
    assert completed_shards(store, 2) == set()
    assert store.reads == []


def test_an_empty_destination_is_an_empty_manifest(store: DictStore) -> None:
    manifest = open_manifest(store)

    assert manifest.history.schema.equals(SCHEMA)
    assert manifest.history.num_rows == manifest.current.num_rows == 0


def test_current_is_the_highest_plan_of_each_source_and_history_is_everything(store: DictStore) -> None:
    commit(store, ok_result("kept.jpg"), ok_result("changed.jpg"), plan=2, shard=0)
    commit(store, failed_result("changed.jpg"), plan=10, shard=0)  # "plan=10" sorts before "plan=2"
    commit(store, ok_result("new.jpg"), plan=3, shard=1)

    manifest = open_manifest(store)

    rows = [(row["plan"], row["source"], row["status"]) for row in manifest.history.to_pylist()]
    assert rows == [
        (2, "kept.jpg", "ok"),
        (2, "changed.jpg", "ok"),
        (3, "new.jpg", "ok"),
        (10, "changed.jpg", "failed"),
    ]
    assert [(row["plan"], row["source"]) for row in manifest.current.to_pylist()] == [
        (2, "kept.jpg"),
        (3, "new.jpg"),
        (10, "changed.jpg"),
    ]


def test_without_a_second_plan_current_costs_nothing(store: DictStore) -> None:
    commit(store, ok_result("a.jpg"))
    manifest = open_manifest(store)

    assert manifest.current is manifest.history


def test_many_parts_are_read_once_in_order_and_merged(store: DictStore, monkeypatch) -> None:
    monkeypatch.setattr(spool, "SPOOL_BATCH_ROWS", 16)
    for shard in range(20):
        commit(store, *(ok_result(f"{shard:03d}/{n}.jpg") for n in range(2)), shard=shard)
    store.reads.clear()

    manifest = open_manifest(store, num_threads=4)

    assert sorted(store.reads) == sorted(store.objects)
    assert manifest.history["shard"].to_pylist() == [shard for shard in range(20) for _ in range(2)]
    assert manifest.history["source"].num_chunks == 3  # 40 rows in batches of 16, the rest in the last


def test_current_over_many_batches(store: DictStore, monkeypatch) -> None:
    monkeypatch.setattr(spool, "SPOOL_BATCH_ROWS", 4)
    for plan in (1, 2):
        for shard in range(6):
            commit(store, *(ok_result(f"{shard}/{n}.jpg") for n in range(plan, 4)), plan=plan, shard=shard)

    current = open_manifest(store).current

    plans = dict(zip(current["source"].to_pylist(), current["plan"].to_pylist(), strict=True))
    assert plans == {f"{shard}/{n}.jpg": (1 if n == 1 else 2) for shard in range(6) for n in range(1, 4)}


def test_columns_are_projected(store: DictStore) -> None:
    commit(store, ok_result("a.jpg"))

    assert open_manifest(store, columns=["width", "status"]).history.schema.names == [
        "source",
        "status",
        "width",
        "plan",
    ]
    assert set(open_manifest(store, columns=SUMMARY_COLUMNS).history.schema.names) == set(SUMMARY_COLUMNS)
    with pytest.raises(ValueError, match="not manifest columns: nonsense"):
        open_manifest(store, columns=["nonsense"])


def test_no_file_stays_behind_and_the_table_stays_readable(store: DictStore, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    commit(store, ok_result("a.jpg"))

    history = open_manifest(store).history

    assert list(tmp_path.iterdir()) == []
    assert history["source"].to_pylist() == ["a.jpg"]


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFullError), (errno.EROFS, ConfigError)])
def test_an_unusable_temporary_folder_is_named(store: DictStore, monkeypatch, code: int, error: type) -> None:
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(spool.pa, "OSFile", fail)
    with pytest.raises(error, match="TMPDIR"):
        open_manifest(store)


def test_a_part_that_vanishes_is_a_storage_error(store: DictStore) -> None:
    commit(store, ok_result("a.jpg"))
    listing = list(store.list("manifest"))
    store.list = lambda prefix="": iter(listing)
    store.objects.clear()

    with pytest.raises(ObjectMissingError):
        open_manifest(store)


@pytest.mark.parametrize(("version", "message"), [("2", "upgrade"), ("0", "does not exist"), ("x", "lacks")])
def test_other_schema_versions_are_refused(store: DictStore, part: pa.Table, version: str, message: str) -> None:
    store.objects[part_key(1, 0)] = rewritten(part, schema_version=version)

    with pytest.raises(ManifestError, match=message):
        open_manifest(store)


def test_a_foreign_parquet_file_is_refused(store: DictStore, part: pa.Table) -> None:
    store.objects[part_key(1, 0)] = rewritten(part, drop_metadata=True)

    with pytest.raises(ManifestError, match=META_SCHEMA_VERSION.decode()):
        open_manifest(store)


def test_missing_nullable_columns_are_null_and_unknown_ones_ignored(store: DictStore, part: pa.Table) -> None:
    older = part.drop_columns(["chroma_shift", "verified"]).append_column("novelty", pa.array([1, 2]))
    store.objects[part_key(1, 0)] = rewritten(older)

    history = open_manifest(store).history

    assert history.schema.equals(SCHEMA)
    assert history["chroma_shift"].to_pylist() == [None, None]
    assert history["width"].to_pylist() == [3000, None]


def test_columns_in_another_order_or_width_are_put_right(store: DictStore, part: pa.Table) -> None:
    index = part.schema.get_field_index("width")
    wider = part.set_column(index, "width", part["width"].cast(pa.int64()))
    store.objects[part_key(1, 0)] = rewritten(wider.select(sorted(wider.column_names)))

    assert open_manifest(store).history.schema.equals(SCHEMA)


def test_missing_required_columns_nulls_and_wrong_types_are_refused(store: DictStore, part: pa.Table) -> None:
    def replaced(name: str, values: pa.Array) -> pa.Table:
        return part.set_column(part.schema.get_field_index(name), name, values)

    for broken, message in (
        (part.drop_columns(["source"]), "required column source is missing"),
        (replaced("status", pa.array(["ok", None])), "required column status holds nulls"),
        (replaced("width", pa.array(["wide", "narrow"])), "not a readable manifest part"),
    ):
        store.objects[part_key(1, 0)] = rewritten(broken)
        with pytest.raises(ManifestError, match=message):
            open_manifest(store)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_a_torn_part_names_its_key_in_one_line(store: DictStore, part: pa.Table, fraction: float) -> None:
    data = store.objects[part_key(1, 0)]
    store.objects[part_key(1, 0)] = data[: int(len(data) * fraction)]

    with pytest.raises(ManifestError, match=r"^manifest/plan=1/shard-000000\.parquet: ") as caught:
        open_manifest(store)
    assert "\n" not in str(caught.value)


def test_a_damaged_page_is_found(store: DictStore, part: pa.Table) -> None:
    data = bytearray(store.objects[part_key(1, 0)])
    data[4:400] = bytes(396)

    with pytest.raises(ManifestError, match="is not what was written"):
        read_part(bytes(data), part_key(1, 0))


def test_a_bit_that_flips_anywhere_is_found_or_changes_nothing(store: DictStore) -> None:
    """Parquet itself lets one in fifteen of them through as another value, or as a column of nulls."""
    commit(store, *(ok_result(f"{index}.jpg") for index in range(3)), failed_result())
    key = part_key(1, 0)
    data = store.objects[key]
    want, num_found = read_part(data, key), 0
    for at in range(0, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        try:
            found = read_part(bytes(flipped), key)
        except ManifestError:
            num_found += 1
        else:
            assert (found.attempt, found.rows) == (want.attempt, want.rows), at
    assert num_found > 0.99 * len(data) * 8 / 7


def test_a_part_of_a_release_without_seals_is_read(store: DictStore, part: pa.Table) -> None:
    metadata = {name: value for name, value in part.schema.metadata.items() if name != META_SEAL}
    unsealed = written_part(part, metadata)
    assert META_SEAL not in pq.ParquetFile(io.BytesIO(unsealed)).metadata.metadata
    assert read_part(unsealed, part_key(1, 0)).rows == read_part(store.objects[part_key(1, 0)], part_key(1, 0)).rows


def test_a_part_under_a_wrong_name_is_refused(store: DictStore, part: pa.Table) -> None:
    with pytest.raises(ManifestError, match="not what its name says"):
        read_part(store.objects[part_key(1, 0)], part_key(1, 1))


def test_a_source_twice_in_one_plan_is_a_contradiction(store: DictStore) -> None:
    commit(store, ok_result("a.jpg"), shard=0)
    commit(store, ok_result("b.jpg"), ok_result("a.jpg"), shard=1)

    with pytest.raises(ManifestError, match=r"a\.jpg: has 2 rows in plan 1"):
        open_manifest(store)


def test_a_head_of_a_newer_release_is_refused_rather_than_misread(store: DictStore) -> None:
    commit(store, ok_result("a.jpg"))
    store.objects["manifest/head/1.json"] = b'{"schema_version": 2, "anything": "else"}'

    for read in (open_manifest, committed_parts, lambda store: completed_shards(store, 1)):
        with pytest.raises(ManifestError, match=r"manifest/head/1\.json: .*newer hdrfleet: upgrade"):
            read(store)


@pytest.mark.parametrize("head", [b"{}", b"[]", b"not json", b'{"schema_version": 1, "generation": 7}'])
def test_a_damaged_head_is_an_error_and_never_no_head(store: DictStore, head: bytes) -> None:
    commit(store, ok_result("a.jpg"))
    store.objects["manifest/head/1.json"] = head

    with pytest.raises(ManifestError, match=r"manifest/head/1\.json"):
        open_manifest(store)


def test_attempt_comes_from_the_metadata(store: DictStore) -> None:
    result = replace(ok_result("a.jpg"))
    commit_part(store, [result], make_shard(result, plan=4, shard=2), 6, PROVENANCE)
    stored = read_part(store.objects[part_key(4, 2)], part_key(4, 2))

    assert (stored.plan, stored.shard, stored.attempt, stored.rows.num_rows) == (4, 2, 6, 1)


@pytest.mark.parametrize("key", ["manifest/plan=01/shard-000002.parquet", "manifest/plan=1/shard-0000002.parquet"])
def test_another_spelling_of_a_part_is_no_part(key: str) -> None:
    assert parse_part_key("manifest/plan=1/shard-000002.parquet") == (1, 2, "manifest/plan=1/shard-000002.parquet")
    assert parse_part_key(key) is None
