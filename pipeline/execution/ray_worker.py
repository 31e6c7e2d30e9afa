"""The Ray actor: a thin shell around Worker. Built in `start`, so that its errors come back instead of killing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ray
from ray.exceptions import RayError

from pipeline.cgroups import usable_cores
from pipeline.errors import ConfigError
from pipeline.execution.base import NodeShare, Progress, WorkerSpec
from pipeline.execution.lease import Lease
from pipeline.execution.metrics import Role
from pipeline.execution.oom_kills import count_oom_kills
from pipeline.execution.ray_metrics import ray_recorder
from pipeline.execution.worker import Worker
from pipeline.inference.precision import require_gpu
from pipeline.lending import OpenWork
from pipeline.records import ImageTask, ShardKey, ShardResult


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """What an actor answers when it is asked how it is: its counts, its node, and what `count_oom_kills` says there.

    `open_work` is what it has not begun of its leases; `settled` are its counts without those of leases at work. `card`
    has the numbers of its GPUs on the node, "" without any.
    """

    progress: Progress = field(default_factory=Progress)
    node_id: str = ""
    num_oom_kills: int | None = None
    open_work: tuple[OpenWork, ...] = ()
    settled: Progress = field(default_factory=Progress)
    card: str = ""


class RayWorker:
    """One replica in one actor process. `convert` runs in as many threads as the worker may hold leases."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker: Worker | None = None

    @ray.method(concurrency_group="control")
    def start(self, spec: WorkerSpec) -> SignOfLife:
        """Build stores and engine, warm up. Raises what building raises, DeviceLostError where its GPU is not there."""
        if _card() and not spec.build_engine:
            require_gpu(spec.config.inference.device)
        recorder = ray_recorder(spec.job_id, Role.WORKER)
        self._worker = Worker(spec, self._name, recorder, _node_share(spec.num_workers_on_node))
        return self._sign_of_life()

    @ray.method(concurrency_group="convert")
    def convert(self, lease: Lease, adopt: bool) -> ShardResult:
        """Convert and commit one shard, or convert a part of one."""
        return self._started().convert(lease, adopt)

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
        node_id, num_oom_kills = ray.get_runtime_context().get_node_id(), count_oom_kills()
        if worker is None:
            return SignOfLife(node_id=node_id, num_oom_kills=num_oom_kills, card=_card())
        return SignOfLife(worker.progress(), node_id, num_oom_kills, worker.open_work(), worker.settled(), card=_card())

    def _started(self) -> Worker:
        if self._worker is None:
            raise ConfigError("the worker was not started")
        return self._worker


def _card() -> str:
    return ",".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", ()))


def _node_share(num_workers_on_card: int) -> NodeShare | None:
    """What this actor has of its node, by what Ray was told of both; None where Ray does not say."""
    context = ray.get_runtime_context()
    try:
        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    except (RayError, RuntimeError):  # the head is away for a moment
        return None
    offers = nodes.get(context.get_node_id())
    return node_share(offers, context.get_assigned_resources(), num_workers_on_card, usable_cores()) if offers else None


def node_share(
    offers: Mapping[str, float], has: Mapping[str, float], num_workers_on_card: int, num_cores: float
) -> NodeShare:
    """What a worker that `has` these resources has of a node that `offers` those, on a machine of `num_cores` cores.

    Beside a GPU a worker reserves one core, and may take all that are left for its card; without one it has the cores
    that it reserves, and the network uses them all.
    """
    offered = min(num_cores, offers.get("CPU", 0.0) or num_cores)
    if has.get("GPU"):
        num_workers = max(1, round(offers.get("GPU", 1.0) / has["GPU"]))
        return NodeShare(num_workers, offered / num_workers)
    reserved = has.get("CPU") or offered
    num_workers = max(num_workers_on_card, int(offers.get("CPU", 0.0) // reserved))
    return NodeShare(num_workers, min(reserved, num_cores))
