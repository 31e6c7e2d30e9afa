"""What every executor promises, and the values it exchanges with the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.config import ConversionConfig
from pipeline.execution.events import ExecutionEvent
from pipeline.inference.base import Engine
from pipeline.records import Shard, ShardResult

# After a store's own bounded retries have failed, a shard waits this long before its second attempt.
RETRY_DELAY_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What one worker has of its node: it is one of `num_workers` there, with `num_cores` cores to itself."""

    num_workers: int
    num_cores: float


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker needs to build its replica, on any machine.

    `weights_data` holds the checkpoint's bytes (None for built-in weights), read once by the driver, so that
    workers need no access to the file. `num_workers_on_node` divides the card's or the node's memory between replicas.
    `atomic_create` is what `open_store` takes for the destination. `epoch` is that of the driver's lease: where a later
    one is there, nothing is committed any more. `job_id` labels metrics. `build_engine` makes another engine than the
    network's, from a module that every worker can import.
    """

    config: ConversionConfig
    weights_name: str
    weights_data: bytes | None
    num_workers_on_node: int = 1
    atomic_create: bool | None = None
    epoch: int = 0
    job_id: str = ""
    build_engine: Callable[[WorkerSpec], Engine] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts since a worker (or a run) started; images and pixels count as they finish, before their shard does.

    `failed_by_code` splits `num_failed` up by error code. `overdue` are the sources that a worker does not come to an
    end with, at the moment. `events` are what happened since progress was last reported.
    """

    num_images: int = 0
    num_failed: int = 0
    megapixels: float = 0.0
    num_workers: int = 0
    failed_by_code: Mapping[str, int] = field(default_factory=dict)
    overdue: tuple[str, ...] = ()
    events: tuple[ExecutionEvent, ...] = ()

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.num_images + other.num_images,
            self.num_failed + other.num_failed,
            self.megapixels + other.megapixels,
            self.num_workers + other.num_workers,
            Counter(self.failed_by_code) + Counter(other.failed_by_code),
            self.overdue + other.overdue,
            self.events + other.events,
        )

    def since(self, earlier: Progress) -> Progress:
        """What was added after `earlier`; workers, overdue images and events are the present ones."""
        return Progress(
            self.num_images - earlier.num_images,
            self.num_failed - earlier.num_failed,
            self.megapixels - earlier.megapixels,
            self.num_workers,
            Counter(self.failed_by_code) - Counter(earlier.failed_by_code),
            self.overdue,
            self.events,
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What one `Executor.run` did. Shards that another attempt had committed first count as completed.

    `num_split` of them were done by several workers.
    """

    num_shards: int = 0
    num_ok: int = 0
    num_failed: int = 0
    megapixels: float = 0.0
    num_given_back: int = 0
    num_workers_lost: int = 0
    num_split: int = 0

    def plus_shard(self, result: ShardResult) -> RunSummary:
        """This summary with one more shard; a probe or a part of a shard is none."""
        if result.is_probe or result.rows is not None:
            return self
        return replace(
            self,
            num_shards=self.num_shards + 1,
            num_ok=self.num_ok + result.num_ok,
            num_failed=self.num_failed + result.num_failed,
            megapixels=self.megapixels + result.megapixels,
        )

    def plus(self, other: RunSummary) -> RunSummary:
        """The sum of two runs."""
        return RunSummary(
            self.num_shards + other.num_shards,
            self.num_ok + other.num_ok,
            self.num_failed + other.num_failed,
            self.megapixels + other.megapixels,
            self.num_given_back + other.num_given_back,
            self.num_workers_lost + other.num_workers_lost,
            self.num_split + other.num_split,
        )


@dataclass(frozen=True, slots=True)
class WorkSize:
    """How much work a plan, or a part of one, is; megapixels are estimated from file sizes."""

    num_images: int = 0
    megapixels: float = 0.0

    def less(self, other: WorkSize) -> WorkSize:
        """What is left without `other`; never below nothing, for both are estimates."""
        return WorkSize(max(0, self.num_images - other.num_images), max(0.0, self.megapixels - other.megapixels))


OnProgress = Callable[[Progress], None]


class Executor(Protocol):
    """Runs shards to their commit, whatever happens to workers. Use as a context manager.

    `run` returns when every shard is committed. It raises a SystemicError when the job cannot go on (committed
    shards are kept), a UsageError when a worker cannot be built from its configuration. With `resuming`, outputs
    that an earlier run may have left are looked for and adopted. `num_shards` is how many `shards` yields: no more
    workers are kept. `size` is what they are together, for executors whose workers come and go. `on_progress` is called
    about once a second from the calling thread.
    """

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def run(
        self,
        shards: Iterator[Shard],
        *,
        num_shards: int,
        resuming: bool,
        on_progress: OnProgress,
        size: WorkSize | None = None,
    ) -> RunSummary:
        """Convert and commit every shard."""
        ...
