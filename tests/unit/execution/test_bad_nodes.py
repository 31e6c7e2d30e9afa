"""Whose fault it is that a worker went down: leases on two nodes or one, of which one may be bad."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

from pipeline.errors import DeviceLostError
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.node_health import NodeHealth, Place
from pipeline.records import ImageTask, Shard

LOST = DeviceLostError("cuda:0: CUDA error: an ECC error")
A, B = Place("a"), Place("b")


def shard(count: int, number: int = 0) -> Shard:
    return Shard(1, number, tuple(ImageTask(f"{number}/{index}", "k", 1, "e") for index in range(count)))


class Nodes:
    """One worker with two leases on each node, which works on one lease at a time; a lost one is replaced at once.

    `ends` says of a shard or probe on a node: "" it is done, "lost" the device is, "crash" the worker is.
    """

    def __init__(self, num_shards: int, nodes: tuple[str, ...], ends: Callable[[Shard, str], str]) -> None:
        self.now = 0.0
        self.health = NodeHealth(num_workers=len(nodes))
        shards = [shard(4, number) for number in range(num_shards)]
        self.book = LeaseBook(
            iter(shards),
            4,
            num_workers=len(nodes),
            clock=lambda: self.now,
            health=self.health,
            has_several_nodes=len(nodes) > 1,
        )
        self.nodes, self.ends = nodes, ends
        self.done: list[Shard] = []
        self.num_lost: defaultdict[str, int] = defaultdict(int)
        self.crashed_on: defaultdict[str, list[str]] = defaultdict(list)
        self.held: defaultdict[str, list[Lease]] = defaultdict(list)

    @property
    def quarantined(self) -> set[str]:
        return {entry.source for shard in self.done for entry in shard.quarantined}

    def run(self) -> Nodes:
        for _ in range(10_000):
            if self.book.is_finished:
                self.book.raise_if_given_up()
                assert len(self.done) == self.book.num_completed
                return self
            self.now += 1.0
            there = [node for node in self.nodes if node not in self.health.barred]
            if not there:
                assert self.health.error is not None
                raise self.health.error
            self.book.see(there)
            for node in there:
                self._work(node)
        raise AssertionError("the book does not come to an end")

    def _work(self, node: str) -> None:
        worker = f"{node}-{self.num_lost[node]}"
        held = self.held[worker]
        while len(held) < 2 and (lease := self.book.take(worker, Place(node))) is not None:
            held.append(lease)
        if not held:
            return
        end = self.ends(held[0].shard, node)
        if not end:
            lease = held.pop(0)
            self.done += [] if lease.shard.is_probe else [lease.shard]
            assert self.book.complete(lease)
            return
        for lease in held:
            if end == "lost":
                self.book.excuse(lease, LOST)
                continue
            if len(lease.shard.tasks) == 1:
                self.crashed_on[lease.shard.tasks[0].source].append(node)
            self.book.lose(lease, "worker_crash", "died")
        self.num_lost[node] += 1
        if end == "lost":
            self.health.lost_device(Place(node), LOST)


def has(source: str) -> Callable[[Shard], bool]:
    return lambda shard: any(task.source == source for task in shard.tasks) and not shard.quarantined


@pytest.mark.parametrize(("how", "num_lost"), [("lost", 3), ("crash", 5)])
def test_a_bad_node_costs_a_few_workers_and_no_image(how: str, num_lost: int) -> None:
    nodes = Nodes(40, ("a", "b"), lambda _shard, node: how if node == "a" else "").run()
    assert not nodes.quarantined
    assert len(nodes.done) == 40
    assert (nodes.num_lost["a"], nodes.num_lost["b"]) == (num_lost, 0)
    assert set(nodes.health.barred) == {"a"}


def test_an_image_that_takes_workers_down_is_quarantined_after_two_nodes() -> None:
    poison = has("3/2")
    nodes = Nodes(40, ("a", "b"), lambda shard, _node: "crash" if poison(shard) else "").run()
    assert nodes.quarantined == {"3/2"}
    assert sorted(nodes.crashed_on["3/2"]) == ["a", "b"]
    assert not nodes.health.barred


def test_an_image_that_takes_workers_down_is_quarantined_on_the_only_node() -> None:
    poison = has("3/2")
    nodes = Nodes(10, ("a",), lambda shard, _node: "crash" if poison(shard) else "").run()
    assert nodes.quarantined == {"3/2"}
    assert nodes.crashed_on["3/2"] == ["a", "a"]
    assert not nodes.health.barred


def test_an_image_that_takes_workers_down_on_one_of_two_nodes_alone_is_converted() -> None:
    picky = has("3/2")
    nodes = Nodes(40, ("a", "b"), lambda shard, node: "crash" if node == "a" and picky(shard) else "").run()
    assert not nodes.quarantined
    assert len(nodes.done) == 40


def test_a_poison_image_is_found_beside_a_device_that_is_lost_now_and_then() -> None:
    poison, calls = has("3/2"), [0]

    def ends(shard: Shard, node: str) -> str:
        calls[0] += 1
        if node == "a" and calls[0] % 3 == 0:
            return "lost"
        return "crash" if poison(shard) else ""

    nodes = Nodes(40, ("a", "b"), ends).run()
    assert nodes.quarantined == {"3/2"}
    assert set(nodes.crashed_on["3/2"]) == {"a", "b"}


def test_without_a_sound_node_the_devices_error_ends_it_and_nothing_is_quarantined() -> None:
    nodes = Nodes(40, ("a", "b"), lambda _shard, _node: "lost")
    with pytest.raises(DeviceLostError, match="an ECC error; 3 workers in a row failed there"):
        nodes.run()
    assert nodes.num_lost == {"a": 3, "b": 3}
    assert not nodes.done


def test_an_excused_shard_goes_to_another_node_beside_what_is_there_and_counts_for_nothing() -> None:
    book = LeaseBook(iter([shard(2, 0), shard(2, 1), shard(2, 2)]), 1, clock=lambda: 0.0)
    book.see(["a", "b"])
    first, second = book.take("w1", A), book.take("w2", B)
    assert first is not None
    assert second is not None
    book.excuse(first, LOST)
    fresh = book.take("w3", A)
    assert fresh is not None
    assert fresh.shard.shard == 2, "the node that failed it gets another one"
    again = book.take("w2", B)
    assert again is not None
    assert (again.shard, again.attempt, again.place) == (first.shard, 2, B)
    assert not book.complete(first)
    for lease in (again, second, fresh):
        assert book.complete(lease)
    assert book.take("w2", B) is None
    assert book.is_finished
    book.raise_if_given_up()


def test_a_shard_with_which_eight_devices_were_lost_is_left_undone_for_that_error() -> None:
    book = LeaseBook(iter([shard(2, 0), shard(2, 1)]), 4, clock=lambda: 0.0)
    for number in range(8):
        place = Place(f"node-{number}")
        book.see([place.node])
        lease = book.take(f"w{number}", place)
        assert lease is not None
        assert lease.shard.shard == 0
        book.excuse(lease, LOST)
    other = book.take("w", A)
    assert other is not None
    book.complete(other)
    assert book.take("w", A) is None
    assert book.is_finished
    with pytest.raises(DeviceLostError, match=r"an ECC error; 8 workers failed .* so shard 0 of plan 1 is left undone"):
        book.raise_if_given_up()


def test_another_node_is_waited_for_as_long_as_it_may_come_back() -> None:
    now = [0.0]
    book = LeaseBook(iter([shard(2)]), 4, clock=lambda: now[0])
    book.see(["a", "b"])
    lease = book.take("w1", A)
    assert lease is not None
    book.lose(lease, "worker_crash", "died")
    for now[0] in (1.0, 100.0, 179.0):
        book.see(["a"])
        assert book.take("w2", A) is None
    now[0] = 181.0
    book.see(["a"])
    assert book.take("w2", A) is not None


def test_a_busy_worker_makes_room_for_a_shard_that_was_lost_elsewhere() -> None:
    book = LeaseBook((shard(2, number) for number in range(9)), 4, clock=lambda: 0.0)
    book.see(["a", "b"])
    lost, busy = book.take("w1", A), book.take("w2", B)
    assert lost is not None
    assert busy is not None
    book.lose(lost, "worker_crash", "died")
    assert book.take("w2", B) is None, "it comes to an end with what it has"
    assert book.take("w3", A) is not None
    book.complete(busy)
    again = book.take("w2", B)
    assert again is not None
    assert again.shard == lost.shard
    assert book.take("w2", B) is None, "alone"
