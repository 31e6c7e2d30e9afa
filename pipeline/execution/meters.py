"""What worker and driver record, and when. Knows no Ray: a recorder takes the values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Protocol, TypeVar, cast

from pipeline.execution.leases import LeaseBook
from pipeline.execution.metrics import (
    DEVICE_BUSY,
    DRIVER_LEASE_LOST,
    FAILURES,
    IMAGES,
    LEASES_HELD,
    LEASES_RETURNED,
    MEGAPIXELS,
    QUEUE_BYTES,
    READ_BYTES,
    SCALED_WORKERS,
    SHARDS_COMPLETED,
    SHARDS_SPLIT,
    STAGE_SECONDS,
    STAGES,
    STORE_RETRIES,
    WORKERS,
    WORKERS_LOST,
    WRITTEN_BYTES,
    MetricDefinition,
)
from pipeline.records import ConversionStatus, ImageResult
from pipeline.storage.retry import num_retries

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Takes values; may raise."""

    def record(self, metric: MetricDefinition, value: float, tag_value: str | None = None) -> None:
        """Add, set or observe `value`, as the metric's kind says; `tag_value` is that of its own label."""
        ...


class NullRecorder:
    """Records nothing: there is no Ray to export it."""

    def record(self, metric: MetricDefinition, value: float, tag_value: str | None = None) -> None:
        """See `Recorder.record`."""


_Method = TypeVar("_Method", bound=Callable[..., None])


def _harmless(method: _Method) -> _Method:
    """A method that never raises: a job is not lost for its metrics."""

    @wraps(method)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever an exporter raises
            logger.debug("a metric was not recorded: %s", error)

    return cast(_Method, guarded)


class _Totals:
    """Turns running totals into what was added since they were last seen."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._seen: dict[str, float] = {}

    def record(self, metric: MetricDefinition, total: float) -> None:
        added = total - self._seen.get(metric.name, 0.0)
        if added > 0:
            self._seen[metric.name] = total
            self._recorder.record(metric, added)


class WorkerMeter:
    """Records what one worker does. Safe for threads as far as its recorder is; never raises."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._totals = _Totals(recorder)

    @_harmless
    def row(self, result: ImageResult) -> None:
        """One image came to its row."""
        record = self._recorder.record
        record(IMAGES, 1, result.status.value)
        if result.error_code:
            record(FAILURES, 1, result.error_code)
        for stage in STAGES:
            duration_s = getattr(result.timings, f"{stage}_ms") / 1e3
            if duration_s > 0:
                record(STAGE_SECONDS, duration_s, stage)
        if result.timings.fetch_ms > 0 and result.task.size_bytes > 0:
            record(READ_BYTES, result.task.size_bytes)
        if result.timings.infer_ms > 0:
            record(DEVICE_BUSY, result.timings.infer_ms / 1e3)
        if result.image and result.status is ConversionStatus.OK:
            record(MEGAPIXELS, result.image.width * result.image.height / 1e6)
        if result.output and not result.output.adopted:
            record(WRITTEN_BYTES, result.output.num_bytes)

    @_harmless
    def sample(self, queued_bytes: Mapping[str, int]) -> None:
        """Record what is a state, about once a second and from one thread at a time; bytes that wait, by queue."""
        for queue, num_bytes in queued_bytes.items():
            self._recorder.record(QUEUE_BYTES, num_bytes, queue)
        self._totals.record(STORE_RETRIES, num_retries())


class DriverMeter:
    """Records what the scheduler knows. One thread at a time; never raises."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._totals = _Totals(recorder)
        self._book: LeaseBook | None = None
        self._book_totals = _Totals(recorder)

    @_harmless
    def sample(self, book: LeaseBook, *, num_ready: int, num_starting: int, num_lost: int) -> None:
        """Record the state of one run, about once a second; `num_lost` counts over all runs of the executor."""
        if book is not self._book:  # each run has a book of its own, which counts from 0
            self._book, self._book_totals = book, _Totals(self._recorder)
        self._book_totals.record(SHARDS_COMPLETED, book.num_completed)
        self._book_totals.record(SHARDS_SPLIT, book.num_split)
        self._book_totals.record(LEASES_RETURNED, book.num_given_back)
        self._totals.record(WORKERS_LOST, num_lost)
        self._totals.record(STORE_RETRIES, num_retries())
        self._recorder.record(LEASES_HELD, book.num_outstanding)
        self._recorder.record(WORKERS, num_ready, "ready")
        self._recorder.record(WORKERS, num_starting, "starting")

    @_harmless
    def scaled(self, delta: int) -> None:
        """A decision asked for `delta` workers, or let as many go where it is negative."""
        if delta:
            self._recorder.record(SCALED_WORKERS, abs(delta), "up" if delta > 0 else "down")

    @_harmless
    def lost_driver_lease(self) -> None:
        """This driver stops because another one owns the destination."""
        self._recorder.record(DRIVER_LEASE_LOST, 1)
