"""What the autoscaler's report says of requests that no node is for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from autoscaler_requests import fill
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

from pipeline.execution.ray_status import refused_requests, starts_nodes

ONE_GPU = {"CPU": 1.0, "GPU": 1.0}


def status(
    resources: Mapping[str, float], labels: Mapping[str, str], *, num_waiting: int, num_infeasible: int
) -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    if num_waiting:
        waiting = reply.cluster_resource_state.pending_resource_requests.add(count=num_waiting)
        fill(waiting.request, resources, labels)
    for _ in range(num_infeasible):
        fill(reply.autoscaling_state.infeasible_resource_requests.add(), resources, labels)
    return reply


@pytest.mark.parametrize("labels", [{}, {"market": "free"}])
def test_what_is_infeasible_however_many_wait_is_refused(labels: dict[str, str]) -> None:
    for number in (1, 3):
        seen = status(ONE_GPU, labels, num_waiting=number, num_infeasible=number)
        assert refused_requests(seen) == ((ONE_GPU, labels),)


def test_workers_beyond_the_nodes_that_may_be_started_are_not_refused() -> None:
    """Two nodes are on their way, the most that there may be: they are for two of five."""
    assert refused_requests(status(ONE_GPU, {}, num_waiting=5, num_infeasible=3)) == ()


def test_other_labels_are_other_requests() -> None:
    seen = status(ONE_GPU, {"market": "free"}, num_waiting=1, num_infeasible=1)
    fill(seen.cluster_resource_state.pending_resource_requests.add(count=4).request, ONE_GPU, {"market": "spot"})
    assert refused_requests(seen) == ((ONE_GPU, {"market": "free"}),)


HEAD, NODE = {"CPU": 2.0, "node:__internal_head__": 1.0}, {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "num_pending", "expected"),
    [
        ((), 0, False),
        ((("head-group", NodeStatus.RUNNING, HEAD),), 0, False),
        ((("", NodeStatus.RUNNING, NODE),), 0, False),  # somebody has added it by hand
        ((("gpu", NodeStatus.DEAD, NODE),), 0, False),
        ((("head-group", NodeStatus.RUNNING, HEAD), ("gpu", NodeStatus.RUNNING, NODE)), 0, True),
        ((("gpu", NodeStatus.IDLE, NODE),), 0, True),
        ((), 1, True),
    ],
)
def test_a_cluster_with_nodes_of_the_autoscalers_may_be_full(
    nodes: tuple[tuple[str, int, dict[str, float]], ...], num_pending: int, expected: bool
) -> None:
    asked, booting = GetClusterStatusReply(), GetClusterStatusReply()
    for reply in (asked, booting):
        for kind, state, resources in nodes:
            node = reply.cluster_resource_state.node_states.add(ray_node_type_name=kind, status=state)
            node.total_resources.update(resources)
    if num_pending:
        asked.autoscaling_state.pending_instance_requests.add(ray_node_type_name="gpu", request_ts=1)
        booting.autoscaling_state.pending_instances.add(ray_node_type_name="gpu")
    assert (starts_nodes(asked), starts_nodes(booting)) == (expected, expected)
