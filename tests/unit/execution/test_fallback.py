from __future__ import annotations

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from pipeline.execution.fallback import FallbackPolicy, LaunchReport, Refusal
from pipeline.execution.ray_fallback import launch_report

NOTHING = LaunchReport()
RAY_SAYS = "launch failed with Failed to launch 1 nodes of type spot with request id 8-4: "


class Watched:
    """A policy, a clock, and the report of an autoscaler whose own clock is an hour ahead."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.policy = FallbackPolicy(clock=lambda: self.now)
        self.refusals: list[Refusal] = []

    def refuse(self, node_type: str = "spot", reason: str = RAY_SAYS) -> None:
        self.refusals.append(Refusal(node_type, int(self.now) + 3600, reason))

    def watch(self, seconds: int = 5, *, refused: str | None = None) -> None:
        """Look every five seconds, with a refusal ahead of each look if there is a type for it."""
        for _ in range(seconds // 5):
            self.now += 5
            if refused:
                self.refuse(refused)
            self.policy.watch(LaunchReport(self.refusals))

    def moved(self, **asked_at: float) -> list[str]:
        return self.policy.move(self.policy.late(asked_at), 0, NOTHING)


@pytest.fixture
def watched() -> Watched:
    watched = Watched()
    watched.policy.watch(NOTHING)
    return watched


def test_a_worker_changes_over_when_it_has_waited_a_minute_and_was_refused(watched: Watched) -> None:
    watched.watch(55, refused="spot")
    assert watched.moved(a=1000.0) == []
    watched.watch(5, refused="spot")
    assert watched.moved(a=1000.0, younger=1010.0) == ["a"]
    assert watched.policy.why == "the cloud refuses nodes of type spot"


def test_a_worker_that_nobody_was_refused_waits_on(watched: Watched) -> None:
    watched.watch(1800)
    assert watched.moved(a=1000.0) == []
    assert not watched.policy.skips_first_choice


def test_refusals_of_before_the_watch_do_not_count(watched: Watched) -> None:
    watched.watch(60, refused="spot")
    watched.now += 600
    watched.refuse()
    watched.policy.watch(LaunchReport(watched.refusals))
    asked_at = watched.now - 100
    assert watched.moved(a=asked_at) == [], "it was refused while nobody waited"
    watched.watch(5, refused="spot")
    assert watched.moved(a=asked_at) == ["a"]


def test_refusals_that_the_first_look_finds_are_of_others() -> None:
    watched = Watched()
    watched.refuse()
    watched.policy.watch(LaunchReport(watched.refusals))
    watched.watch(60)
    assert watched.moved(a=1000.0) == []


def test_a_refusal_that_was_followed_by_none_may_be_overcome(watched: Watched) -> None:
    watched.watch(25, refused="spot")
    watched.watch(35)
    assert watched.moved(a=1000.0) == []


def test_nodes_on_their_way_are_left_to_those_that_wait(watched: Watched) -> None:
    watched.watch(60, refused="spot")
    three = ["a", "b", "c"]
    assert watched.policy.move(three, 0, LaunchReport(num_granted=3)) == []
    assert not watched.policy.skips_first_choice
    assert watched.policy.move(three, 0, LaunchReport(num_granted=1)) == ["b", "c"]
    assert watched.policy.move(three, 2, LaunchReport(num_granted=2)) == three, "the two nodes are for the other two"
    assert watched.policy.move(three, 0, LaunchReport(num_requested={"other": 2, "spot": 9})) == ["c"]


def test_later_workers_skip_the_first_choice_for_ten_minutes_and_then_try_it_once_more(watched: Watched) -> None:
    watched.watch(60, refused="spot")
    assert not watched.policy.skips_first_choice
    assert watched.moved(a=1000.0) == ["a"]
    watched.watch(595)
    assert watched.policy.skips_first_choice
    watched.watch(5)
    assert not watched.policy.skips_first_choice
    asked_at = watched.now
    watched.watch(60, refused="spot")
    assert watched.moved(b=asked_at) == ["b"]
    assert watched.policy.skips_first_choice


def test_who_has_given_up_neither_moves_anybody_nor_skips_the_first_choice(watched: Watched) -> None:
    watched.watch(60, refused="spot")
    assert watched.moved(a=1000.0) == ["a"]
    assert watched.policy.skips_first_choice
    watched.policy.give_up()
    assert not watched.policy.skips_first_choice
    watched.watch(600, refused="spot")
    assert watched.moved(a=1000.0) == []


def test_an_autoscaler_that_was_started_again_is_listened_to(watched: Watched) -> None:
    watched.watch(30, refused="spot")
    watched.refusals.clear()
    watched.watch(30, refused="spot")
    assert watched.moved(a=1000.0) == ["a"]


def test_what_the_cloud_said_is_told_without_secrets_and_cut(watched: Watched) -> None:
    watched.watch(55, refused="spot")
    watched.now += 5
    said = "InsufficientInstanceCapacity:\n\tnone in us-east-1a, https://ec2/?X-Amz-Signature=abcdef01 " + "x" * 500
    watched.refuse(reason=RAY_SAYS + said)
    watched.policy.watch(LaunchReport(watched.refusals))
    assert watched.moved(a=1000.0) == ["a"]
    why = watched.policy.why
    assert why.startswith(
        "the cloud refuses nodes of type spot (InsufficientInstanceCapacity: none in us-east-1a, https://ec2/ xxx"
    )
    assert "abcdef01" not in why
    assert len(why) < 250


def test_rays_report_is_read() -> None:
    status = GetClusterStatusReply()
    state = status.autoscaling_state
    state.failed_instance_requests.add(ray_node_type_name="spot", start_ts=7, failed_ts=9, reason="none left", count=1)
    for count in (1, 2):
        state.pending_instance_requests.add(ray_node_type_name="spot", count=count)
    state.pending_instances.add(ray_node_type_name="on-demand")
    assert launch_report(status) == LaunchReport([Refusal("spot", 9, "none left")], {"spot": 3}, 1)
