from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from manifest_builders import PROVENANCE, START, DictStore, failed_result, make_shard, make_stats, make_task, ok_result

from pipeline.config import StorageConfig
from pipeline.errors import ManifestError
from pipeline.manifest import SCHEMA, commit_part, completed_shards, open_manifest, part_key, rows_to_part
from pipeline.manifest.parts import read_part
from pipeline.manifest.seal import META_SEAL, UNSEALED
from pipeline.manifest.writer import MAX_MESSAGE_CHARS, clean_message
from pipeline.records import ConversionStatus, ShardResult
from pipeline.storage import open_store

KEY = part_key(1, 0)


def rows_of(*results, attempt=1, provenance=PROVENANCE):
    data = rows_to_part(results, make_shard(*results), attempt, provenance)
    return read_part(data, KEY).rows.to_pylist()


def test_part_keys_sort_by_shard_number() -> None:
    assert part_key(3, 7) == "manifest/plan=3/shard-000007.parquet"
    assert part_key(3, 1_234_567) == "manifest/plan=3/shard-1234567.parquet"
    assert sorted([part_key(1, 10), part_key(1, 9), part_key(1, 100)]) == [part_key(1, n) for n in (9, 10, 100)]


def test_a_result_with_every_field_survives() -> None:
    result = ok_result()
    (row,) = rows_of(result, attempt=4)

    assert row == {
        "source": "a/one.jpg",
        "source_etag": "e1",
        "source_bytes": 1234,
        "source_sha256": "c" * 64,
        "status": "ok",
        "error_code": None,
        "error_message": None,
        "format": "jpeg",
        "mode": "RGB",
        "width": 3000,
        "height": 2000,
        "megapixels": 6.0,
        "bit_depth": 8,
        "orientation": 6,
        "icc_profile": "Display P3",
        "has_alpha": True,
        "num_frames": 3,
        "warnings": ["multi_picture", "gain_map"],
        "output": "images/a/one.jpg.v2.exr",
        "output_bytes": 987654,
        "output_sha256": "d" * 64,
        "revision": 2,
        "num_half_overflow": 14,
        "exposure_ev": -1.5,
        "adopted": True,
        "verified": True,
        "collected_at": None,
        "weights_name": "identity",
        "weights_sha256": "a" * 64,
        "pixel_digest": "b" * 64,
        "software_version": "0.1.0",
        "device": "cpu",
        "precision": "bf16",
        "tiles": 4,
        "tile_px": 1024,
        "num_oom_retries": 1,
        "num_negative": 11,
        "num_nan": 12,
        "num_inf": 13,
        "plan": 1,
        "shard": 0,
        "attempt": 4,
        "worker": "worker-1",
        "node": "node-1",
        "started_at": START,
        "finished_at": START + timedelta(seconds=2),
        "fetch_ms": 1.0,
        "decode_ms": 2.0,
        "infer_ms": 300.0,
        "encode_ms": 4.0,
        "put_ms": 5.0,
        **asdict(make_stats()),
    }


def test_a_result_with_nothing_known_keeps_its_nulls() -> None:
    (row,) = rows_of(failed_result())

    known = {name for name, value in row.items() if value is not None}
    assert known == {field.name for field in SCHEMA if not field.nullable} | {"error_code", "error_message"}
    assert row["warnings"] == []
    assert row["revision"] == 3  # the planned one
    assert row["source_etag"] is None


def test_a_failures_warnings_follow_those_of_the_image() -> None:
    refused, decoded = rows_of(
        failed_result("refused.tif", warnings=("already_hdr_float",)),
        failed_result("decoded.jpg", image=ok_result().image, warnings=("late",)),
    )

    assert refused["warnings"] == ["already_hdr_float"]
    assert decoded["warnings"] == ["multi_picture", "gain_map", "late"]


def test_undefined_statistics_become_null() -> None:
    (row,) = rows_of(ok_result(stats=make_stats(fidelity_psnr_db=None, stops_gained_clipped=None)))

    assert row["fidelity_psnr_db"] is None
    assert row["stops_gained_clipped"] is None
    assert row["clipped_fraction"] == 0.25


def test_times_of_another_zone_become_utc() -> None:
    local = datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    (row,) = rows_of(ok_result(started_at=local))

    assert row["started_at"] == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_bytes_depend_on_content_only_and_rows_follow_the_plan() -> None:
    results = [ok_result(f"{n}.jpg") for n in (3, 1, 2)]
    shard = make_shard(*results)

    data = rows_to_part(results, shard, 1, PROVENANCE)

    assert data == rows_to_part(results[::-1], shard, 1, PROVENANCE)
    assert data != rows_to_part(results, shard, 2, PROVENANCE)
    assert read_part(data, KEY).rows["source"].to_pylist() == ["3.jpg", "1.jpg", "2.jpg"]


def test_the_file_says_what_it_is() -> None:
    result = ok_result()
    data = rows_to_part([result], make_shard(result, plan=5, shard=17), 3, PROVENANCE)

    file = pq.ParquetFile(io.BytesIO(data))
    own = {k: v for k, v in file.metadata.metadata.items() if k.startswith(b"hdrfleet.")}
    digest = own.pop(META_SEAL)
    assert hashlib.sha256(data.replace(digest, UNSEALED)).hexdigest().encode() == digest
    assert own == {
        b"hdrfleet.schema_version": b"1",
        b"hdrfleet.plan": b"5",
        b"hdrfleet.shard": b"17",
        b"hdrfleet.attempt": b"3",
    }
    assert {file.metadata.row_group(0).column(i).compression for i in range(len(SCHEMA))} == {"ZSTD"}
    assert file.schema_arrow.remove_metadata().equals(SCHEMA)


A, B, C = ok_result("a.jpg"), ok_result("b.jpg"), ok_result("c.jpg")


@pytest.mark.parametrize(
    ("results", "tasks", "message"),
    [
        ([A], [A, B], "no result for b.jpg"),
        ([A, B, C], [A, B], "3 results for 2 tasks"),
        ([A, A], [A], "two results for a.jpg"),
        ([A, replace(A)], [A, B], "two results for a.jpg"),
        ([A, C], [A, B], "no result for b.jpg"),
        ([A], [A, A], "1 results for 2 tasks"),
        ([replace(A, task=replace(A.task, etag="other"))], [A], "belongs to another task"),
    ],
)
def test_anything_but_one_result_per_task_is_refused(results, tasks, message) -> None:
    with pytest.raises(ManifestError, match=message):
        rows_to_part(results, make_shard(*tasks), 1, PROVENANCE)


@pytest.mark.parametrize(
    "result",
    [
        ok_result(output=None),
        ok_result(error_code="decode_corrupt"),
        failed_result(error_code=None),
        failed_result(status=ConversionStatus.QUARANTINED, output=A.output),
        ok_result(started_at=datetime(2026, 3, 1)),
        ok_result(finished_at=datetime(2026, 3, 1)),
        ok_result(task=make_task(size_bytes=2**63)),
        ok_result("name-\udcff.jpg"),
    ],
)
def test_contradictory_or_unstorable_results_are_refused(result) -> None:
    with pytest.raises(ManifestError):
        rows_to_part([result], make_shard(result), 1, PROVENANCE)


def test_messages_are_one_short_printable_line_without_secrets() -> None:
    dirty = "cannot read\n s3://user:secret@bucket/key.jpg?X-Amz-Signature=f00d \x1b[31m \udcff"
    clean = clean_message(dirty)

    assert clean.startswith("cannot read s3://bucket/key.jpg")
    assert "secret" not in clean
    assert "f00d" not in clean
    assert clean.isprintable()
    assert clean.encode("utf-8")
    assert len(clean_message("word " * 500)) == MAX_MESSAGE_CHARS
    assert clean_message("x" * MAX_MESSAGE_CHARS) == "x" * MAX_MESSAGE_CHARS

    (row,) = rows_of(failed_result(error_message=dirty))
    assert row["error_message"] == clean


def test_a_hostile_profile_name_cannot_break_the_row() -> None:
    image = replace(A.image, icc_profile="Evil\x00\udc80\nprofile")
    (row,) = rows_of(ok_result(image=image))

    assert row["icc_profile"] == r"Evil\x00\udc80 profile"


# --- commit


def test_commit_creates_the_part_and_counts() -> None:
    store = DictStore()
    quarantined = failed_result("q.jpg", status=ConversionStatus.QUARANTINED, error_code="inference_failed")
    failed_late = failed_result("f.jpg", image=A.image)
    results = [A, B, quarantined, failed_late]

    outcome = commit_part(store, results, make_shard(*results, plan=2, shard=9), 1, PROVENANCE)

    assert list(store.objects) == [part_key(2, 9)]
    assert (outcome.plan, outcome.shard, outcome.attempt, outcome.committed) == (2, 9, 1, True)
    assert (outcome.num_ok, outcome.num_failed, outcome.megapixels) == (2, 2, 12.0)
    told = {(each.source, each.code, each.message) for each in outcome.failures}
    assert told == {
        ("q.jpg", "inference_failed", "the file ends early"),
        ("f.jpg", "decode_truncated", "the file ends early"),
    }
    assert open_manifest(store).history.num_rows == 4


def test_a_lost_answer_to_our_own_success_is_success() -> None:
    store = DictStore()
    store.lose_answer = True

    assert commit_part(store, [A], make_shard(A), 1, PROVENANCE).committed


def test_the_loser_of_a_race_reports_the_stored_part() -> None:
    store = DictStore()
    shard = make_shard(A, B)
    lost_b = failed_result("b.jpg", task=B.task)
    commit_part(store, [A, lost_b], shard, 1, PROVENANCE)
    before = dict(store.objects)

    late = commit_part(store, [A, B], shard, 2, replace(PROVENANCE, worker="worker-2"))

    assert not late.committed
    assert late.attempt == 2
    assert (late.num_ok, late.num_failed, late.megapixels) == (1, 1, 6.0)
    assert [each.source for each in late.failures] == ["b.jpg"]
    assert store.objects == before


def test_racing_attempts_on_a_real_folder_commit_once(tmp_path: Path) -> None:
    shard = make_shard(A, B, plan=3, shard=1)

    def attempt(number: int) -> ShardResult:
        store = open_store(str(tmp_path), StorageConfig())
        return commit_part(store, [A, B], shard, number, replace(PROVENANCE, worker=f"worker-{number}"))

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, range(1, 9)))

    (winner,) = (outcome for outcome in outcomes if outcome.committed)
    store = open_store(str(tmp_path), StorageConfig())
    assert completed_shards(store, 3) == {1}
    assert set(open_manifest(store).current["attempt"].to_pylist()) == {winner.attempt}
    assert {(outcome.num_ok, outcome.num_failed) for outcome in outcomes} == {(2, 0)}


def _stored(results, shard, provenance=PROVENANCE) -> bytes:
    return rows_to_part(results, shard, 1, provenance)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (_stored([B], make_shard(B)), "other sources .*; hdrfleet verify DST says"),
        (_stored([A], make_shard(A, shard=4)), "not what its name says"),
        (_stored([A], make_shard(A, plan=4)), "not what its name says"),
        (_stored([A], make_shard(A), replace(PROVENANCE, weights_sha256="9" * 64)), "another weights_sha256; hdrfl"),
        (_stored([A], make_shard(A), replace(PROVENANCE, pixel_digest="9" * 64)), "another pixel_digest"),
        (_stored([A], make_shard(A))[:-20], "not a readable manifest part"),
        (b"", "not a readable manifest part"),
    ],
)
def test_a_contradictory_stored_part_stops_the_job_and_is_kept(stored, message) -> None:
    store = DictStore()
    store.objects[KEY] = stored

    with pytest.raises(ManifestError, match=message):
        commit_part(store, [A], make_shard(A), 1, replace(PROVENANCE, worker="worker-2"))
    assert store.objects == {KEY: stored}
