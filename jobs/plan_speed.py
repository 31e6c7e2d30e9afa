"""How long a worker takes for an image, from what is known of its stages, and what a job then costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.plan_measured import Measured
from jobs.plan_prices import NodeType
from jobs.plan_source import SourceEstimate
from pipeline.config import ConversionConfig, EncodeConfig
from pipeline.execution.base import WorkSize
from pipeline.execution.belief import believed_megapixels_per_s
from pipeline.execution.tail import MIN_PART_S, num_worth_starting

# MB per megapixel of half RGB, and MP/s of one processor core for encoding and quality statistics together; decoding
# JPEG. Measured on ten photographs with the default weights (`python -m bench.output_size`, docs/performance.md).
OUTPUT_MB_PER_MEGAPIXEL = {"none": 6.04, "zip": 3.58, "piz": 3.53, "htj2k256": 3.02, "dwaa:15": 1.78, "dwaa:45": 1.18}
ENCODE_MEGAPIXELS_PER_S = {"none": 5.7, "zip": 4.0, "piz": 3.7, "htj2k256": 5.0, "dwaa:15": 2.7, "dwaa:45": 2.9}
DECODE_MEGAPIXELS_PER_S = 50.0
# Other processors than the one that measured it, and busier ones.
_LEAST_CODEC, _MOST_CODEC = 0.7, 2.0
# What transfers reach of a network's nominal bandwidth.
_NETWORK_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Workload:
    """A whole job: images, their pixels and bytes, and what is written; `size` is what the scheduler sees of it."""

    num_images: int
    megapixels: float
    megapixels_low: float
    megapixels_high: float
    source_bytes: int
    output_bytes: float
    num_shards: int
    size: WorkSize


@dataclass(frozen=True, slots=True)
class WorkerSpeed:
    """Worker-seconds for the whole job, between what they may be at best and at worst; `limit` names what bounds it.

    `believed_megapixels_per_s` is what the scheduler takes a worker to do when it decides how many to start.
    """

    worker_s: float
    worker_s_low: float
    worker_s_high: float
    limit: str
    source: str
    start_s: float
    believed_megapixels_per_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A job on `num_workers` workers. Costs are of whole nodes over the wall time; None without a price."""

    node_type: str
    num_workers: int
    num_nodes: int
    worker_h: float
    wall_s: float
    wall_s_low: float
    wall_s_high: float
    cost: float | None
    spot_cost: float | None
    currency: str


def measured_compression(options: EncodeConfig) -> str:
    """The compression whose figures stand for `options`: its own, or DWAA's of the nearer level, 15 or 45."""
    if options.compression_name != "dwaa":
        return options.compression_name
    return "dwaa:15" if options.dwaa_level < 30 else "dwaa:45"


def workload(source: SourceEstimate, config: ConversionConfig, measured: Measured | None) -> Workload:
    """What `source` will take under `config`; a measured output size stands for the same compression alone."""
    samples = {"half": 1.0, "float": 2.0}[config.encode.pixel_type]
    per_megapixel = OUTPUT_MB_PER_MEGAPIXEL[measured_compression(config.encode)] * 1e6 * samples
    if measured and (measured.compression, measured.pixel_type) == (
        config.encode.compression,
        config.encode.pixel_type,
    ):
        per_megapixel = measured.output_bytes_per_megapixel
    low, high = source.megapixels_low, source.megapixels_high
    return Workload(
        num_images=source.num_images,
        megapixels=source.megapixels,
        megapixels_low=source.megapixels / 2 if low is None else low,
        megapixels_high=source.megapixels * 2 if high is None else high,
        source_bytes=source.num_bytes,
        output_bytes=per_megapixel * source.megapixels,
        num_shards=source.num_shards,
        size=WorkSize(source.num_images, source.megapixels_by_bytes),
    )


def measured_speed(
    work: Workload, measured: Measured, start_s: float, *, believed_megapixels_per_s: float | None = None
) -> WorkerSpeed:
    """The speed of an earlier job's workers for this one; believed to be that, too, where the machine is not known."""
    low, taken, high = (
        measured.worker_s(work.num_images, megapixels)
        for megapixels in (work.megapixels_low, work.megapixels, work.megapixels_high)
    )
    source = f"measured on {measured.device} ({measured.precision}), {measured.num_images:,} images of {measured.where}"
    believed = believed_megapixels_per_s or max(1e-9, work.megapixels) / max(1e-9, taken)
    least, most = low * (1 - measured.error), high * (1 + measured.error)
    return WorkerSpeed(taken, least, most, "as measured", source, start_s, believed)


def believed_on(node: NodeType, config: ConversionConfig) -> float:
    """MP/s that the scheduler believes a worker on `node` to do; without a card it has all its cores."""
    num_gpus = 0.0
    if node.gpus and config.inference.device != "cpu":
        num_gpus = 1 / (config.execution.placement.workers_per_gpu or 1)
    return believed_megapixels_per_s(num_gpus=num_gpus, num_cpus=node.cpus / node.num_workers)


def node_speed(work: Workload, node: NodeType, config: ConversionConfig, *, width: int = 64) -> WorkerSpeed:
    """The slowest stage of a worker on `node`; stages overlap, so that the others cost nothing.

    Stages in worker-seconds of M megapixels: network M / r; decoding and encoding M / (r per core x threads or cores,
    whichever are fewer); both together on the worker's share of the cores; bytes in and out on its share of what
    the node transfers.
    """
    taken, least, most = node.network_megapixels_per_s(width)
    limit, worker_s = _slowest(work, work.megapixels, taken, 1.0, node, config)
    _, at_best = _slowest(work, work.megapixels_low, most, _MOST_CODEC, node, config)
    _, at_worst = _slowest(work, work.megapixels_high, least, _LEAST_CODEC, node, config)
    source = "network " + (
        f"estimated from {node.peak_tflops:g} TFLOPS at width {width}"
        if node.peak_tflops
        else f"{node.source}, {taken:g} MP/s"
    )
    return WorkerSpeed(worker_s, at_best, at_worst, limit, source, node.start_s, believed_on(node, config))


def _slowest(
    work: Workload, megapixels: float, network: float, codec: float, node: NodeType, config: ConversionConfig
) -> tuple[str, float]:
    cores = node.cpus / node.num_workers
    device = "cuda" if node.gpus and config.inference.device != "cpu" else "cpu"
    num_decoders, num_encoders = config.execution.num_decode_threads, config.execution.encode_threads(device, cores)
    decode_s = megapixels / (DECODE_MEGAPIXELS_PER_S * codec)
    encode_s = megapixels / (ENCODE_MEGAPIXELS_PER_S[measured_compression(config.encode)] * codec)
    bytes_per_s = node.network_gbit_per_s / 8 * 1e9 * _NETWORK_SHARE / node.num_workers
    moved = work.source_bytes + work.output_bytes * megapixels / max(1e-9, work.megapixels)
    stages = {
        "network": megapixels / network,
        f"{num_decoders} decode threads": decode_s / min(cores, num_decoders),
        f"{num_encoders} encode threads": encode_s / min(cores, num_encoders),
        f"{cores:g} cores": (decode_s + encode_s) / cores,
        "bandwidth": moved / bytes_per_s,
    }
    return max(stages.items(), key=lambda stage: stage[1])


def most_workers(work: Workload, speed: WorkerSpeed) -> int:
    """How many workers are started at most, however many may be: by the scheduler's own rule."""
    return num_worth_starting(work.size, work.num_shards, speed.believed_megapixels_per_s)


def predict(work: Workload, speed: WorkerSpeed, node: NodeType | None, num_workers: int) -> Prediction:
    """Wall time = start + worker-seconds / workers + half of what is not parted, for the last ones to end.

    At the end shards are parted among the workers, down to an image, or to twice the smallest part that is handed over.
    No more workers than the scheduler starts. `node` None is a machine without a price, one worker on each.
    """
    used = min(num_workers, most_workers(work, speed))

    def wall_s(worker_s: float) -> float:
        whole_s = max(worker_s / max(1, work.num_images), 2 * MIN_PART_S)
        tail_s = min(worker_s / max(1, work.num_shards), whole_s) / 2 * (1 - 1 / used)
        return speed.start_s + worker_s / used + tail_s

    taken = wall_s(speed.worker_s)
    num_nodes = math.ceil(used / node.num_workers) if node else used
    hours = num_nodes * taken / 3600
    spot = node.spot_price_per_h if node else None
    return Prediction(
        node_type=node.name if node else "as measured",
        num_workers=used,
        num_nodes=num_nodes,
        worker_h=used * taken / 3600,
        wall_s=taken,
        wall_s_low=wall_s(speed.worker_s_low),
        wall_s_high=wall_s(speed.worker_s_high),
        cost=hours * node.price_per_h if node else None,
        spot_cost=None if spot is None else hours * spot,
        currency=node.currency if node else "",
    )
