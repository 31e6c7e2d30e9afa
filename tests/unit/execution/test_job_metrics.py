"""The metric definitions keep Prometheus' conventions, and the meters record what happened, and never raise."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.execution import meters, metrics
from pipeline.execution.leases import LeaseBook
from pipeline.execution.meters import DriverMeter, WorkerMeter
from pipeline.execution.metrics import DEFINITIONS, MetricDefinition, MetricKind
from pipeline.records import (
    ConversionStatus,
    ImageResult,
    ImageTask,
    LdrInfo,
    OutputInfo,
    Shard,
    StageTimings,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
TASK = ImageTask("a.jpg", "a.jpg", 5_000, "etag")
OUTPUT = OutputInfo("images/a.jpg.exr", 9_000, "00", 1, 0, 0.0, adopted=False, verified=False)
CONVERTED = ImageResult(
    TASK,
    ConversionStatus.OK,
    NOW,
    NOW,
    image=LdrInfo("JPEG", 2000, 1000, 8, "RGB"),
    output=OUTPUT,
    timings=StageTimings(fetch_ms=1, decode_ms=20, infer_ms=300, encode_ms=40, put_ms=5),
)
FAILED = ImageResult(TASK, ConversionStatus.FAILED, NOW, NOW, "decode_corrupt", "why", timings=StageTimings(fetch_ms=1))


class Recorded:
    """A recorder that keeps counters as sums, gauges as last values, and what histograms were shown."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str | None], float] = defaultdict(float)
        self.observed: dict[tuple[str, str | None], list[float]] = defaultdict(list)

    def record(self, metric: MetricDefinition, value: float, tag_value: str | None = None) -> None:
        assert (tag_value is None) == (metric.tag is None), metric.name
        key = metric.name, tag_value
        if metric.kind is MetricKind.HISTOGRAM:
            self.observed[key].append(value)
        elif metric.kind is MetricKind.GAUGE:
            self.values[key] = value
        else:
            assert value > 0, "Ray's counters refuse anything else"
            self.values[key] += value


class Broken:
    def record(self, metric: MetricDefinition, value: float, tag_value: str | None = None) -> None:
        raise RuntimeError("no exporter")


def shards(count: int) -> list[Shard]:
    return [Shard(1, index, (replace(TASK, source=f"{index}.jpg"),)) for index in range(count)]


@pytest.mark.parametrize("metric", DEFINITIONS, ids=lambda metric: metric.name)
def test_names_and_labels_keep_the_conventions(metric: MetricDefinition) -> None:
    assert re.fullmatch(r"hdrfleet_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    assert metric.description.endswith(".")
    if metric.unit in {"seconds", "bytes"}:
        assert f"_{metric.unit}" in metric.name
    assert (metric.kind is MetricKind.HISTOGRAM) == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    # Prometheus puts a label `job` of its own on everything that it scrapes.
    assert {"job", "source", "key", "worker"}.isdisjoint(metric.tag_keys)
    assert metric.roles


def test_names_are_unique_and_every_definition_is_listed() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, MetricDefinition)]
    assert {id(metric) for metric in defined} == {id(metric) for metric in DEFINITIONS}
    assert len({metric.name for metric in DEFINITIONS}) == len(DEFINITIONS)


def test_a_converted_image_is_recorded_with_its_stages() -> None:
    recorded = Recorded()
    meter = WorkerMeter(recorded)
    meter.row(CONVERTED)
    assert recorded.values == {
        ("hdrfleet_images_total", "ok"): 1,
        ("hdrfleet_megapixels_total", None): 2.0,
        ("hdrfleet_read_bytes_total", None): 5_000,
        ("hdrfleet_written_bytes_total", None): 9_000,
        ("hdrfleet_device_busy_seconds_total", None): pytest.approx(0.3),
    }
    stages = {stage: values for (_, stage), values in recorded.observed.items()}
    assert stages == {
        "fetch": [0.001],
        "decode": [0.02],
        "infer": [pytest.approx(0.3)],
        "encode": [0.04],
        "put": [0.005],
    }


def test_a_failed_image_is_recorded_by_code_and_an_adopted_one_wrote_nothing() -> None:
    recorded = Recorded()
    meter = WorkerMeter(recorded)
    meter.row(FAILED)
    meter.row(replace(CONVERTED, output=replace(OUTPUT, adopted=True), timings=StageTimings(fetch_ms=1)))
    assert recorded.values[("hdrfleet_images_total", "failed")] == 1
    assert recorded.values[("hdrfleet_image_failures_total", "decode_corrupt")] == 1
    assert recorded.values[("hdrfleet_megapixels_total", None)] == 2.0
    assert ("hdrfleet_written_bytes_total", None) not in recorded.values
    assert ("hdrfleet_device_busy_seconds_total", None) not in recorded.values


def test_queues_are_sampled_and_retries_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, queued, retries = Recorded(), {"fetched": 10, "decoded": 20, "output": 0}, [3]
    monkeypatch.setattr(meters, "num_retries", lambda: retries[0])
    meter = WorkerMeter(recorded)
    meter.sample(queued)
    meter.sample(queued)
    retries[0] = 5
    queued["decoded"] = 7
    meter.sample(queued)
    assert recorded.values[("hdrfleet_queue_bytes", "decoded")] == 7
    assert recorded.values[("hdrfleet_store_retries_total", None)] == 5


def test_the_driver_records_leases_shards_and_workers_over_several_runs() -> None:
    recorded = Recorded()
    meter = DriverMeter(recorded)
    for num_lost in (1, 2):
        book = LeaseBook(iter(shards(3)), 4)
        first, second = book.take("w1"), book.take("w2")
        assert first
        assert second
        book.complete(first)
        book.lose(second, "worker_crash", "gone")
        third = book.take("w1")
        assert third
        for _ in range(2):
            meter.sample(book, num_ready=2, num_starting=1, num_lost=num_lost)
    assert recorded.values[("hdrfleet_shards_completed_total", None)] == 2
    assert recorded.values[("hdrfleet_leases_returned_total", None)] == 2
    assert recorded.values[("hdrfleet_workers_lost_total", None)] == 2
    assert recorded.values[("hdrfleet_leases_held", None)] == 1
    assert recorded.values[("hdrfleet_workers", "ready")] == 2
    assert recorded.values[("hdrfleet_workers", "starting")] == 1


def test_scaling_and_a_lost_driver_lease_are_recorded() -> None:
    recorded = Recorded()
    meter = DriverMeter(recorded)
    for delta in (3, 0, -2, 1):
        meter.scaled(delta)
    meter.lost_driver_lease()
    assert recorded.values == {
        ("hdrfleet_scaled_workers_total", "up"): 4,
        ("hdrfleet_scaled_workers_total", "down"): 2,
        ("hdrfleet_driver_lease_lost_total", None): 1,
    }


def test_no_meter_raises_whatever_the_recorder_does() -> None:
    worker = WorkerMeter(Broken())
    worker.row(CONVERTED)
    worker.sample({"fetched": 1})
    driver = DriverMeter(Broken())
    driver.sample(LeaseBook(iter(shards(1)), 4), num_ready=1, num_starting=0, num_lost=1)
    driver.scaled(1)
    driver.lost_driver_lease()
