"""The Ray actor: a thin shell around Worker. Built in `start`, so that its errors come back instead of killing it."""

from __future__ import annotations

from dataclasses import dataclass, field

import ray

from pipeline.errors import ConfigError
from pipeline.execution.base import Progress, WorkerSpec
from pipeline.execution.metrics import Role
from pipeline.execution.oom_kills import count_oom_kills
from pipeline.execution.ray_metrics import ray_recorder
from pipeline.execution.worker import Worker
from pipeline.records import Shard, ShardResult


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """What an actor answers when it is asked how it is: its counts, its node, and what `count_oom_kills` says there."""

    progress: Progress = field(default_factory=Progress)
    node_id: str = ""
    num_oom_kills: int | None = None


class RayWorker:
    """One replica in one actor process. `convert` runs in as many threads as the worker may hold leases."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: Worker | None = None

    @ray.method(concurrency_group="control")
    def start(self, spec: WorkerSpec) -> SignOfLife:
        """Build stores and engine, warm up. Raises what building raises."""
        self._worker = Worker(spec, self._name, ray_recorder(spec.job_id, Role.WORKER))
        return self._sign_of_life()

    @ray.method(concurrency_group="convert")
    def convert(self, shard: Shard, attempt: int, adopt: bool) -> ShardResult:
        """Convert and commit one shard."""
        return self._started().convert(shard, attempt, adopt)

    @ray.method(concurrency_group="control")
    def sign_of_life(self) -> SignOfLife:
        """Counts since the worker started, and what tells later what it died of."""
        return self._sign_of_life()

    def _sign_of_life(self) -> SignOfLife:
        progress = self._worker.progress() if self._worker else Progress()
        return SignOfLife(progress, ray.get_runtime_context().get_node_id(), count_oom_kills())

    def _started(self) -> Worker:
        if self._worker is None:
            raise ConfigError("the worker was not started")
        return self._worker
