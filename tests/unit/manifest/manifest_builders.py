"""Build records for manifest tests, and a store in a dict that keeps the contract of ObjectStore."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipeline.errors import ObjectExistsError, ObjectMissingError
from pipeline.records import (
    ConversionStatus,
    ImageResult,
    ImageTask,
    InferenceInfo,
    LdrInfo,
    OutputInfo,
    Provenance,
    QualityStats,
    Shard,
    StageTimings,
)
from pipeline.storage import ObjectInfo
from pipeline.storage.keys import ListingObserver

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

PROVENANCE = Provenance(
    software_version="0.1.0",
    weights_name="identity",
    weights_sha256="a" * 64,
    pixel_digest="b" * 64,
    worker="worker-1",
    node="node-1",
)


class DictStore:
    """ObjectStore over a dict. `lose_answer` makes the next create succeed and report a conflict, as S3 can."""

    url = "dict://"
    has_atomic_create = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.lose_answer = False

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        self.reads.append(key)
        if key not in self.objects:
            raise ObjectMissingError(key)
        return self.objects[key]

    def stat(self, key: str) -> ObjectInfo:
        data = self.objects[key]
        return ObjectInfo(key, len(data), hashlib.md5(data).hexdigest())

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(f"{prefix}/"):
                yield self.stat(key)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        if key in self.objects:
            raise ObjectExistsError(key)
        self.objects[key] = data
        if self.lose_answer:
            self.lose_answer = False
            raise ObjectExistsError(key)
        return self.stat(key)

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        self.objects[key] = data
        return self.stat(key)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


def make_task(source: str = "a/one.jpg", **changes: object) -> ImageTask:
    return replace(ImageTask(source=source, key=f"src/{source}", size_bytes=1234, etag="e1"), **changes)


def make_stats(**changes: object) -> QualityStats:
    """Statistics that all differ, so that a swapped pair of columns shows."""
    return replace(
        QualityStats(
            clipped_fraction=0.25,
            input_dynamic_range_stops=7.5,
            output_dynamic_range_stops=10.0,
            stops_gained_clipped=1.5,
            luminance_p1=0.01,
            luminance_p50=0.2,
            luminance_p99=0.9,
            luminance_p999=3.0,
            luminance_max=8.0,
            fidelity_psnr_db=41.0,
            chroma_shift=0.003,
            input_noise_sigma=0.004,
            output_noise_sigma=0.005,
            input_banding=0.06,
            output_banding=0.07,
        ),
        **changes,
    )


def ok_result(source: str = "a/one.jpg", **changes: object) -> ImageResult:
    """A result with every field set, none to its default."""
    task = make_task(source)
    return replace(
        ImageResult(
            task=task,
            status=ConversionStatus.OK,
            started_at=START,
            finished_at=START + timedelta(seconds=2),
            source_sha256="c" * 64,
            image=LdrInfo(
                format="jpeg",
                width=3000,
                height=2000,
                bit_depth=8,
                mode="RGB",
                orientation=6,
                icc_profile="Display P3",
                has_alpha=True,
                num_frames=3,
                warnings=("multi_picture", "gain_map"),
            ),
            inference=InferenceInfo(
                device="cpu",
                precision="bf16",
                num_tiles=4,
                tile_px=1024,
                num_oom_retries=1,
                num_negative=11,
                num_nan=12,
                num_inf=13,
            ),
            output=OutputInfo(
                path=f"images/{source}.v2.exr",
                num_bytes=987654,
                sha256="d" * 64,
                revision=2,
                num_half_overflow=14,
                exposure_ev=-1.5,
                adopted=True,
                verified=True,
            ),
            timings=StageTimings(fetch_ms=1.0, decode_ms=2.0, infer_ms=300.0, encode_ms=4.0, put_ms=5.0),
            stats=make_stats(),
        ),
        **changes,
    )


def failed_result(source: str = "a/broken.jpg", **changes: object) -> ImageResult:
    """A result that failed before anything was known, with every optional field None."""
    return replace(
        ImageResult(
            task=make_task(source, etag="", revision=3),
            status=ConversionStatus.FAILED,
            started_at=START,
            finished_at=START + timedelta(milliseconds=5),
            error_code="decode_truncated",
            error_message="the file ends early",
        ),
        **changes,
    )


def make_shard(*results: ImageResult, plan: int = 1, shard: int = 0) -> Shard:
    return Shard(plan=plan, shard=shard, tasks=tuple(result.task for result in results))
