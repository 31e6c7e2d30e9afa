"""One disposable actor as the driver sees it: spawned, asked, killed, and judged by what ended it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from pipeline.errors import WorkerCrashError, WorkerOutOfMemoryError
from pipeline.execution.base import Progress
from pipeline.execution.leases import Lease
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_worker import RayWorker
from pipeline.inference.memory import MALLOC_ENV

# What Ray's memory monitor says of an actor that it ended. The kernel's own killer leaves no trace: Ray names it, among
# other possibilities, for every process that vanished.
_OUT_OF_MEMORY_WORDS = ("low on memory", "memory monitor", "memory usage threshold")


@dataclass(slots=True)
class ActorHandle:
    """One actor and what the driver knows of it. `running` has the lease and its deadline by reference."""

    name: str
    actor: Any
    start_ref: Any
    start_deadline: float
    is_ready: bool = False
    running: dict[Any, tuple[Lease, float]] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    progress_ref: Any = None
    progress_asked_at: float = 0.0

    def ask_progress(self) -> None:
        """Ask for its counts; the answer is for `progress_ref`."""
        self.progress_ref = self.actor.progress.remote()
        self.progress_asked_at = monotonic()

    def silent_s(self) -> float:
        """Seconds that it has owed an answer."""
        return monotonic() - self.progress_asked_at if self.progress_ref is not None else 0.0


def spawn_actor(
    name: str, spec_ref: Any, resources: WorkerResources, *, num_leases: int, start_deadline: float
) -> ActorHandle:
    """Ask Ray for an actor that builds its replica; it never restarts and none of its calls is repeated."""
    actor_class = ray.remote(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"convert": num_leases, "control": 1},
        runtime_env={"env_vars": MALLOC_ENV} if not resources.num_gpus else None,
    )(RayWorker)
    actor = actor_class.remote(name)
    return ActorHandle(name, actor, actor.start.remote(spec_ref), start_deadline)


def kill_actor(handle: ActorHandle) -> None:
    """Make sure that it is dead; it may be gone already, or Ray itself: then there is nothing left to kill."""
    with contextlib.suppress(RayError, ValueError, RuntimeError):
        ray.kill(handle.actor, no_restart=True)


def loss_code(error: Exception) -> str:
    """The code of the QuarantinedError that an image gets which ends its worker like this, time and again."""
    text = str(error).lower()
    if isinstance(error, MemoryError | OutOfMemoryError) or any(word in text for word in _OUT_OF_MEMORY_WORDS):
        return WorkerOutOfMemoryError.code
    return WorkerCrashError.code
