"""Whether GPU nodes would come if workers asked for them: a cluster that has none up is asked, before workers are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.execution.ray_status import Requests, cluster_status, request_shape

# The autoscaler looks every five seconds.
_OUTLOOK_TIMEOUT_S = 30.0
_LOOK_S = 0.5


@dataclass
class Outlook:
    """Judges a request for a processor core and a GPU, on a node with these labels, by what the autoscaler reports.

    No node has a GPU yet. What the autoscaler has no node for may be a kind that no node type offers, or only what is
    left over when as many nodes as there may be are on their way, for this request's likes or for other jobs.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    _num_waiting: int = 0
    _version: int = 0

    def judge(self, status: GetClusterStatusReply) -> bool | None:
        """Whether nodes for the request can be started; None as long as that is open."""
        requests = Requests.read(status)
        ours = request_shape({"CPU": 1.0, "GPU": 1.0}, self.labels)
        if requests.waiting[ours] != self._num_waiting:
            self._num_waiting = requests.waiting[ours]
            self._version = status.cluster_resource_state.cluster_resource_state_version
        # What the autoscaler reports is of the requests in the version that it saw.
        if not self._num_waiting or status.autoscaling_state.last_seen_cluster_resource_state_version < self._version:
            return None
        if ours not in requests.refused() or (not self.labels and requests.gpus_on_their_way()):
            return True
        return None if requests.gpus_on_their_way() else False


def gpu_outlook(labels: Mapping[str, str]) -> tuple[bool, str]:
    """Whether GPU nodes with these labels would come for workers, and how that is known, in words.

    A task that needs a GPU waits meanwhile: it is what the autoscaler judges, and where the answer is yes, the node
    that it starts for it is the first worker's.
    """
    status = cluster_status()
    if status is None or not status.autoscaling_state.autoscaler_state_version:
        return False, "no node has a GPU, and no autoscaler reports that it starts any"
    options: dict[str, Any] = {"label_selector": dict(labels)} if labels else {}
    ref = ray.remote(num_cpus=1, num_gpus=1, max_retries=0, **options)(_nothing).remote()
    try:
        can_come = _wait_for(ref, Outlook(labels))
    finally:
        ray.cancel(ref, force=True)
    if can_come is None:
        return (
            False,
            f"no node has a GPU, and the autoscaler did not say within {_OUTLOOK_TIMEOUT_S:g} s that any comes",
        )
    if can_come:
        return True, "no node has a GPU yet, and the autoscaler starts such nodes"
    return False, "no node has a GPU, and none of the autoscaler's node types has"


def _wait_for(ref: Any, outlook: Outlook, clock: Callable[[], float] = time.monotonic) -> bool | None:
    deadline = clock() + _OUTLOOK_TIMEOUT_S
    while clock() < deadline:
        done, _ = ray.wait([ref], timeout=_LOOK_S)
        if done:
            return True
        status = cluster_status()
        verdict = outlook.judge(status) if status else None
        if verdict is not None:
            return verdict
    return None


def _nothing() -> None:
    """A task that only has to be placed."""
