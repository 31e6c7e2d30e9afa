"""Whether GPU nodes come, judged by what the autoscaler reports while no node has a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from autoscaler_requests import fill
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.execution.ray_outlook import Outlook

ONE_GPU = {"CPU": 1.0, "GPU": 1.0}
WORKER = {"CPU": 3.0, "GPU": 1.0}
EIGHT = {"CPU": 1.0, "GPU": 8.0}


def status(
    version: int,
    *requests: tuple[Mapping[str, float], int, int],
    labels: Mapping[str, str] | None = None,
    seen: int = 99,
) -> GetClusterStatusReply:
    """A report of requests: what is asked for, how many wait, how many of these are left over.

    `version` is that of what waits, `seen` the one that the autoscaler speaks of.
    """
    reply = GetClusterStatusReply()
    reply.cluster_resource_state.cluster_resource_state_version = version
    reply.autoscaling_state.last_seen_cluster_resource_state_version = seen
    for resources, num_waiting, num_left_over in requests:
        waiting = reply.cluster_resource_state.pending_resource_requests.add(count=num_waiting)
        fill(waiting.request, resources, labels or {})
        for _ in range(num_left_over):
            fill(reply.autoscaling_state.infeasible_resource_requests.add(), resources, labels or {})
    return reply


def test_what_the_autoscaler_has_seen_and_does_not_refuse_will_come() -> None:
    outlook = Outlook()
    assert outlook.judge(status(7, seen=5)) is None, "it is not known yet that somebody asks"
    assert outlook.judge(status(8, (ONE_GPU, 1, 0), seen=5)) is None
    assert outlook.judge(status(9, (ONE_GPU, 1, 0), seen=7)) is None
    assert outlook.judge(status(11, (ONE_GPU, 1, 0), seen=10)) is True


def test_what_the_autoscaler_refuses_does_not_come() -> None:
    outlook = Outlook()
    assert outlook.judge(status(7, (ONE_GPU, 1, 0), seen=6)) is None
    assert outlook.judge(status(9, (ONE_GPU, 1, 1), seen=8)) is False


def test_a_refusal_from_before_another_asked_for_the_same_is_no_yes() -> None:
    outlook = Outlook()
    assert outlook.judge(status(7, (ONE_GPU, 1, 0), seen=6)) is None
    assert outlook.judge(status(9, (ONE_GPU, 2, 1), seen=8)) is None, "one of one was refused, and now two wait"
    assert outlook.judge(status(11, (ONE_GPU, 2, 2), seen=10)) is False


def test_what_was_refused_to_others_before_we_asked_says_nothing() -> None:
    reply = status(8)
    fill(reply.autoscaling_state.infeasible_resource_requests.add(), ONE_GPU, {})
    assert Outlook().judge(reply) is None


def test_requests_of_others_say_nothing() -> None:
    outlook = Outlook()
    for version in range(1, 9):
        assert outlook.judge(status(version, (EIGHT, 1, 1))) is None


def test_what_exceeds_the_nodes_that_may_be_started_is_no_refusal() -> None:
    """Another job asks for the same and more than there may be: 24 of 30 nodes are on their way."""
    assert Outlook().judge(status(7, (ONE_GPU, 31, 7))) is True


@pytest.mark.parametrize(("num_left_over", "verdict"), [(6, True), (30, False)])
def test_what_others_are_given_says_that_there_are_gpus(num_left_over: int, verdict: bool) -> None:
    """A job whose workers ask for more cores has all the nodes that there may be: ours is left over, and can be had."""
    assert Outlook().judge(status(7, (ONE_GPU, 1, 1), (WORKER, 30, num_left_over))) is verdict


def test_gpus_without_the_labels_may_be_of_another_kind() -> None:
    labels = {"market": "spot"}
    outlook = Outlook(labels)
    others = status(7, (WORKER, 30, 6))
    ours = status(7, (ONE_GPU, 1, 1), labels=labels)
    assert outlook.judge(ours) is False
    ours.MergeFrom(others)
    assert outlook.judge(ours) is None


def test_labels_make_another_request() -> None:
    assert Outlook({"market": "spot"}).judge(status(7, (ONE_GPU, 1, 1), labels={"market": "free"})) is None
    assert Outlook({"market": "spot"}).judge(status(7, (ONE_GPU, 1, 1), labels={"market": "spot"})) is False
