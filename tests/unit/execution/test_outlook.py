from __future__ import annotations

from collections.abc import Mapping

from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.execution.ray_outlook import Outlook

ONE_GPU = {"CPU": 1.0, "GPU": 1.0}


def status(
    version: int, *, waiting: Mapping[str, float] | None = None, infeasible: Mapping[str, float] | None = None
) -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    reply.autoscaling_state.autoscaler_state_version = version
    if waiting:
        reply.cluster_resource_state.pending_resource_requests.add().request.resources_bundle.update(waiting)
    if infeasible:
        reply.autoscaling_state.infeasible_resource_requests.add().resources_bundle.update(infeasible)
    return reply


def test_what_waits_through_two_reports_and_is_not_refused_will_come() -> None:
    outlook = Outlook(ONE_GPU)
    assert outlook.judge(status(7)) is None, "it is not known yet that somebody asks"
    for version in (7, 7, 8):
        assert outlook.judge(status(version, waiting=ONE_GPU)) is None
    assert outlook.judge(status(9, waiting=ONE_GPU)) is True


def test_what_the_autoscaler_refuses_does_not_come() -> None:
    outlook = Outlook(ONE_GPU)
    assert outlook.judge(status(7, waiting=ONE_GPU)) is None
    assert outlook.judge(status(8, waiting=ONE_GPU, infeasible=ONE_GPU)) is False


def test_requests_of_others_say_nothing() -> None:
    outlook, eight = Outlook(ONE_GPU), {"CPU": 1.0, "GPU": 8.0}
    for version in range(1, 9):
        assert outlook.judge(status(version, waiting=eight, infeasible=eight)) is None
