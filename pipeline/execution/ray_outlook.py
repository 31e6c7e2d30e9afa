"""Whether GPU nodes would come if workers asked for them: a cluster that has none up is asked, before workers are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, ResourceRequest
from ray.exceptions import RayError

_TIMEOUT_S = 10.0
# The autoscaler looks every five seconds, and has seen a request for sure in its second report after it.
_OUTLOOK_TIMEOUT_S = 30.0
_NUM_REPORTS = 2
_LOOK_S = 0.5


def cluster_status() -> GetClusterStatusReply | None:
    """What Ray knows of nodes, requests and the autoscaler; None where it does not answer, or behind Ray Client."""
    if ray.util.client.ray.is_connected():
        return None
    try:
        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        reply = GetClusterStatusReply()
        reply.ParseFromString(client.get_cluster_status(timeout_s=_TIMEOUT_S))
    except (RayError, RuntimeError):
        return None
    return reply


@dataclass
class Outlook:
    """Judges one request by what the autoscaler reports from then on."""

    bundle: Mapping[str, float]
    _versions: set[int] = field(default_factory=set)

    def judge(self, status: GetClusterStatusReply) -> bool | None:
        """Whether nodes for the request can be started; None as long as that is open."""
        state = status.autoscaling_state
        if any(self._is_ours(request) for request in state.infeasible_resource_requests):
            return False
        waiting = (each.request for each in status.cluster_resource_state.pending_resource_requests)
        if any(self._is_ours(request) for request in waiting):
            self._versions.add(state.autoscaler_state_version)
        # The first version that is seen is of before the request.
        return True if len(self._versions) > _NUM_REPORTS else None

    def _is_ours(self, request: ResourceRequest) -> bool:
        return dict(request.resources_bundle) == dict(self.bundle)


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
        can_come = _wait_for(ref, Outlook({"CPU": 1.0, "GPU": 1.0}))
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
