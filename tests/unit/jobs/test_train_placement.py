"""Workers of a training run on Ray: what they ask for, how long they are waited for, and what is said of it."""

from __future__ import annotations

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

from jobs.train_placement import Seen, StartWatch, WorkerPlan, choose_plan
from pipeline.errors import ConfigError, WorkerLostError

PLAN = WorkerPlan(2, 1, use_gpu=False)


def cpus(*numbers: float) -> list[dict[str, float]]:
    return [{"CPU": number} for number in numbers]


@pytest.mark.parametrize(
    ("num_workers", "totals", "free", "num_cpus"),
    [
        (1, [2], [2], 2),
        (2, [2], [2], 1),
        (1, [8], [8], 8),
        (3, [8, 4], [8, 4], 4),
        (1, [8], [3], 3),  # what is free is enough for a core each: nobody waits
        (2, [8, 8], [0.5, 5], 2),
        (2, [8], [1], 4),  # it is not: they wait for their share of the node
        (2, [8], [], 4),  # Ray does not say
    ],
)
def test_workers_get_the_cores_that_are_free_or_wait(
    num_workers: int, totals: list[float], free: list[float], num_cpus: int
) -> None:
    assert choose_plan("auto", num_workers, cpus(*totals), cpus(*free)) == WorkerPlan(num_workers, num_cpus, False)


def test_cores_beside_a_gpu_are_those_of_its_node() -> None:
    """The cores of the head are no use to a worker on a GPU node: it would wait for ever."""
    nodes = [{"CPU": 32.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert choose_plan("auto", 1, nodes, nodes) == WorkerPlan(1, 4, use_gpu=True)
    nodes = [{"CPU": 64.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert choose_plan("cuda", 4, nodes, nodes) == WorkerPlan(4, 8, use_gpu=True)
    assert choose_plan("cuda", 5, nodes, nodes) == WorkerPlan(5, 2, use_gpu=True)
    assert choose_plan("cpu", 1, nodes, nodes) == WorkerPlan(1, 64, use_gpu=False)


@pytest.mark.parametrize(
    ("device", "num_workers", "nodes", "says"),
    [
        ("cuda", 1, cpus(8), "Ray sees no GPU"),
        ("auto", 2, [{"CPU": 8.0, "GPU": 1.0}], "2 workers need a GPU each, but Ray sees 1"),
        ("auto", 2, [{"CPU": 1.0, "GPU": 2.0}], "a GPU and a core of the same node each, but Ray has room for 1"),
        ("auto", 3, cpus(1, 1), "3 workers need a core each, but Ray has 2"),
        ("auto", 1, [], "1 workers need a core each, but Ray has 0"),
    ],
)
def test_what_the_nodes_cannot_hold_is_refused(
    device: str, num_workers: int, nodes: list[dict[str, float]], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        choose_plan(device, num_workers, nodes, nodes)


def report(
    free: list[float], totals: list[float] | None = None, *, is_autoscaled: bool = False, is_placeless: bool = True
) -> GetClusterStatusReply:
    reply = GetClusterStatusReply()
    for available, total in zip(free, totals or [2.0] * len(free), strict=True):
        node = reply.cluster_resource_state.node_states.add(status=NodeStatus.RUNNING)
        node.available_resources["CPU"], node.total_resources["CPU"] = available, total
    if is_placeless:
        gang = reply.cluster_resource_state.pending_gang_resource_requests.add()
        for _ in range(PLAN.num_workers):
            gang.requests.add().resources_bundle.update(PLAN.resources())
    reply.autoscaling_state.autoscaler_state_version = int(is_autoscaled)
    return reply


class Wait:
    """A watch on a cluster whose report and clock the test sets."""

    def __init__(self, seen: GetClusterStatusReply | None) -> None:
        self.seen, self.now, self.are_asked_for = seen, 1000.0, True
        self.watch = StartWatch(PLAN, 300.0, read_status=lambda: self.seen, clock=lambda: self.now)

    def until_said(self, limit_s: float = 5000.0) -> tuple[float, str]:
        """The seconds after which something is said, and what."""
        began = self.now
        while self.now < began + limit_s:
            self.now += 0.5
            text = self.watch.look(are_asked_for=self.are_asked_for, are_up=False)
            if text is not None:
                return self.now - began, text
        raise AssertionError("nothing is said")

    def until_ended(self) -> tuple[float, str]:
        """The same of the error."""
        began = self.now
        while self.now < began + 5000:
            try:
                self.until_said()
            except WorkerLostError as error:
                return self.now - began, str(error)
        raise AssertionError("it does not end")


def test_a_wait_is_put_into_words_after_half_a_minute() -> None:
    after_s, text = Wait(report([0.0, 1.0])).until_said()
    assert after_s == 30
    assert text == (
        "waiting for workers, 30 s so far and 300 s at most: 2 workers ask for 1 CPU each; "
        "free are 1 of 4 CPU, room for 1"
    )


@pytest.mark.parametrize(
    ("seen", "limit_s", "says"),
    [
        (report([0.0, 1.0]), 300, "free are 1 of 4 CPU, room for 1"),
        (report([0.0], is_autoscaled=True), 2100, "free are 0 of 2 CPU"),
        (report([0.0], is_placeless=False), 600, "for which there is room; their processes are not up yet"),
        (None, 300, "Ray does not say what is free"),
    ],
)
def test_a_wait_ends(seen: GetClusterStatusReply | None, limit_s: int, says: str) -> None:
    after_s, text = Wait(seen).until_ended()
    assert after_s == limit_s
    assert f"the workers did not start within {limit_s} s: 2 workers ask for 1 CPU each" in text
    assert says in text
    assert "; run the same command again" in text


def test_before_workers_are_asked_for_nothing_says_that_they_have_places() -> None:
    wait = Wait(report([1.0, 0.0], is_placeless=False))
    wait.are_asked_for = False
    assert "300 s at most: 2 workers ask for 1 CPU each; free are 1 of 4 CPU" in wait.until_said()[1]


def test_what_no_node_can_hold_is_not_waited_for_but_where_nodes_may_come() -> None:
    gone = report([1.0], [1.0])
    wait = Wait(gone)
    with pytest.raises(WorkerLostError, match=r"cannot start: .*; free are 1 of 1 CPU, room for 1, and no autoscaler"):
        wait.until_said(60)
    assert Wait(report([1.0], [1.0], is_autoscaled=True)).until_ended()[0] == 2100
    lost = Wait(gone)
    lost.watch.look(are_asked_for=True, are_up=True)  # a machine that was lost may come back
    assert lost.until_ended()[0] == 300


def test_each_wait_has_its_own_time() -> None:
    wait = Wait(report([0.0]))
    wait.until_said()
    wait.now += 200
    assert wait.watch.look(are_asked_for=True, are_up=True) is None
    wait.now += 4000
    assert wait.watch.look(are_asked_for=True, are_up=True) is None
    assert wait.until_said()[0] == 30


def test_nodes_that_leave_have_nothing_free() -> None:
    seen = report([2.0, 2.0, 2.0])
    seen.cluster_resource_state.node_states[0].status = NodeStatus.DEAD
    seen.cluster_resource_state.node_states[1].status = NodeStatus.DRAINING
    assert PLAN.room(Seen.read(seen, PLAN).free) == 2
    assert len(Seen.read(seen, PLAN).totals) == 1
