"""The Ray actor: a thin shell around Worker. Built in `start`, so that its errors come back instead of killing it."""

from __future__ import annotations

import ray

from pipeline.errors import ConfigError
from pipeline.execution.base import Progress, WorkerSpec
from pipeline.execution.worker import Worker
from pipeline.records import Shard, ShardResult


class RayWorker:
    """One replica in one actor process. `convert` runs in as many threads as the worker may hold leases."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: Worker | None = None

    @ray.method(concurrency_group="control")
    def start(self, spec: WorkerSpec) -> None:
        """Build stores and engine, warm up. Raises what building raises."""
        self._worker = Worker(spec, self._name)

    @ray.method(concurrency_group="convert")
    def convert(self, shard: Shard, attempt: int, adopt: bool) -> ShardResult:
        """Convert and commit one shard."""
        return self._started().convert(shard, attempt, adopt)

    @ray.method(concurrency_group="control")
    def progress(self) -> Progress:
        """Counts since the worker started."""
        return self._started().progress() if self._worker else Progress()

    def _started(self) -> Worker:
        if self._worker is None:
            raise ConfigError("the worker was not started")
        return self._worker
