"""Where the workers of a training run on Ray find room, how long that is waited for, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

from pipeline.errors import ConfigError, WorkerLostError
from pipeline.execution.ray_status import cluster_status

_MAX_CORES_BESIDE_GPU = 8
SAY_AFTER_S = 30.0
SAY_EVERY_S = 60.0
# What an autoscaler may take to get a node, as for workers of `convert` that come and go.
_NODE_START_TIMEOUT_S = 1800.0

Nodes = list[Mapping[str, float]]
"""Resources of each node: of all of it, or what is free."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What each of `num_workers` reserves."""

    num_workers: int
    num_cpus: int
    use_gpu: bool

    def resources(self) -> dict[str, float]:
        """What one worker asks Ray for."""
        return {"CPU": float(self.num_cpus), **({"GPU": 1.0} if self.use_gpu else {})}

    def room(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """How many workers these nodes have room for."""
        wanted = self.resources().items()
        return sum(min(int(node.get(name, 0) // amount) for name, amount in wanted) for node in nodes)

    def describe(self) -> str:
        """The request in words, for messages."""
        each = f"{self.num_cpus} CPU{' and 1 GPU' if self.use_gpu else ''}"
        return (
            f"{self.num_workers} workers ask for {each} each" if self.num_workers > 1 else f"a worker asks for {each}"
        )


def plan_workers(device: str, num_workers: int) -> WorkerPlan:
    """Plan for the cluster that this process is connected to, see `choose_plan`. Raises ConfigError."""
    status = cluster_status()
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return choose_plan(device, num_workers, totals, Seen.read(status, None).free if status else [])


def choose_plan(device: str, num_workers: int, totals: Nodes, free: Nodes) -> WorkerPlan:
    """Give each worker a GPU where there are GPUs, and as many cores as let all workers fit.

    They have to fit into what is free where that is enough for a core each, else into the nodes as a whole: then they
    wait. Raises ConfigError where no cores or GPUs of these nodes are enough.
    """
    num_gpus = int(sum(node.get("GPU", 0) for node in totals))
    if device.startswith("cuda") and not num_gpus:
        raise ConfigError("device cuda was asked for, but Ray sees no GPU; use --device auto or cpu")
    use_gpu = bool(num_gpus) and device != "cpu"
    if use_gpu and num_workers > num_gpus:
        raise ConfigError(f"--workers: {num_workers} workers need a GPU each, but Ray sees {num_gpus}")
    cores = [int(node.get("CPU", 0)) for node in totals if not use_gpu or node.get("GPU", 0) >= 1]
    most = max(1, min(_MAX_CORES_BESIDE_GPU, sum(cores) // num_gpus)) if use_gpu else max(cores, default=0)
    for nodes in (free, totals):
        for num_cpus in range(most, 0, -1):
            plan = WorkerPlan(num_workers, num_cpus, use_gpu)
            if plan.room(nodes) >= num_workers:
                return plan
    if use_gpu:
        raise ConfigError(
            f"--workers: {num_workers} workers need a GPU and a core of the same node each, but Ray has room for "
            f"{WorkerPlan(num_workers, 1, use_gpu).room(totals)}"
        )
    raise ConfigError(f"--workers: {num_workers} workers need a core each, but Ray has {sum(cores)}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What Ray reports: its nodes, and whether an autoscaler may bring more and the workers wait for a place."""

    totals: Nodes
    free: Nodes
    is_autoscaled: bool
    is_placeless: bool

    @classmethod
    def read(cls, status: GetClusterStatusReply, plan: WorkerPlan | None) -> Seen:
        """Take it from the report; nodes that are being taken away have nothing to give.

        Workers are placed together or not at all: they wait where a request for all of them does.
        """
        state = status.cluster_resource_state
        nodes = [each for each in state.node_states if each.status not in {NodeStatus.DEAD, NodeStatus.DRAINING}]
        waiting = [
            [dict(one.resources_bundle) for one in gang.requests] for gang in state.pending_gang_resource_requests
        ]
        return cls(
            totals=[dict(node.total_resources) for node in nodes],
            free=[dict(node.available_resources) for node in nodes],
            is_autoscaled=status.autoscaling_state.autoscaler_state_version > 0,
            is_placeless=plan is not None and [plan.resources()] * plan.num_workers in waiting,
        )

    def describe(self, plan: WorkerPlan) -> str:
        """What is asked for and what is free, in words."""
        names = ("CPU", "GPU") if plan.use_gpu else ("CPU",)
        amounts = [f"{_sum(self.free, name):g} of {_sum(self.totals, name):g} {name}" for name in names]
        return f"{plan.describe()}; free are {' and '.join(amounts)}, room for {plan.room(self.free)}"


def _sum(nodes: Nodes, name: str) -> float:
    return sum(node.get(name, 0) for node in nodes)


class StartWatch:
    """Bounds the wait until all workers are up, at the start and when lost ones are replaced, and puts it into words.

    `start_timeout_s` is what they may take; where an autoscaler brings nodes, half an hour more. Those that have found
    their places have `start_timeout_s` once more.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        start_timeout_s: float,
        *,
        read_status: Callable[[], GetClusterStatusReply | None] = cluster_status,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._plan, self._start_timeout_s = plan, start_timeout_s
        self._read_status, self._clock = read_status, clock
        self._say_after_s = min(SAY_AFTER_S, start_timeout_s)
        self._was_up = False
        self._begin()

    def _begin(self) -> None:
        self._since = self._clock()
        self._look_at = self._since + self._say_after_s

    def look(self, *, are_asked_for: bool, are_up: bool) -> str | None:
        """Return what is to be said of the wait now, None where nothing is.

        Raises WorkerLostError when it has been too long, and sooner where the nodes cannot hold the workers at all,
        none can be started and the workers were never up: of lost nodes some come back.
        """
        if are_up:
            self._was_up = True
            self._begin()
            return None
        now = self._clock()
        if now < self._look_at:
            return None
        status = self._read_status()
        seen = Seen.read(status, self._plan) if status else None
        have_places = are_asked_for and seen is not None and not seen.is_placeless
        limit_s = self._limit_s(seen, have_places=have_places)
        what = self._describe(seen, have_places=have_places)
        if now - self._since >= limit_s:
            raise WorkerLostError(f"the workers did not start within {limit_s:.0f} s: {what}{_ADVICE}")
        if seen and not (self._was_up or seen.is_autoscaled) and self._plan.room(seen.totals) < self._plan.num_workers:
            raise WorkerLostError(f"the workers cannot start: {what}, and no autoscaler brings nodes{_ADVICE}")
        self._look_at = min(now + SAY_EVERY_S, self._since + limit_s)
        return f"waiting for workers, {now - self._since:.0f} s so far and {limit_s:.0f} s at most: {what}"

    def _limit_s(self, seen: Seen | None, *, have_places: bool) -> float:
        node_s = _NODE_START_TIMEOUT_S if seen and seen.is_autoscaled else 0.0
        return self._start_timeout_s * (1 + have_places) + node_s

    def _describe(self, seen: Seen | None, *, have_places: bool) -> str:
        if seen is None:
            return f"{self._plan.describe()}; Ray does not say what is free"
        if have_places:
            return f"{self._plan.describe()}, for which there is room; their processes are not up yet"
        return seen.describe(self._plan)


_ADVICE = "; run the same command again to carry on when there is room, or with fewer --workers"
