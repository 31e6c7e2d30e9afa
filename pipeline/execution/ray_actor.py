"""One disposable actor as the driver sees it: spawned, asked, killed, and judged by what ended it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.placement_group import NODE_ID_LABEL_KEY
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import WorkerCrashError, WorkerOutOfMemoryError
from pipeline.execution.base import Progress
from pipeline.execution.leases import Lease
from pipeline.execution.node_health import Place
from pipeline.execution.oom_kills import count_oom_kills, vanished_code
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_worker import RayWorker, SignOfLife
from pipeline.inference.memory import MALLOC_ENV

# What Ray's memory monitor says of an actor that it ended. The kernel's own killer leaves no trace there: Ray names it,
# among other possibilities, for every process that vanished.
_OUT_OF_MEMORY_WORDS = ("low on memory", "memory monitor", "memory usage threshold")
# A node that is there starts a task within a second or two; one that went away with its worker costs this once.
_ASK_NODE_TIMEOUT_S = 10.0


@dataclass(slots=True)
class ActorHandle:
    """One actor and what the driver knows of it. `running` has the lease and its deadline by reference.

    `resources` is what it asked for, `started` what `NodeHealth.started` said. `is_draining`: its node is being taken
    away; it finishes what it can and gets nothing new. `cede_ref` is there while it is asked to cede images of the
    lease `ceding`; what its last sign said of them is not `has_fresh_sign` then.
    """

    name: str
    actor: Any
    start_ref: Any
    start_deadline: float
    resources: WorkerResources
    asked_at: float = field(default_factory=monotonic)
    is_ready: bool = False
    started: int = 0
    is_draining: bool = False
    running: dict[Any, tuple[Lease, float]] = field(default_factory=dict)
    last_sign: SignOfLife = field(default_factory=SignOfLife)
    sign_ref: Any = None
    sign_asked_at: float = 0.0
    has_fresh_sign: bool = False
    cede_ref: Any = None
    ceding: Lease | None = None

    @property
    def progress(self) -> Progress:
        """Its counts when it was last heard of."""
        return self.last_sign.progress

    @property
    def place(self) -> Place:
        """Where it is, once it is ready."""
        return Place(self.last_sign.node_id, self.last_sign.card)

    def ask_sign(self) -> None:
        """Ask how it is; the answer is for `sign_ref`."""
        self.sign_ref = self.actor.sign_of_life.remote()
        self.sign_asked_at = monotonic()

    def take_sign(self, sign: SignOfLife) -> None:
        """It has answered."""
        self.last_sign, self.sign_ref, self.has_fresh_sign = sign, None, self.cede_ref is None

    def ask_to_cede(self, lease: Lease, num_parts: int) -> None:
        """Ask it to give up images of a lease, in parts for `num_parts` - 1 others; the answer is for `cede_ref`."""
        self.cede_ref = self.actor.cede.remote(lease.shard.key, num_parts)
        self.ceding, self.has_fresh_sign = lease, False

    def silent_s(self) -> float:
        """Seconds that it has owed an answer."""
        return monotonic() - self.sign_asked_at if self.sign_ref is not None else 0.0


def spawn_actor(
    name: str,
    spec_ref: Any,
    resources: WorkerResources,
    *,
    num_leases: int,
    start_deadline: float,
    barred_nodes: Collection[str] = (),
) -> ActorHandle:
    """Ask Ray for an actor that builds its replica; it never restarts and none of its calls is repeated.

    It is placed on none of the `barred_nodes`, which an autoscaler sees too: it starts another node for it.
    """
    labels = _selector(resources, barred_nodes)
    actor_class = ray.remote(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        max_restarts=0,
        max_task_retries=0,
        concurrency_groups={"convert": num_leases, "control": 1},
        runtime_env={"env_vars": MALLOC_ENV} if not resources.num_gpus else None,
        **({"accelerator_type": resources.accelerator_type} if resources.accelerator_type else {}),
        **({"label_selector": labels} if labels else {}),
    )(RayWorker)
    actor = actor_class.remote(name)
    return ActorHandle(name, actor, actor.start.remote(spec_ref), start_deadline, resources)


def _selector(resources: WorkerResources, barred_nodes: Collection[str]) -> dict[str, str]:
    barred = {NODE_ID_LABEL_KEY: f"!in({','.join(barred_nodes)})"} if barred_nodes else {}
    return barred | dict(resources.labels)  # who asks for one node gets that or none


def kill_actor(handle: ActorHandle) -> None:
    """Make sure that it is dead; it may be gone already, or Ray itself: then there is nothing left to kill."""
    with contextlib.suppress(RayError, ValueError, RuntimeError):
        ray.kill(handle.actor, no_restart=True)


def death_code(handle: ActorHandle, error: Exception) -> str:
    """As `loss_code`, for an actor that died: where Ray does not say of what, its node is asked.

    The kernel's memory killer did it where it took a process of the actor's memory group after the last sign of life.
    """
    code, last = loss_code(error), handle.last_sign
    if code != WorkerCrashError.code or last.num_oom_kills is None:
        return code
    return vanished_code(last.num_oom_kills, _ask_oom_kills(last.node_id))


def _ask_oom_kills(node_id: str) -> int | None:
    """What `count_oom_kills` says on a node; None where that is gone or does not answer in time."""
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(count_oom_kills)
    try:
        ref = ask.remote()
        count: int | None = ray.get(ref, timeout=_ASK_NODE_TIMEOUT_S)
    except (RayError, ValueError, RuntimeError):
        return None
    return count


def loss_code(error: Exception) -> str:
    """The code of the QuarantinedError that an image gets which ends its worker like this, time and again."""
    text = str(error).lower()
    if isinstance(error, MemoryError | OutOfMemoryError) or any(word in text for word in _OUT_OF_MEMORY_WORDS):
        return WorkerOutOfMemoryError.code
    return WorkerCrashError.code
