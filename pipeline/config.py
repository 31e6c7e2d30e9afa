"""The configuration of a conversion: frozen, validated when built, serialisable, with a digest of what makes pixels."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.places import DestinationConfig, FrozenModel, SourceConfig, StorageConfig, refuse_secrets
from pipeline.scaling_config import PlacementConfig, ScalingConfig

__all__ = [
    "EMPTY",
    "PIXEL_PIPELINE_VERSION",
    "ConversionConfig",
    "DecodeConfig",
    "DestinationConfig",
    "EncodeConfig",
    "ExecutionConfig",
    "ExecutorName",
    "FrozenModel",
    "InferenceConfig",
    "ModelConfig",
    "PixelType",
    "PlacementConfig",
    "Precision",
    "ScalingConfig",
    "ShardingConfig",
    "SourceConfig",
    "StorageConfig",
    "VerifyMode",
    "build_config",
    "first_fault",
]

# Raised whenever the same input, weights and options would give other pixels or other statistics than before.
PIXEL_PIPELINE_VERSION = 4

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PixelType = Literal["half", "float"]
VerifyMode = Literal["off", "sample", "all"]
ExecutorName = Literal["ray", "local"]

EMPTY = "it is empty"
_SHOULD = re.compile(r"^(Input|String|List|Tuple|Dictionary) should")  # pydantic's subjects
_COMPRESSION = re.compile(r"(none|zip|piz|htj2k256|dwaa(:\d+(\.\d+)?)?)")
_DEVICE = re.compile(r"(auto|cpu|cuda(:\d+)?)")
_DWAA_DEFAULT_LEVEL = 45.0


class ModelConfig(FrozenModel):
    """`weights` is `default`, `identity`, or the path or URL of a `.pth` or `.safetensors` checkpoint."""

    weights: str = Field("default", min_length=1)

    _url_has_no_secret = field_validator("weights")(refuse_secrets)


class InferenceConfig(FrozenModel):
    """Where and how the network runs.

    `tile_px` fixes the side of a tile's core in pixels (a multiple of 4); otherwise it follows from
    `memory_budget_bytes`, and that from the cgroup's limit or the card's free memory. A tile that does not fit into
    what is there is made smaller. `num_threads` sets torch's CPU threads in one worker.
    """

    device: str = "auto"
    precision: Precision = "auto"
    tile_px: int | None = Field(None, ge=64, le=65536)
    memory_budget_bytes: int | None = Field(None, ge=1)
    num_threads: int | None = Field(None, ge=1, le=1024)

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not _DEVICE.fullmatch(value):
            msg = "device must be auto, cpu, cuda or cuda:N"
            raise ValueError(msg)
        return value

    @field_validator("tile_px")
    @classmethod
    def _aligned_tile(cls, value: int | None) -> int | None:
        if value is not None and value % 4:
            msg = f"tile_px must be a multiple of 4; {value - value % 4} and {value + 4 - value % 4} are near"
            raise ValueError(msg)
        return value


class DecodeConfig(FrozenModel):
    """Limits of decoding, and where it happens. None of it changes a pixel.

    `max_pixels` and `max_bytes` are checked before any pixel is decoded. JPEG and PNG are decoded within the worker,
    every other format in a child process; with `isolate`, they are too. A child has `timeout_s`, and
    `timeout_s_per_megapixel` for each declared megapixel, to come to an end with one image. Where it is not given,
    `timeout_s` is shortened to half of a shorter `image_timeout_s`.
    """

    max_pixels: int = Field(256_000_000, ge=1)
    max_bytes: int = Field(2 * 2**30, ge=1)
    isolate: bool = False
    timeout_s: float = Field(120.0, gt=0, le=86_400)
    # Twice, for the second child that an image may need, this is what a stage is given in pipeline.flow.
    timeout_s_per_megapixel: float = Field(2.0, ge=0, le=15)


class EncodeConfig(FrozenModel):
    """What the EXR holds. `exposure_ev` multiplies linear values by 2**EV; `verify` decodes what was written."""

    pixel_type: PixelType = "half"
    compression: str = "zip"
    exposure_ev: float = Field(0.0, ge=-20, le=20, allow_inf_nan=False)
    keep_gps: bool = False
    verify: VerifyMode = "sample"

    @field_validator("compression")
    @classmethod
    def _known_compression(cls, value: str) -> str:
        value = value.lower()
        if not _COMPRESSION.fullmatch(value):
            msg = "compression must be none, zip, piz, htj2k256, dwaa or dwaa:LEVEL (for example dwaa:45)"
            raise ValueError(msg)
        if not 0 < float(value.partition(":")[2] or _DWAA_DEFAULT_LEVEL) <= 100_000:
            msg = "a DWAA level must lie in (0, 100000]; 45 is visually lossless for most images"
            raise ValueError(msg)
        return value

    @property
    def compression_name(self) -> str:
        """The method without its level, for example `dwaa`."""
        return self.compression.partition(":")[0]

    @property
    def dwaa_level(self) -> float:
        """DWAA's quantisation level; OpenEXR's default of 45 where none is given."""
        return float(self.compression.partition(":")[2] or _DWAA_DEFAULT_LEVEL)

    @property
    def is_lossy(self) -> bool:
        """True when the stored samples can differ from the encoded ones."""
        return self.compression_name == "dwaa"


class ShardingConfig(FrozenModel):
    """A shard closes at `max_images`, or when its estimated pixels pass `max_megapixels`, whichever comes first."""

    max_images: int = Field(64, ge=1, le=100_000)
    max_megapixels: float = Field(256.0, gt=0)


# What a worker encodes with by itself. More than the highest number was never of use beside one device.
_MIN_ENCODE_THREADS, _MAX_ENCODE_THREADS = 2, 16


class ExecutionConfig(FrozenModel):
    """How many workers run the job and what each may hold. None of it changes a pixel.

    `num_encode_threads` None follows device and cores (`encode_threads`). `queue_bytes` bounds decoded pixels in flight
    in one worker, and for each two encode threads to-be-encoded ones; `max_shard_attempts` counts
    failures of workers, not of images; a worker that holds one shard longer than `shard_timeout_s` is replaced, and one
    in which an image spends more than `image_timeout_s`, and 30 s a megapixel, in one stage. A run ends when more than
    `max_failure_rate` of its images failed, once there are `min_images_for_rate`; 1 never ends it. A driver that
    is silent for `lease_timeout_s` may be taken over by another. With `scaling`, workers come and go.
    """

    executor: ExecutorName = "ray"
    num_workers: int | None = Field(None, ge=1, le=100_000)
    address: str | None = None
    num_decode_threads: int = Field(2, ge=1, le=64)
    num_encode_threads: int | None = Field(None, ge=1, le=64)
    queue_bytes: int = Field(2**30, ge=2**20)
    leases_per_worker: int = Field(2, ge=1, le=16)
    max_shard_attempts: int = Field(4, ge=1, le=100)
    worker_start_timeout_s: float = Field(300.0, gt=0)
    shard_timeout_s: float = Field(7200.0, gt=0)
    image_timeout_s: float = Field(600.0, gt=0)
    max_failure_rate: float = Field(0.5, gt=0, le=1)
    min_images_for_rate: int = Field(200, ge=1)
    lease_timeout_s: float = Field(180.0, ge=1)  # renewed six times in it
    scaling: ScalingConfig | None = None
    placement: PlacementConfig = PlacementConfig()

    def encode_threads(self, device: str, num_cores: float) -> int:
        """How many threads a worker on `device` encodes, measures and stores with, which has `num_cores` to itself.

        Beside a GPU all but one core, which is left to decoding (about a tenth of what encoding and measuring take,
        docs/performance.md) and to what drives the device. Two where the network itself uses the cores, and is the
        slower one: one computes while the other stores.
        """
        if self.num_encode_threads is not None:
            return self.num_encode_threads
        if device == "cpu":
            return _MIN_ENCODE_THREADS
        return max(_MIN_ENCODE_THREADS, min(_MAX_ENCODE_THREADS, int(num_cores) - 1))

    @model_validator(mode="after")
    def _not_contradictory(self) -> Self:
        if self.executor == "local" and (self.scaling or self.placement != PlacementConfig()):
            msg = "the local executor is one worker in this process, which neither scales nor moves; use ray"
            raise ValueError(msg)
        if self.scaling and self.num_workers:
            msg = "--workers fixes their number, --max-workers lets it follow the work; drop one of the two"
            raise ValueError(msg)
        if self.executor == "local" and self.address:
            msg = "an address needs the ray executor; drop one of the two"
            raise ValueError(msg)
        if self.executor == "local" and (self.num_workers or 1) > 1:
            msg = "the local executor is one worker; use the ray executor for more"
            raise ValueError(msg)
        return self


class ConversionConfig(FrozenModel):
    """Everything that defines a conversion job. Build it with `build_config` to get one-line errors."""

    source: SourceConfig
    destination: DestinationConfig
    model: ModelConfig = ModelConfig()
    inference: InferenceConfig = InferenceConfig()
    decode: DecodeConfig = DecodeConfig()
    encode: EncodeConfig = EncodeConfig()
    sharding: ShardingConfig = ShardingConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _gpu_or_not(self) -> Self:
        if self.inference.device == "cpu" and self.execution.placement.asks_for_gpu:
            msg = "workers per GPU or an accelerator type ask for GPUs, device cpu for none; drop one of the two"
            raise ValueError(msg)
        return self

    def pixel_fields(self) -> dict[str, object]:
        """The options that change pixels or statistics; job.json stores them so that errors can name a difference.

        Lossless compressions are one: they store the same samples. Weights are identified by their own digest;
        device, precision and tiling are recorded per row, not here.
        """
        encode = self.encode
        return {
            "pixel_pipeline_version": PIXEL_PIPELINE_VERSION,
            "pixel_type": encode.pixel_type,
            "compression": f"dwaa:{encode.dwaa_level:g}" if encode.is_lossy else "lossless",
            "exposure_ev": encode.exposure_ev,
        }

    def pixel_digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `pixel_fields`."""
        return hashlib.sha256(json.dumps(self.pixel_fields(), sort_keys=True).encode()).hexdigest()


def build_config(**parts: object) -> ConversionConfig:
    """Validate and build a ConversionConfig; a ConfigError names the first offending option in one line.

    Deadlines of which one would make another void are refused, or fitted where they were not given. A ConversionConfig
    that a job recorded is not looked at in this way: it can always be read.
    """
    try:
        return _with_fitting_deadlines(ConversionConfig.model_validate(parts))
    except ValidationError as error:
        where, what = first_fault(error)
        raise ConfigError(f"{where or 'options'}: {what}") from error


def _with_fitting_deadlines(config: ConversionConfig) -> ConversionConfig:
    """What ends less has to come first: a decoder's child before its worker, and an image before its shard."""
    decode, execution = config.decode, config.execution
    if "image_timeout_s" not in execution.model_fields_set:
        image_s = min(execution.image_timeout_s, execution.shard_timeout_s / 2)
        execution = execution.model_copy(update={"image_timeout_s": image_s})
    image_s, shard_s = execution.image_timeout_s, execution.shard_timeout_s
    if "timeout_s" not in decode.model_fields_set:
        decode = decode.model_copy(update={"timeout_s": min(decode.timeout_s, image_s / 2)})
    if image_s >= shard_s:
        raise ConfigError(
            f"execution.image_timeout_s: {image_s:g} s never pass, for execution.shard_timeout_s ends the worker "
            f"after {shard_s:g} s; give less than that, or execution.shard_timeout_s more than {image_s:g}"
        )
    if 2 * decode.timeout_s > image_s:
        raise ConfigError(
            f"decode.timeout_s: {decode.timeout_s:g} s, twice where an image needs a second child, never pass, for "
            f"execution.image_timeout_s ends the worker after {image_s:g} s; give at most {image_s / 2:g}, or "
            f"execution.image_timeout_s at least {2 * decode.timeout_s:g}"
        )
    return config.model_copy(update={"decode": decode, "execution": execution})


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return where pydantic found the first fault, as `part.field` (empty for the whole), and what it is, one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where, what = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_too_short" and first["ctx"]["min_length"] == 1:
        return where, EMPTY
    return where, _SHOULD.sub("it should", what)
