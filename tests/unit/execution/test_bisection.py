from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TransientStorageError, WorkerLostError
from pipeline.execution.bisection import Bisection
from pipeline.execution.leases import LeaseBook
from pipeline.records import ImageTask, Quarantine, Shard


def shard(count: int, number: int = 0) -> Shard:
    return Shard(1, number, tuple(ImageTask(f"{number}/{index}", "k", 1, "e") for index in range(count)))


def run(book: LeaseBook, is_lost: Callable[[Shard], bool], code: str = "worker_crash") -> tuple[list[Shard], int]:
    """Drive the book with one worker; returns the shards that would be committed, and the workers lost."""
    done, num_lost = [], 0
    for _ in range(10_000):
        if book.is_finished:
            return done, num_lost
        lease = book.take(f"worker-{num_lost}")
        if lease is None:
            continue
        if is_lost(lease.shard):
            book.lose(lease, code, "died")
            num_lost += 1
        else:
            done += [] if lease.shard.is_probe else [lease.shard]
            book.complete(lease)
    raise AssertionError("the book does not come to an end")


def poisoned(poison: set[str]) -> Callable[[Shard], bool]:
    def is_lost(shard: Shard) -> bool:
        left_alone = {entry.source for entry in shard.quarantined}
        return any(task.source in poison - left_alone for task in shard.tasks)

    return is_lost


@given(st.integers(1, 80), st.data())
def test_exactly_the_bad_images_are_quarantined_and_every_shard_is_committed_whole(
    count: int, data: st.DataObject
) -> None:
    poison = {f"0/{index}" for index in data.draw(st.sets(st.integers(0, count - 1), max_size=4))}
    shards = [shard(count), shard(3, 1)]
    done, num_lost = run(LeaseBook(iter(shards), 4, num_workers=100), poisoned(poison))
    assert {entry.number for entry in map(_number, done)} == {0, 1}
    (bad,) = [entry for entry in done if entry.shard == 0]
    assert bad.tasks == shards[0].tasks
    assert {entry.source for entry in bad.quarantined} == poison
    assert {entry.code for entry in bad.quarantined} <= {"worker_crash"}
    assert num_lost <= len(poison) * (2 * math.ceil(math.log2(count + 1)) + 4)


class _number:
    def __init__(self, shard: Shard) -> None:
        self.number = shard.shard


def test_a_shard_that_loses_one_worker_is_just_tried_again() -> None:
    book = LeaseBook(iter([shard(8)]), 4)
    first = book.take("a")
    assert first is not None
    book.lose(first, "worker_crash", "the node went away")
    again = book.take("b")
    assert again is not None
    assert (again.shard, again.attempt) == (shard(8), 2)


def test_what_hangs_is_probed_alone_at_once() -> None:
    book = LeaseBook(iter([shard(8), shard(8, 1)]), 4)
    first, neighbour = book.take("a"), book.take("a")
    assert first is not None
    assert neighbour is not None
    for lease in (first, neighbour):
        book.lose(lease, "worker_hang", "0/5 was not done", suspects=("0/5",))
    alone = book.take("b")
    assert alone is not None
    assert [task.source for task in alone.shard.tasks] == ["0/5"]
    assert alone.shard.is_probe
    innocent = book.take("c")
    assert innocent is not None
    assert innocent.shard == shard(8, 1), "a neighbour of the suspect is only tried again"
    book.lose(alone, "worker_hang", "again", suspects=("0/5",))
    rest = book.take("d")
    assert rest is not None
    assert (rest.shard.is_probe, len(rest.shard.tasks)) == (True, 7)
    book.complete(rest)
    final = book.take("d")
    assert final is not None
    assert final.shard.quarantined == (Quarantine("0/5", "worker_hang", "again"),)
    assert final.shard.tasks == shard(8).tasks


def test_where_every_worker_is_lost_the_job_stops_before_all_images_are_quarantined() -> None:
    book = LeaseBook(iter(shard(64, number) for number in range(50)), 4)
    with pytest.raises(WorkerLostError, match=r"in a row were lost .*nothing was converted in between.*died"):
        run(book, lambda shard: True)
    assert book.num_completed == 0


def test_shards_that_consist_of_quarantined_images_are_no_sign_of_health() -> None:
    book = LeaseBook(iter(shard(1, number) for number in range(50)), 4)
    with pytest.raises(WorkerLostError, match="in a row"):
        run(book, lambda shard: len(shard.quarantined) < len(shard.tasks))
    assert book.num_completed < 8


def test_a_whole_cluster_may_go_away_twice() -> None:
    book = LeaseBook(iter(shard(4, number) for number in range(100)), 4, num_workers=50)
    for _ in range(2):
        leases = [book.take(f"w{index}") for index in range(50)]
        for lease in leases:
            assert lease is not None
            book.lose(lease, "worker_crash", "the power failed")
    done, _ = run(book, lambda shard: False)
    assert len(done) == 100
    assert not any(shard.quarantined for shard in done)


def test_images_that_only_fail_together_give_the_shard_up_in_the_end() -> None:
    book = LeaseBook(iter([shard(4)]), 3, num_workers=100)
    done, _ = run(book, lambda shard: len(shard.tasks) - len(shard.quarantined) >= 3)
    assert done == []
    with pytest.raises(WorkerLostError, match="shard 0 of plan 1"):
        book.raise_if_given_up()


def test_a_store_that_fails_under_a_probe_costs_no_image() -> None:
    book = LeaseBook(iter([shard(2)]), 4)
    for _ in range(2):
        lease = book.take("a")
        assert lease is not None
        book.lose(lease, "worker_crash", "died")
    probe = book.take("a")
    assert probe is not None
    assert probe.shard.is_probe
    book.give_back(probe, TransientStorageError("no answer"))
    again = book.take("b")
    assert again is not None
    assert again.shard == probe.shard
    done, _ = run(_completed(book, again), lambda shard: False)
    assert [entry.quarantined for entry in done] == [()]


def _completed(book: LeaseBook, lease: object) -> LeaseBook:
    assert book.complete(lease)  # type: ignore[arg-type]
    return book


def test_an_image_that_is_known_is_not_probed_again() -> None:
    known = Quarantine("0/1", "worker_oom", "before")
    bisection = Bisection(Shard(1, 0, shard(3).tasks, quarantined=(known,)))
    probed = []
    while (probe := bisection.next()) is not None:
        probed += [task.source for task in probe.tasks]
    assert sorted(probed) == ["0/0", "0/2"]
    assert bisection.final().quarantined == (known,)


def test_an_image_that_a_sound_device_is_lost_with_costs_two_workers_and_ends_no_job() -> None:
    """Half of a shard, and each time the image is known: after the first of them nothing needs to be halved."""
    book, poison, workers = LeaseBook(iter([shard(64)]), 4), {f"0/{index}" for index in range(0, 64, 2)}, 0
    done: list[Shard] = []
    while not book.is_finished:
        lease = book.take(f"worker-{workers}")
        if lease is None:
            continue
        settled = {entry.source for entry in lease.shard.quarantined}
        bad = [task.source for task in lease.shard.tasks if task.source in poison - settled]
        if bad:
            assert lease.attempt == 1 or lease.is_suspect
            book.lose(lease, "worker_crash", "died", bad[:1], is_proven=True)
            workers += 1
        else:
            done += [] if lease.shard.is_probe else [lease.shard]
            book.complete(lease)
    assert {entry.source for entry in done[0].quarantined} == poison
    assert workers == 2 * len(poison)
