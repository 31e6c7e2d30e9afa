"""Workers that find no node ask Ray for nodes with other labels, where the cloud refuses those that come first.

The one place that looks into Ray's table of actors, which is meant for debugging and may move with any release.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.exceptions import RayError

from pipeline.execution.fallback import FallbackPolicy, LaunchReport, Refusal
from pipeline.execution.ray_actor import ActorHandle
from pipeline.execution.ray_capacity import CAPACITY_LOOK_S
from pipeline.execution.ray_session import WorkerResources
from pipeline.execution.ray_status import cluster_status


class Fallback:
    """What workers ask for now: their first choice, or the same with more labels; and who has to change over.

    A driver behind Ray Client (ray://) sees no refusals, so that nobody changes over there.
    """

    def __init__(self, first: WorkerResources, labels: Mapping[str, str], policy: FallbackPolicy | None = None) -> None:
        self.second = replace(first, labels={**first.labels, **labels})
        self.first = first
        self._labels = ", ".join(f"{key}={value}" for key, value in labels.items())
        self._policy = policy or FallbackPolicy()
        self._next_look_at = -math.inf

    @property
    def wanted(self) -> WorkerResources:
        """What a worker asks for that is asked for now."""
        return self.second if self._policy.skips_first_choice else self.first

    @property
    def why(self) -> str:
        """Why workers ask for the second choice, in words."""
        return f"{self._policy.why}: asking for {self._labels}"

    def give_up(self) -> None:
        """Nothing offers the second choice: whoever is asked for from now on asks for the first, and stays with it."""
        self._policy.give_up()

    def look(self, workers: Iterable[ActorHandle]) -> list[ActorHandle]:
        """Those that have to ask for the second choice instead, if it is time to look; never one that has a node."""
        waiting = [worker for worker in workers if not worker.is_ready]
        if not waiting or monotonic() < self._next_look_at:
            return []
        self._next_look_at = monotonic() + CAPACITY_LOOK_S
        status = cluster_status()
        if status is None:
            return []
        report = launch_report(status)
        self._policy.watch(report)
        hoping = {worker.name: worker for worker in waiting if worker.resources == self.first}
        late = self._policy.late({name: worker.asked_at for name, worker in hoping.items()})
        if not late:
            return []
        placeless = [name for name in late if is_placeless(hoping[name])]
        num_fallen_back = sum(is_placeless(worker) for worker in waiting if worker.name not in hoping)
        return [hoping[name] for name in self._policy.move(placeless, num_fallen_back, report)]


def launch_report(status: GetClusterStatusReply) -> LaunchReport:
    """What the autoscaler's state says of launches."""
    state = status.autoscaling_state
    requested: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        requested[request.ray_node_type_name] += request.count
    return LaunchReport(
        [Refusal(each.ray_node_type_name, each.failed_ts, each.reason) for each in state.failed_instance_requests],
        requested,
        len(state.pending_instances),
    )


def is_placeless(worker: ActorHandle) -> bool:
    """Whether no process was found for the actor yet; False where Ray does not say, which leaves the actor alone."""
    actor = _entry(worker)
    # The node of the address is the driver's while the actor waits there for a place.
    return (
        bool(actor) and actor["State"] in {"DEPENDENCIES_UNREADY", "PENDING_CREATION"} and not actor["Address"]["Port"]
    )


def node_of(worker: ActorHandle) -> str:
    """The node that the actor's process is or was on; "" where it had no place, or Ray does not say."""
    address = _entry(worker).get("Address", {})
    return str(address["NodeID"]) if address.get("Port") else ""


def _entry(worker: ActorHandle) -> dict[str, Any]:
    if ray.util.client.ray.is_connected():
        return {}
    try:
        entry: dict[str, Any] = ray._private.state.actors(worker.actor._actor_id.hex())
    except (RayError, RuntimeError):
        return {}
    return entry
