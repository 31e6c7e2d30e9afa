"""One worker's replica: stores, engine and converter, built from a WorkerSpec in whichever process runs it."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from functools import partial

import pipeline
from pipeline.cgroups import usable_cores
from pipeline.convert import ShardConverter
from pipeline.draft import ConversionCounts
from pipeline.driver_lease import require_epoch
from pipeline.execution.base import NodeShare, Progress, WorkerSpec
from pipeline.execution.lease import Lease
from pipeline.execution.meters import NullRecorder, Recorder, WorkerMeter
from pipeline.inference.base import Engine
from pipeline.inference.engine import InferenceEngine
from pipeline.inference.memory import decoders_budget_bytes, output_budget_bytes, retain_freed_memory
from pipeline.lending import OpenWork
from pipeline.models.checkpoint import LoadedWeights, build_network, load_weights
from pipeline.records import ImageTask, Provenance, ShardKey, ShardResult
from pipeline.sharding import source_is_there, source_store
from pipeline.storage import open_store


class Worker:
    """Holds one network replica and converts shards with it. `convert` may run in several threads at once.

    `share` is what it has of its node; by default this process's cores and memory, divided by the workers on its card.
    """

    def __init__(
        self, spec: WorkerSpec, name: str, recorder: Recorder | None = None, share: NodeShare | None = None
    ) -> None:
        retain_freed_memory()
        config = spec.config
        share = share or NodeShare(spec.num_workers_on_node, usable_cores() / spec.num_workers_on_node)
        weights = load_weights(spec.weights_name, spec.weights_data)
        engine = spec.build_engine(spec) if spec.build_engine else _network_engine(spec, weights)
        num_encode_threads = config.execution.encode_threads(engine.device, share.num_cores)
        destination = open_store(config.destination.url, config.destination.storage, atomic_create=spec.atomic_create)
        self._meter = WorkerMeter(recorder or NullRecorder())
        self._converter = ShardConverter(
            source=source_store(config.source),
            destination=destination,
            engine=engine,
            config=config,
            source_is_there=partial(source_is_there, config.source),
            ask_owner=partial(require_epoch, destination, spec.epoch),
            decoders_bytes=decoders_budget_bytes(share.num_workers),
            num_encode_threads=num_encode_threads,
            output_bytes=output_budget_bytes(config.execution.queue_bytes, num_encode_threads, share.num_workers),
            on_row=self._meter.row,
            provenance=Provenance(
                software_version=pipeline.__version__,
                weights_name=weights.name,
                weights_sha256=weights.sha256,
                pixel_digest=config.pixel_digest(),
                worker=f"{name}:{os.getpid()}",
                node=socket.gethostname(),
            ),
        )

    def convert(self, lease: Lease, adopt: bool) -> ShardResult:
        """Convert and commit one shard, or convert a part of one; images whose rows the lease has are not touched."""
        return self._converter.run(
            lease.shard,
            lease.attempt,
            adopt=adopt,
            known=lease.rows,
            is_last=lease.is_last,
            is_suspect=lease.is_suspect,
        )

    def open_work(self) -> tuple[OpenWork, ...]:
        """What is not begun of the shards that are at work."""
        return self._converter.open_work()

    def cede(self, key: ShardKey, num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
        """Give up images of a shard that are not begun, in parts for `num_parts` - 1 others."""
        return self._converter.cede(key, num_parts)

    def progress(self) -> Progress:
        """Counts since the worker started. Asked about once a second: states are recorded on the way."""
        self._meter.sample(self._converter.queued_bytes())
        return replace(_progress(self._converter.counts()), overdue=self._converter.overdue())

    def settled(self) -> Progress:
        """The same of attempts that came to their end: what of it counts should the worker be lost now."""
        return _progress(self._converter.settled_counts())

    def stop(self) -> None:
        """Make running shards end soon, uncommitted; what they stored is adopted later."""
        self._converter.stop()

    def close(self) -> None:
        """End the worker's threads; images in flight finish first."""
        self._converter.close()


def _progress(counts: ConversionCounts) -> Progress:
    return Progress(
        counts.num_images,
        counts.num_failed,
        counts.megapixels,
        num_workers=1,
        failed_by_code=counts.failed_by_code,
    )


def _network_engine(spec: WorkerSpec, weights: LoadedWeights) -> Engine:
    engine = InferenceEngine(build_network(weights), spec.config.inference, num_workers=spec.num_workers_on_node)
    engine.warm_up()
    return engine
