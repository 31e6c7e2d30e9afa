"""One image on its way through the stages, and the manifest row that it becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter

from pipeline.codecs.ldr import LdrImage
from pipeline.errors import (
    ImageError,
    QuarantinedError,
    WorkerCrashError,
    WorkerHangError,
    WorkerOutOfMemoryError,
)
from pipeline.outputs import StoredOutput
from pipeline.records import (
    ConversionStatus,
    ImageResult,
    ImageTask,
    InferenceInfo,
    OutputInfo,
    Provenance,
    QualityStats,
    Quarantine,
    Shard,
    ShardResult,
    StageTimings,
)


@dataclass(slots=True)
class Draft:
    """What is known of one image so far; it fills up stage by stage, in one thread at a time.

    `is_last`: there is no attempt after this one. `held_bytes` is what its decoded pixels hold of the converter's
    budget; `existing` is an output that an earlier attempt stored.
    """

    task: ImageTask
    is_last: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    timings: StageTimings = field(default_factory=StageTimings)
    source_sha256: str = ""
    ldr: LdrImage | None = None
    existing: StoredOutput | None = None
    held_bytes: int = 0
    error: ImageError | None = None

    def clock(self, stage: str, start: float) -> None:
        """Record the time since `start` (of `perf_counter`) as `<stage>_ms`."""
        self.timings = replace(self.timings, **{f"{stage}_ms": (perf_counter() - start) * 1e3})

    def converted(
        self,
        ldr: LdrImage,
        inference: InferenceInfo | None,
        stored: StoredOutput,
        stats: QualityStats,
        *,
        num_half_overflow: int,
        exposure_ev: float,
        verified: bool,
    ) -> ImageResult:
        """The row of an image whose output is stored."""
        output = OutputInfo(
            path=stored.key,
            num_bytes=len(stored.data),
            sha256=stored.sha256,
            revision=stored.revision,
            num_half_overflow=num_half_overflow,
            exposure_ev=exposure_ev,
            adopted=stored.adopted,
            verified=verified,
        )
        return ImageResult(
            task=self.task,
            status=ConversionStatus.OK,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            source_sha256=self.source_sha256,
            image=ldr.info,
            inference=inference,
            output=output,
            timings=self.timings,
            stats=stats,
        )

    def failed(self, error: ImageError) -> ImageResult:
        """The row of an image that cannot be converted."""
        return ImageResult(
            task=self.task,
            status=ConversionStatus(error.status),
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            error_code=error.code,
            error_message=str(error),
            warnings=error.warnings,
            source_sha256=self.source_sha256 or None,
            image=self.ldr.info if self.ldr else None,
            timings=self.timings,
        )


@dataclass(slots=True)
class ConversionCounts:
    """Running totals of a converter, or of one attempt."""

    num_images: int = 0
    num_failed: int = 0
    megapixels: float = 0.0
    failed_by_code: Counter[str] = field(default_factory=Counter)

    def add(self, result: ImageResult) -> None:
        """Count one finished image."""
        self.num_images += 1
        if result.error_code:
            self.num_failed += 1
            self.failed_by_code[result.error_code] += 1
        if result.image and result.status is ConversionStatus.OK:
            self.megapixels += result.image.width * result.image.height / 1e6

    def plus(self, other: ConversionCounts) -> None:
        """Add the totals of another."""
        self.num_images += other.num_images
        self.num_failed += other.num_failed
        self.megapixels += other.megapixels
        self.failed_by_code += other.failed_by_code


_QUARANTINE_ERRORS = {error.code: error for error in (WorkerCrashError, WorkerHangError, WorkerOutOfMemoryError)}


def quarantine_error(entry: Quarantine) -> QuarantinedError:
    """The error whose row an image in quarantine gets."""
    return _QUARANTINE_ERRORS[entry.code](f"left alone, because it takes down its worker: {entry.reason}")


def quarantined_tasks(shard: Shard) -> list[tuple[ImageTask, Quarantine]]:
    """The images of a shard that are not touched, and why."""
    entries = {entry.source: entry for entry in shard.quarantined}
    return [(task, entries[task.source]) for task in shard.tasks if task.source in entries]


def probe_result(rows: Sequence[ImageResult], probe: Shard, attempt: int) -> ShardResult:
    """What came of a probe, of which nothing is committed."""
    num_ok = sum(row.status is ConversionStatus.OK for row in rows)
    return ShardResult(
        plan=probe.plan,
        shard=probe.shard,
        attempt=attempt,
        committed=False,
        num_ok=num_ok,
        num_failed=len(rows) - num_ok,
        megapixels=0.0,
        is_probe=True,
    )


def part_result(rows: Sequence[ImageResult], part: Shard, attempt: int, provenance: Provenance) -> ShardResult:
    """What came of a part of a shard, for whoever commits the whole."""
    rows = tuple(replace(row, provenance=provenance) for row in rows)
    return replace(probe_result(rows, part, attempt), is_probe=False, rows=rows)
