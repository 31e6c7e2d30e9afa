"""What the autoscaler's report says of requests that no node is for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from autoscaler_requests import fill
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.execution.ray_status import refused_requests

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
