from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import pytest
from manifest_builders import PROVENANCE, START, DictStore, failed_result, make_shard, make_stats, ok_result

from pipeline.manifest import SUMMARY_COLUMNS, Manifest, ManifestSummary, commit_part, open_manifest, summarise
from pipeline.records import ConversionStatus


def computed(source: str, *, start_s: float, end_s: float, gained: float | None, clipped: float):
    """A 6 MP image that was computed, not adopted, between two moments of the run; 300 ms in the network."""
    result = ok_result(source)
    return replace(
        result,
        output=replace(result.output, adopted=False),
        started_at=START + timedelta(seconds=start_s),
        finished_at=START + timedelta(seconds=end_s),
        stats=make_stats(stops_gained_clipped=gained, clipped_fraction=clipped),
    )


def manifest_of(*shards, attempts=(1, 1, 1, 1)) -> Manifest:
    store = DictStore()
    for number, (results, attempt) in enumerate(zip(shards, attempts, strict=False)):
        commit_part(store, results, make_shard(*results, shard=number), attempt, PROVENANCE)
    return open_manifest(store, columns=SUMMARY_COLUMNS)


@pytest.fixture(scope="module")
def summary() -> ManifestSummary:
    first = [
        computed("a.jpg", start_s=0, end_s=2, gained=1.0, clipped=0.1),
        computed("b.jpg", start_s=1, end_s=3, gained=2.0, clipped=0.2),
        computed("c.jpg", start_s=1.5, end_s=2, gained=6.0, clipped=0.3),
    ]
    # The job was stopped here and resumed a day later.
    later = [
        computed("d.jpg", start_s=86400, end_s=86401, gained=None, clipped=0.0),
        ok_result("adopted.jpg", started_at=START, finished_at=START, stats=make_stats(stops_gained_clipped=math.inf)),
        failed_result("e.jpg"),
        failed_result("f.jpg", error_code="too_large", image=first[0].image),
        failed_result("g.jpg", status=ConversionStatus.QUARANTINED),
    ]
    return summarise(manifest_of(first, later, attempts=(1, 3)))


def test_counts(summary: ManifestSummary) -> None:
    assert summary.num_images == 8
    assert summary.num_by_status == {"ok": 5, "failed": 2, "quarantined": 1}
    assert list(summary.num_by_status) == ["ok", "failed", "quarantined"]
    assert summary.num_by_error_code == {"decode_truncated": 2, "too_large": 1}
    assert summary.num_by_warning == {"gain_map": 6, "multi_picture": 6}
    assert summary.num_by_device == {"cpu": 5}
    assert summary.num_by_precision == {"bf16": 5}
    assert summary.num_by_weights == {"identity": 8}
    assert (summary.num_adopted, summary.num_retried, summary.num_oom_retries) == (1, 5, 5)


def test_pixels_and_bytes_are_those_of_converted_images(summary: ManifestSummary) -> None:
    assert summary.megapixels == 30.0
    assert summary.output_bytes == 5 * 987654


def test_statistics_ignore_null_and_infinity(summary: ManifestSummary) -> None:
    assert summary.stops_gained_clipped_mean == pytest.approx(3.0)
    assert summary.stops_gained_clipped_median == pytest.approx(2.0)
    assert summary.dynamic_range_gained_stops_mean == pytest.approx(2.5)
    assert summary.dynamic_range_gained_stops_median == pytest.approx(2.5)
    assert summary.clipped_fraction_p50 == pytest.approx(0.2)  # of 0, 0.1, 0.2, 0.25, 0.3
    assert summary.clipped_fraction_p95 == pytest.approx(0.29)


def test_rates_count_busy_time_and_computed_pixels(summary: ManifestSummary) -> None:
    assert summary.started_at == START
    assert summary.finished_at == START + timedelta(seconds=86401)
    assert summary.active_s == pytest.approx(4.0)  # 0..3 and one second a day later
    assert summary.megapixels_per_s == pytest.approx(24.0 / 4.0)
    assert summary.infer_megapixels_per_s == pytest.approx(24.0 / 1.2)


def test_it_is_json(summary: ManifestSummary) -> None:
    values = json.loads(json.dumps(summary.to_json(), allow_nan=False))

    assert values["num_by_status"] == {"ok": 5, "failed": 2, "quarantined": 1}
    assert values["started_at"] == "2026-03-01T12:00:00.123456+00:00"
    assert set(values) == set(ManifestSummary.__dataclass_fields__)


def test_an_empty_manifest_has_a_summary() -> None:
    empty = summarise(open_manifest(DictStore()))

    assert empty.num_images == 0
    assert empty.num_by_status == {}
    assert empty.megapixels == empty.output_bytes == empty.active_s == 0
    assert empty.megapixels_per_s is None
    assert empty.clipped_fraction_p50 is None
    assert empty.started_at is None
    assert json.dumps(empty.to_json())


def test_a_manifest_of_failures_has_a_summary() -> None:
    failures = summarise(manifest_of([failed_result("a.jpg"), failed_result("b.jpg")]))

    assert failures.num_by_status == {"failed": 2}
    assert failures.megapixels_per_s is None
    assert failures.stops_gained_clipped_mean is None
    assert failures.active_s == pytest.approx(0.005)


def test_only_current_rows_count() -> None:
    store = DictStore()
    for plan, result in ((1, failed_result("a.jpg")), (2, ok_result("a.jpg"))):
        commit_part(store, [result], make_shard(result, plan=plan), 1, PROVENANCE)

    assert summarise(open_manifest(store)).num_by_status == {"ok": 1}


def test_a_clock_that_was_set_back_adds_no_time() -> None:
    odd = ok_result("a.jpg", finished_at=START - timedelta(hours=1))

    assert summarise(manifest_of([odd])).active_s == 0.0
