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
from pipeline.lending import OpenWork
from pipeline.records import ImageResult, ImageTask, Shard, ShardKey, ShardResult


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """What an actor answers when it is asked how it is: its counts, its node, and what `count_oom_kills` says there.

    `open_work` is what it has not begun of its leases.
    """

    progress: Progress = field(default_factory=Progress)
    node_id: str = ""
    num_oom_kills: int | None = None
    open_work: tuple[OpenWork, ...] = ()


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
    def convert(self, shard: Shard, attempt: int, adopt: bool, known: tuple[ImageResult, ...] = ()) -> ShardResult:
        """Convert and commit one shard, or convert a part of one."""
        return self._started().convert(shard, attempt, adopt, known)

    @ray.method(concurrency_group="control")
    def cede(self, key: ShardKey, num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
        """Give up images of a lease that are not begun, in parts for `num_parts` - 1 others."""
        return self._started().cede(key, num_parts)

    @ray.method(concurrency_group="control")
    def sign_of_life(self) -> SignOfLife:
        """Counts since the worker started, and what tells later what it died of."""
        return self._sign_of_life()

    def _sign_of_life(self) -> SignOfLife:
        worker = self._worker
        progress, open_work = (worker.progress(), worker.open_work()) if worker else (Progress(), ())
        return SignOfLife(progress, ray.get_runtime_context().get_node_id(), count_oom_kills(), open_work)

    def _started(self) -> Worker:
        if self._worker is None:
            raise ConfigError("the worker was not started")
        return self._worker
