"""Frozen values that cross process borders: tasks and shards go out, results come back. No behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ConversionStatus(StrEnum):
    """What became of one planned image."""

    OK = "ok"
    FAILED = "failed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One planned input image.

    `source` is the name users see: the path relative to SRC, or the listed key, without userinfo or query.
    `key` addresses the object within the source store. `etag` identifies the planned version (S3 ETag without
    quotes; locally `<mtime_ns>-<size>`); empty when the store has none. `is_there` is False where a look-up of an image
    that was named outright did not find it; no plan keeps that.
    """

    source: str
    key: str
    size_bytes: int
    etag: str
    revision: int = 1
    is_there: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One image that took workers down: its source, the code of the row that it gets, and what was seen."""

    source: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of lease and commit: images of one plan that share one manifest part.

    `adopts_earlier`: an output of an earlier revision may stand for an image whose source has the same bytes; not so
    in a repair, which distrusts them. `quarantined` images are not touched: each gets the row of what it did to
    workers. With `is_probe` it holds some of the images of a shard that took workers down: they are converted and
    stored, and nothing is committed. With a `part` above 0 it holds some of the images of a shard that several workers
    do at the end of a job: they are converted and stored, and their rows go back to be committed with the others'.
    """

    plan: int
    shard: int
    tasks: tuple[ImageTask, ...]
    adopts_earlier: bool = True
    quarantined: tuple[Quarantine, ...] = ()
    is_probe: bool = False
    part: int = 0

    @property
    def key(self) -> ShardKey:
        """Which shard, or part of one, of which plan."""
        return self.plan, self.shard, self.part

    @property
    def whole_key(self) -> ShardKey:
        """The same of the shard that this is a part of, or is itself."""
        return self.plan, self.shard, 0


ShardKey = tuple[int, int, int]
"""Plan, shard, and part: 0 for the whole."""


@dataclass(frozen=True, slots=True)
class CaptureMetadata:
    """Capture facts from EXIF, in the units of OpenEXR's standard attributes. None where the file is silent.

    `exposure_time_s` seconds, `aperture` f-number, `focal_length_mm` millimetres, `focus_m` distance in metres,
    `captured_at` local time as `YYYY:MM:DD hh:mm:ss`, `utc_offset_s` seconds to add to local time to get UTC
    (OpenEXR's `utcOffset`), latitude and longitude in degrees (north and east positive), altitude in metres.
    """

    camera_make: str | None = None
    camera_model: str | None = None
    lens_make: str | None = None
    lens_model: str | None = None
    camera_serial: str | None = None
    lens_serial: str | None = None
    exposure_time_s: float | None = None
    aperture: float | None = None
    iso_speed: float | None = None
    focal_length_mm: float | None = None
    focus_m: float | None = None
    captured_at: str | None = None
    utc_offset_s: float | None = None
    owner: str | None = None
    comments: str | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None

    @property
    def has_position(self) -> bool:
        """Whether any of latitude, longitude and altitude is known."""
        return any(value is not None for value in (self.latitude_deg, self.longitude_deg, self.altitude_m))


@dataclass(frozen=True, slots=True)
class LdrInfo:
    """What the decoder learnt about one LDR file.

    `width` and `height` are in pixels after EXIF orientation; `orientation` is the EXIF value 1..8 that was
    applied; `bit_depth` is 8 or 16 as delivered to the network; `icc_profile` is the embedded profile's
    description or None; `num_frames` counts pages or frames in the file. `warnings` are stable codes.
    """

    format: str
    width: int
    height: int
    bit_depth: int
    mode: str
    orientation: int = 1
    icc_profile: str | None = None
    has_alpha: bool = False
    num_frames: int = 1
    warnings: tuple[str, ...] = ()
    capture: CaptureMetadata = field(default_factory=CaptureMetadata)


@dataclass(frozen=True, slots=True)
class InferenceInfo:
    """How the network ran on one image. Counts are of network output samples before any clamping."""

    device: str
    precision: str
    num_tiles: int
    tile_px: int
    num_oom_retries: int = 0
    num_negative: int = 0
    num_nan: int = 0
    num_inf: int = 0


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """The stored EXR: path relative to DST, size and digest of its bytes, and how it came to be there.

    `exposure_ev`: its linear values are those of the scene times 2**EV.
    """

    path: str
    num_bytes: int
    sha256: str
    revision: int
    num_half_overflow: int
    exposure_ev: float
    adopted: bool
    verified: bool


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Wall time of each stage in milliseconds; 0.0 for a stage that did not run."""

    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    infer_ms: float = 0.0
    encode_ms: float = 0.0
    put_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class QualityStats:
    """No-reference statistics of one conversion; formulas and sources in docs/quality-statistics.md.

    Luminances are linear Rec.709 Y in scene units where 1.0 is the input's clipping level (exposure compensation
    taken out). None where a statistic is undefined, for example fidelity without any well-exposed pixel.
    """

    clipped_fraction: float
    input_dynamic_range_stops: float | None
    output_dynamic_range_stops: float | None
    stops_gained_clipped: float | None
    luminance_p1: float
    luminance_p50: float
    luminance_p99: float
    luminance_p999: float
    luminance_max: float
    fidelity_psnr_db: float | None
    chroma_shift: float | None
    input_noise_sigma: float | None
    output_noise_sigma: float | None
    input_banding: float | None
    output_banding: float | None


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Everything the manifest records about one image. `started_at` and `finished_at` are aware UTC times.

    `warnings` are stable codes beside those of `image`: what a failure says of an input that was never decoded.
    `provenance` is that of the worker that made it, where another one commits it.
    """

    task: ImageTask
    status: ConversionStatus
    started_at: datetime
    finished_at: datetime
    error_code: str | None = None
    error_message: str | None = None
    warnings: tuple[str, ...] = ()
    source_sha256: str | None = None
    image: LdrInfo | None = None
    inference: InferenceInfo | None = None
    output: OutputInfo | None = None
    timings: StageTimings = field(default_factory=StageTimings)
    stats: QualityStats | None = None
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which software, weights and machine produced the rows of one shard attempt."""

    software_version: str
    weights_name: str
    weights_sha256: str
    pixel_digest: str
    worker: str
    node: str


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """One row that is not `ok`, as its manifest part has it: without secrets, on one line."""

    source: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ShardResult:
    """Summary of one committed shard. `committed` is False when another attempt's part was already there.

    `failures` are its rows that are not `ok`. With `is_probe` it is that of a probe: stored, and not committed. `rows`
    are there where others do images of the shard, too: nothing is committed until the rows of all are together.
    """

    plan: int
    shard: int
    attempt: int
    committed: bool
    num_ok: int
    num_failed: int
    megapixels: float
    is_probe: bool = False
    failures: tuple[ImageFailure, ...] = ()
    rows: tuple[ImageResult, ...] | None = None
