"""What a job measures of itself. Knows no Ray; `meters.py` records, `ray_metrics.py` exports.

The dashboard and the alert rules in `infra/observability` are generated from these definitions
(`python -m jobs.observability`). Names and units follow Prometheus: base units, counters end in `_total`. No label
holds a key, a worker or a host: each value would be another series for Prometheus to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.records import ConversionStatus


class MetricKind(StrEnum):
    """What a recorded value does: it is added, it replaces the last one, or it is sorted into buckets."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Role(StrEnum):
    """Which process recorded: the label `role`."""

    WORKER = "worker"
    DRIVER = "driver"


COMMON_TAGS = ("job_id", "role")


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric. `tag` is its label beside `COMMON_TAGS`, and `tag_values` what that can be, as far as it is known.

    Known series of a counter exist from the start with the value 0: Prometheus sees no increase in a series that begins
    at its first event. Error codes are too many for that, for each worker process, and what is counted within seconds
    of the start is reported together with its 0: the dashboard's panels add what a new series began with. `buckets` are
    the upper bounds of a histogram, in `unit`.
    """

    name: str
    kind: MetricKind
    unit: str
    description: str
    roles: tuple[Role, ...]
    tag: str | None = None
    tag_values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def tag_keys(self) -> tuple[str, ...]:
        """The names of all labels."""
        return (*COMMON_TAGS, self.tag) if self.tag else COMMON_TAGS


STAGES = ("fetch", "decode", "infer", "encode", "put")
# A thumbnail is decoded within a millisecond; 100 megapixels take a CPU minutes.
_STAGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_WORKER, _DRIVER = (Role.WORKER,), (Role.DRIVER,)

IMAGES = MetricDefinition(
    "hdrfleet_images_total",
    MetricKind.COUNTER,
    "images",
    "Images that came to a row, repeats after a lost worker included.",
    _WORKER,
    tag="outcome",
    tag_values=tuple(status.value for status in ConversionStatus),
)
FAILURES = MetricDefinition(
    "hdrfleet_image_failures_total",
    MetricKind.COUNTER,
    "images",
    "Images that failed or were quarantined, by error code.",
    _WORKER,
    tag="code",
)
MEGAPIXELS = MetricDefinition(
    "hdrfleet_megapixels_total",
    MetricKind.COUNTER,
    "megapixels",
    "Pixels of converted images, in millions.",
    _WORKER,
)
READ_BYTES = MetricDefinition(
    "hdrfleet_read_bytes_total", MetricKind.COUNTER, "bytes", "Bytes of images read.", _WORKER
)
WRITTEN_BYTES = MetricDefinition(
    "hdrfleet_written_bytes_total",
    MetricKind.COUNTER,
    "bytes",
    "Bytes of EXRs stored; adopted ones are not counted.",
    _WORKER,
)
STAGE_SECONDS = MetricDefinition(
    "hdrfleet_stage_seconds",
    MetricKind.HISTOGRAM,
    "seconds",
    "Wall time of one image in one stage.",
    _WORKER,
    tag="stage",
    tag_values=STAGES,
    buckets=_STAGE_BUCKETS_S,
)
DEVICE_BUSY = MetricDefinition(
    "hdrfleet_device_busy_seconds_total",
    MetricKind.COUNTER,
    "seconds",
    "Seconds in which a worker's device computed; the rate is the share of time that it is busy.",
    _WORKER,
)
QUEUE_BYTES = MetricDefinition(
    "hdrfleet_queue_bytes",
    MetricKind.GAUGE,
    "bytes",
    "Bytes that wait between a worker's stages.",
    _WORKER,
    tag="queue",
    tag_values=("fetched", "decoded", "output"),
)
STORE_RETRIES = MetricDefinition(
    "hdrfleet_store_retries_total",
    MetricKind.COUNTER,
    "requests",
    "Requests to a store that were tried again.",
    (Role.WORKER, Role.DRIVER),
)
SHARDS_COMPLETED = MetricDefinition(
    "hdrfleet_shards_completed_total",
    MetricKind.COUNTER,
    "shards",
    "Shards whose manifest part is there.",
    _DRIVER,
)
SHARDS_SPLIT = MetricDefinition(
    "hdrfleet_shards_split_total",
    MetricKind.COUNTER,
    "shards",
    "Shards of which idle workers did a part.",
    _DRIVER,
)
LEASES_HELD = MetricDefinition(
    "hdrfleet_leases_held", MetricKind.GAUGE, "leases", "Shards that workers hold now.", _DRIVER
)
LEASES_RETURNED = MetricDefinition(
    "hdrfleet_leases_returned_total",
    MetricKind.COUNTER,
    "leases",
    "Leases that came back undone, for a lost worker or a store that failed; each is tried again.",
    _DRIVER,
)
DRIVER_LEASE_LOST = MetricDefinition(
    "hdrfleet_driver_lease_lost_total",
    MetricKind.COUNTER,
    "drivers",
    "Drivers that stopped because another one had taken over their destination.",
    _DRIVER,
)
WORKERS = MetricDefinition(
    "hdrfleet_workers",
    MetricKind.GAUGE,
    "workers",
    "Workers by state.",
    _DRIVER,
    tag="state",
    tag_values=("ready", "starting"),
)
WORKERS_LOST = MetricDefinition(
    "hdrfleet_workers_lost_total",
    MetricKind.COUNTER,
    "workers",
    "Workers that died, hung or could not start.",
    _DRIVER,
)
SCALED_WORKERS = MetricDefinition(
    "hdrfleet_scaled_workers_total",
    MetricKind.COUNTER,
    "workers",
    "Workers that scaling decisions asked for (up) or let go (down).",
    _DRIVER,
    tag="direction",
    tag_values=("up", "down"),
)

DEFINITIONS = (
    *(IMAGES, FAILURES, MEGAPIXELS, READ_BYTES, WRITTEN_BYTES, STAGE_SECONDS, DEVICE_BUSY, QUEUE_BYTES, STORE_RETRIES),
    *(SHARDS_COMPLETED, SHARDS_SPLIT, LEASES_HELD, LEASES_RETURNED, DRIVER_LEASE_LOST),
    *(WORKERS, WORKERS_LOST, SCALED_WORKERS),
)
