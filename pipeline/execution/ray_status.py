"""What Ray reports of its autoscaler and of the requests that wait for a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus, ResourceRequest
from ray.core.generated.common_pb2 import LabelSelectorOperator
from ray.exceptions import RayError

_TIMEOUT_S = 10.0
_HEAD = "node:__internal_head__"  # the resource that Ray gives to no other node

RequestShape = tuple[tuple[tuple[str, float], ...], tuple[tuple[str, str], ...]]
"""Resources and labels that are asked for, each sorted by name."""


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


@dataclass(frozen=True, slots=True)
class Requests:
    """How many requests of each shape wait, and how many of these the autoscaler has no node for, whatever it starts.

    It calls infeasible what is left over when as many nodes run, or are on their way, as it may start.
    """

    waiting: Counter[RequestShape]
    left_over: Counter[RequestShape]

    @classmethod
    def read(cls, status: GetClusterStatusReply) -> Requests:
        """Count what is in the report."""
        waiting: Counter[RequestShape] = Counter()
        for each in status.cluster_resource_state.pending_resource_requests:
            waiting[_shape(each.request)] += each.count
        return cls(waiting, Counter(map(_shape, status.autoscaling_state.infeasible_resource_requests)))

    def refused(self) -> tuple[RequestShape, ...]:
        """The shapes of which every request that waits is left over.

        Of those that can be had, the first ones are given the nodes that are on their way.
        """
        return tuple(shape for shape, number in self.left_over.items() if number >= self.waiting[shape])

    def gpus_on_their_way(self) -> bool:
        """Whether the autoscaler has a node for a request with a GPU; it is no running one where none has a GPU."""
        served = (shape for shape, number in self.waiting.items() if number > self.left_over[shape])
        return any(dict(resources).get("GPU") for resources, _ in served)


def refused_requests(status: GetClusterStatusReply) -> tuple[tuple[dict[str, float], dict[str, str]], ...]:
    """Resources and labels of the requests that the autoscaler has no node for, whatever it starts."""
    return tuple((dict(resources), dict(labels)) for resources, labels in Requests.read(status).refused())


def starts_nodes(status: GetClusterStatusReply) -> bool:
    """Whether nodes that the autoscaler starts are up or on their way.

    There may be no more of them than its configuration says, which it does not report: then it calls infeasible all
    that they do not serve.
    """
    state, nodes = status.autoscaling_state, status.cluster_resource_state.node_states
    return bool(state.pending_instances or state.pending_instance_requests) or any(
        node.ray_node_type_name and node.status != NodeStatus.DEAD and _HEAD not in node.total_resources
        for node in nodes
    )


def request_shape(resources: Mapping[str, float], labels: Mapping[str, str]) -> RequestShape:
    """Return the shape under which such a request is counted."""
    return tuple(sorted(resources.items())), tuple(sorted(labels.items()))


def _shape(request: ResourceRequest) -> RequestShape:
    """What was asked for; that some nodes were left out (`NodeHealth`) is no reason for a refusal."""
    asked = (one for selector in request.label_selectors for one in selector.label_constraints)
    constraints = (one for one in asked if one.operator != LabelSelectorOperator.LABEL_OPERATOR_NOT_IN)
    return request_shape(request.resources_bundle, {one.label_key: ",".join(one.label_values) for one in constraints})
