"""Places for workers: requests that nothing can satisfy, and nodes that are taken away; Ray's unstable interface."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest
import ray
from commands import wait_until
from photographs import jpeg, picture
from ray_nodes import node_beside

from pipeline.config import build_config
from pipeline.errors import WorkerLostError
from pipeline.execution import ray_pool
from pipeline.execution.account import RunAccount
from pipeline.execution.base import WorkerSpec
from pipeline.execution.fallback import FallbackPolicy, LaunchReport, Refusal
from pipeline.execution.ray_actor import ActorHandle, kill_actor
from pipeline.execution.ray_capacity import Capacity, find_refusal, read_capacity
from pipeline.execution.ray_drain import drain_node, draining_nodes
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.ray_fallback import Fallback, is_placeless
from pipeline.execution.ray_pool import WorkerPool
from pipeline.execution.ray_session import WorkerResources, plan_resources
from pipeline.execution.ray_status import cluster_status
from pipeline.sharding import open_source, plan_shards

HEAD = ({"CPU": 2.0}, {"ray.io/node-id": "0"})
T4_NODE = ({"CPU": 4.0, "GPU": 1.0, "accelerator_type:T4": 1.0}, {"zone": "a"})
ONE_GPU = WorkerResources(3, 1, 1, 1)
ONE_T4 = WorkerResources(3, 1, 1, 1, "T4")
IN_B = WorkerResources(3, 1, 1, 1, labels={"zone": "b"})
REFUSED_T4 = ({"CPU": 1.0, "GPU": 1.0, "accelerator_type:T4": 0.001}, {})


@pytest.mark.parametrize(
    ("wanted", "capacity", "says"),
    [
        (ONE_GPU, Capacity((HEAD, T4_NODE), None), None),
        (ONE_T4, Capacity((HEAD, T4_NODE), None), None),
        (ONE_T4, Capacity((HEAD,), ()), None),  # an autoscaler that does not refuse it may be starting it
        (ONE_T4, Capacity((HEAD,), (({"CPU": 1.0, "GPU": 8.0}, {}),)), None),  # refused to somebody else
        (IN_B, Capacity((HEAD,), (({"CPU": 1.0, "GPU": 1.0}, {"zone": "c"}),)), None),
        (WorkerResources(3, 3, 1, 1 / 3), Capacity((HEAD, T4_NODE), None), None),
        (
            ONE_GPU,
            Capacity((HEAD, HEAD), None),
            "each worker asks for 1 CPU and 1 GPU, which no node offers and no autoscaler starts; there are: 2 CPU",
        ),
        (
            IN_B,
            Capacity((HEAD, T4_NODE), None),
            "1 CPU and 1 GPU on a node with zone=b, which no node offers and no autoscaler starts; there are: "
            "2 CPU; 4 CPU and 1 GPU of type T4",
        ),
        (
            ONE_T4,
            Capacity((HEAD,), (REFUSED_T4,)),
            "1 CPU and 1 GPU of type T4, which none of the autoscaler's node types offers; running are: 2 CPU",
        ),
        (IN_B, Capacity((), (({"CPU": 1.0, "GPU": 1.0}, {"zone": "b"}),)), "running are: no node"),
        (
            IN_B,
            Capacity((HEAD, T4_NODE), (({"CPU": 1.0, "GPU": 1.0}, {"zone": "b"}),), may_be_full=True),
            "which none of the autoscaler's node types offers, or for which others have to leave nodes first; running "
            "are: 2 CPU; 4 CPU and 1 GPU of type T4",
        ),
    ],
)
def test_a_request_is_impossible_where_no_node_offers_it_and_none_can_come(
    wanted: WorkerResources, capacity: Capacity, says: str | None
) -> None:
    refusal = find_refusal(wanted, capacity)
    if says is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.why.endswith(says)
        assert refusal.is_final is not capacity.may_be_full


def nothing() -> None:
    """A task that only waits."""


@pytest.mark.timeout(120)
def test_every_share_of_a_card_is_known_again_in_what_ray_reports(ray_here: None) -> None:
    """Ray cuts shares off at a ten-thousandth; what it makes of each is taken from its own list of what waits."""
    shares = {number: 1 / number for number in range(1, 65)} | {0: 0.57}  # 0.57 x 10,000 is just below a whole number
    refs = [ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(nothing).remote() for share in shares.values()]
    waiting: list[tuple[dict[str, float], dict[str, str]]] = []

    def all_wait() -> bool:
        status = cluster_status()
        asked = status.cluster_resource_state.pending_resource_requests if status else ()
        waiting[:] = [(dict(each.request.resources_bundle), {}) for each in asked]
        return len(waiting) >= len(shares)

    wait_until(all_wait, "Ray lists every request", 60)
    for ref in refs:
        ray.cancel(ref, force=True)
    for number, share in shares.items():
        wanted = WorkerResources(9, max(1, number), 1, share)
        assert find_refusal(wanted, Capacity((HEAD,), tuple(waiting))), f"1/{number} of a card"
        others = tuple(each for each in waiting if abs(each[0].get("GPU", 0) - share) > 1e-4)
        assert find_refusal(wanted, Capacity((HEAD,), others)) is None, f"1/{number} of a card was refused to nobody"


@pytest.mark.timeout(120)
def test_a_job_whose_workers_fit_nowhere_ends_and_says_what_there_is(ray_here: None, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(jpeg(picture(16, 16)))
    config = build_config(
        source={"url": str(tmp_path / "photos")},
        destination={"url": str(tmp_path / "out")},
        execution={"scaling": {"max_workers": 3}, "placement": {"accelerator_type": "T4"}},
    )
    shards = plan_shards(open_source(config.source).iterate(), 1, config.sharding)
    with (
        RayExecutor(WorkerSpec(config, "identity", None), ONE_T4) as executor,
        pytest.raises(WorkerLostError, match="no worker can start: each worker asks for 1 CPU and 1 GPU of type T4, "),
    ):
        executor.run(shards, num_shards=1, resuming=False, on_progress=lambda _: None)


def test_without_an_autoscaler_auto_takes_cores_at_once_and_says_why(ray_here: None) -> None:
    config = build_config(source={"url": "s"}, destination={"url": "d"}, execution={"scaling": {"max_workers": 3}})
    planned = plan_resources(config)
    assert (planned.num_workers, planned.num_gpus) == (3, 0)
    assert planned.why == "no node has a GPU, and no autoscaler reports that it starts any"


def test_what_ray_says_of_capacity_is_understood(ray_here: None) -> None:
    capacity = read_capacity()
    assert capacity is not None
    (node,) = capacity.nodes
    assert node[0]["CPU"] == 2
    assert capacity.infeasible is None


@pytest.mark.timeout(120)
def test_what_ray_says_of_actors_without_a_place_is_understood(ray_here: None) -> None:
    """Fails when Ray moves its table of actors: mend `pipeline/execution/ray_fallback.py`, its one user."""

    class Guest:  # within the test: no worker can import this file
        def greet(self) -> None:
            pass

    def ask(num_gpus: int) -> ActorHandle:
        actor = ray.remote(num_cpus=1, num_gpus=num_gpus)(Guest).remote()
        return ActorHandle("worker-1", actor, actor.greet.remote(), 0.0, ONE_GPU)

    placed, waiting = ask(0), ask(1)
    wait_until(lambda: is_placeless(waiting), "Ray knows who waits", 30)
    ray.get(placed.start_ref, timeout=60)
    assert not is_placeless(placed)
    assert is_placeless(waiting)
    kill_actor(waiting)
    wait_until(lambda: not is_placeless(waiting), "one that is gone asks for nothing", 30)


def policy_that_has_moved_somebody() -> FallbackPolicy:
    now = [0.0]
    policy = FallbackPolicy(clock=lambda: now[0])
    policy.watch(LaunchReport())
    for second in range(5, 70, 5):
        now[0] = float(second)
        policy.watch(LaunchReport([Refusal("spot", second)]))
    assert policy.move(policy.late({"worker-0": 0.0}), 0, LaunchReport()) == ["worker-0"]
    return policy


@pytest.mark.timeout(180)
def test_a_label_to_fall_back_to_that_nothing_offers_is_given_up_while_others_work(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(
        source={"url": str(tmp_path)},
        destination={"url": str(tmp_path / "out")},
        model={"weights": "identity"},
        inference={"device": "cpu", "precision": "fp32", "num_threads": 1},
        execution={"scaling": {"max_workers": 2}},
    )
    one_core = WorkerResources(2, 1, 1, 0)
    pool = WorkerPool(WorkerSpec(config, "identity", None), one_core, RunAccount(monotonic()))
    pool.open()
    try:
        pool.spawn_up_to(1)
        (ready,) = pool
        pool.started(ready, ray.get(ready.start_ref, timeout=90))
        pool.fallback = Fallback(one_core, {"market": "free"}, policy_that_has_moved_somebody())
        pool.spawn_up_to(2)
        (moved,) = [worker for worker in pool if worker.name != ready.name]
        assert moved.resources == pool.fallback.second
        assert pool.leave_fallback() is None, "it has not waited for long"

        monkeypatch.setattr(ray_pool, "_IMPOSSIBLE_AFTER_S", -1.0)
        why = pool.leave_fallback()
        assert why is not None
        assert why.startswith(
            "1 workers have fallen back in vain, each worker asks for 1 CPU on a node with market=free"
        )
        assert pool.leave_fallback() is None, "that was said"
        assert pool.fallback.wanted == one_core
        (again,) = [worker for worker in pool if worker.name != ready.name]
        assert (again.name, again.resources) == (moved.name, one_core)
        ray.get(again.start_ref, timeout=90)
    finally:
        pool.close()


@pytest.mark.timeout(180)
def test_the_hidden_interface_for_draining_is_where_it_was(ray_here: None, tmp_path: Path) -> None:
    """Fails when Ray moves it: mend `pipeline/execution/ray_drain.py`, its one user, in the same commit as the pin."""
    assert draining_nodes() == {}

    class Guest:  # within the test: no worker can import this file
        def place(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    address = ray.get_runtime_context().gcs_address
    with node_beside(("--num-cpus=0", '--resources={"place": 1}'), tmp_path / "node.log") as node:
        # A node without work is gone before anybody sees that it drains.
        guest = ray.remote(num_cpus=0, resources={"place": 1})(Guest).remote()
        assert ray.get(guest.place.remote(), timeout=60) == node
        drain_node(address, node, "spot", deadline_s=1000)
        wait_until(lambda: bool(draining_nodes()), "the node drains", 30)
        (left_s,) = draining_nodes().values()
        assert set(draining_nodes()) == {node}
        assert 0 < left_s <= 1000
    wait_until(lambda: not draining_nodes(), "a node that is gone drains no more", 60)
