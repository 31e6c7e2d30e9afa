from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError, TransientStorageError
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.node_health import Place
from pipeline.records import Shard

NO_ANSWER = TransientStorageError("s3://b/out/x: no answer")


def shards(count: int) -> Iterator[Shard]:
    return (Shard(1, index, ()) for index in range(count))


def take(book: LeaseBook, holder: str = "w") -> Lease:
    lease = book.take(holder)
    assert lease is not None
    return lease


def test_every_shard_is_leased_once_and_the_book_closes() -> None:
    book = LeaseBook(shards(3), 2)
    leases = [take(book) for _ in range(3)]
    assert [lease.shard.shard for lease in leases] == [0, 1, 2]
    assert book.take("w") is None
    assert not book.is_finished
    for lease in leases:
        assert book.complete(lease)
    assert book.is_finished
    assert book.num_completed == 3


def test_a_released_lease_goes_to_another_holder_however_often_and_counts_against_nobody() -> None:
    book = LeaseBook(shards(1), 2)
    for attempt in range(1, 40):
        lease = take(book, f"w{attempt}")
        assert (lease.attempt, lease.holder) == (attempt, f"w{attempt}")
        book.release(lease)
        book.release(lease)  # twice is once
        assert (book.num_returned, book.num_outstanding, book.num_given_back) == (1, 0, attempt)
    assert book.complete(take(book))
    assert book.take("w") is None
    assert book.is_finished
    book.raise_if_given_up()


def test_shards_are_drawn_only_as_they_are_leased() -> None:
    drawn: list[int] = []

    def source() -> Iterator[Shard]:
        for index in range(1000):
            drawn.append(index)
            yield Shard(1, index, ())

    book = LeaseBook(source(), 2)
    take(book)
    take(book)
    assert drawn == [0, 1]


def test_a_returned_lease_goes_to_the_next_taker_with_a_higher_attempt() -> None:
    book = LeaseBook(shards(2), 3)
    first = take(book, "dead")
    book.give_back(first, NO_ANSWER)
    again = take(book, "alive")
    assert (again.shard, again.attempt, again.holder) == (first.shard, 2, "alive")


def test_a_zombie_cannot_complete_or_return_a_lease_that_moved_on() -> None:
    book = LeaseBook(shards(1), 3)
    zombie = take(book, "zombie")
    book.give_back(zombie, NO_ANSWER)
    current = take(book, "next")
    assert not book.complete(zombie)
    book.give_back(zombie, NO_ANSWER)
    assert book.num_given_back == 1
    assert book.complete(current)


def test_a_shard_that_keeps_failing_is_given_up_after_the_others_are_done() -> None:
    book = LeaseBook(shards(3), 2)
    while (lease := book.take("w")) is not None:
        if lease.shard.shard == 1:
            book.give_back(lease, NO_ANSWER)
        else:
            book.complete(lease)
    assert book.is_finished
    assert book.num_completed == 2
    with pytest.raises(
        TransientStorageError, match=r"s3://b/out/x: no answer; shard 1 of plan 1 failed 2 times for its store$"
    ):
        book.raise_if_given_up()


def give_up(book: LeaseBook) -> None:
    book.give_back(take(book), NO_ANSWER)


def test_a_job_in_which_nothing_works_ends_early() -> None:
    book = LeaseBook(shards(1000), 1)
    give_up(book)
    give_up(book)
    third = take(book)
    with pytest.raises(TransientStorageError, match="and 2 more"):
        book.give_back(third, NO_ANSWER)


def test_what_broke_after_a_success_ends_early_as_well() -> None:
    book = LeaseBook(shards(1000), 1)
    give_up(book)
    give_up(book)
    book.complete(take(book))
    give_up(book)
    give_up(book)
    sixth = take(book)
    with pytest.raises(TransientStorageError, match="and 4 more"):
        book.give_back(sixth, NO_ANSWER)


def test_a_delayed_retry_waits_for_its_time_and_longer_each_time() -> None:
    now = [0.0]
    book = LeaseBook(shards(1), 9, clock=lambda: now[0])
    for attempt, delay_s in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, 32.0), (6, 60.0)):
        lease = take(book)
        assert lease.attempt == attempt
        book.give_back(lease, NO_ANSWER, delay_s=2.0)
        now[0] += delay_s - 0.1
        assert book.take("w") is None
        assert not book.is_finished
        now[0] += 0.2


def test_what_was_lost_with_a_worker_has_the_next_one_to_itself() -> None:
    book = LeaseBook(shards(4), 3)
    innocent, poison = take(book, "w1"), take(book, "w1")
    book.lose(innocent, "worker_crash", "died")
    book.lose(poison, "worker_crash", "died")
    again = take(book, "w2")
    assert again.attempt == 2
    assert book.take("w2") is None, "nothing beside it"
    other = take(book, "w3")
    assert other.attempt == 2
    book.complete(again)
    fresh = take(book, "w2")
    assert (fresh.shard.shard, fresh.attempt) == (2, 1)
    book.lose(other, "worker_crash", "died")
    beside = take(book, "w2")
    assert beside.attempt == 1, "a busy worker gets new shards, not what took others down"
    assert take(book, "w3").attempt == 3


@pytest.mark.parametrize(("num_workers", "num_nodes"), [(1, 1), (2, 1), (2, 2), (8, 8)])
def test_what_a_store_failed_does_not_wait_for_the_end_of_a_long_job(num_workers: int, num_nodes: int) -> None:
    """Workers that hold two leases each are never idle until then: they take it as soon as they have room."""
    now, began = [0.0], {}
    book = LeaseBook(shards(400), 4, num_workers=num_workers, clock=lambda: now[0], has_several_nodes=num_nodes > 1)
    ends: dict[str, list[tuple[float, Lease]]] = {f"w{index}": [] for index in range(num_workers)}
    failed_at = math.inf
    while not book.is_finished:
        now[0] += 1
        book.see([f"n{index}" for index in range(num_nodes)])
        for index, (holder, held) in enumerate(ends.items()):
            while len(held) < 2 and (lease := book.take(holder, Place(f"n{index % num_nodes}"))):
                began[lease.shard.shard, lease.attempt] = now[0]
                held.append((now[0] + 30 + 7 * len(held), lease))
            for end, lease in [each for each in held if each[0] <= now[0]]:
                held.remove((end, lease))
                if (lease.shard.shard, lease.attempt) == (1, 1):
                    failed_at = now[0]
                    book.give_back(lease, NO_ANSWER, delay_s=5)
                else:
                    book.complete(lease)
    assert book.num_completed == 400
    assert began[1, 2] <= failed_at + 5 + 30 + 7, "once the next lease has ended"
    assert began[1, 2] < now[0] / 4, "long before the end"


def test_what_a_worker_that_left_gave_back_is_done_beside_other_work() -> None:
    now = [0.0]
    book = LeaseBook(shards(9), 4, num_workers=2, clock=lambda: now[0])
    left, _ = take(book, "w1"), take(book, "w2")
    book.release(left)
    assert take(book, "w2").attempt == 1, "for a moment it is for workers that hold nothing"
    now[0] += 2
    again = take(book, "w2")
    assert (again.shard.shard, again.attempt) == (left.shard.shard, 2)
    assert take(book, "w2").attempt == 1, "it endangers nobody"


def test_what_its_only_worker_was_failed_comes_back_when_the_other_has_gone() -> None:
    """One that is always at work, and the only one there is by now: it tries again, and not at the end."""
    now = [0.0]
    book = LeaseBook(shards(1000), 4, num_workers=2, clock=lambda: now[0])
    gone, failed = take(book, "gone"), take(book, "left")
    book.complete(gone)
    book.give_back(failed, NO_ANSWER, delay_s=5)
    seen = []
    while len(seen) < 60 and (not seen or seen[-1].attempt == 1):
        held = take(book, "left")
        beside = take(book, "left")
        seen += [held, beside]
        now[0] += 5
        book.complete(held)
        book.complete(beside)
    assert any(lease.attempt == 2 for lease in seen), "it waits for somebody who does not come"


def test_a_worker_whose_store_failed_a_shard_leaves_it_to_others() -> None:
    """Even where it is asked first each time: it may be the only one that cannot reach the store."""
    now = [0.0]
    book = LeaseBook(shards(4), 4, num_workers=2, clock=lambda: now[0])
    failed: list[int] = []
    held: Lease | None = None
    while not book.is_finished and now[0] < 300:
        # The store is given up after 7 s; the other worker, which is asked next, needs no time.
        if held is not None and now[0] % 7 == 0:
            failed.append(held.shard.shard)
            book.give_back(held, NO_ANSWER, delay_s=5)
            held = None
        held = held or book.take("cut off")
        sound = book.take("sound")
        if sound is not None:
            book.complete(sound)
        now[0] += 1
    assert failed == [0], "it got back what it could not do"
    assert book.num_completed == 4
    book.raise_if_given_up()


def test_a_worker_that_is_alone_takes_back_what_its_store_failed() -> None:
    now = [0.0]
    book = LeaseBook(shards(2), 9, num_workers=2, clock=lambda: now[0])
    book.give_back(take(book, "w1"), NO_ANSWER, delay_s=2.0)
    other = take(book, "w2")
    now[0] = 2.1
    assert book.take("w1") is None, "for the other one first, which asks once a second"
    now[0] = 60.0
    assert book.take("w1") is None, "the other one is at work: it will ask"
    book.complete(other)
    now[0] = 69.9
    assert book.take("w1") is None, "the other one has only just become free"
    now[0] = 70.0
    assert take(book, "w1").shard.shard == 0, "nobody else wants it"


@pytest.mark.parametrize(("failing_s", "working_s"), [(60, 30), (60, 60), (30, 120)])
@pytest.mark.parametrize(("num_bad", "num_good"), [(1, 1), (2, 2), (2, 6), (4, 4)])
def test_a_node_without_the_store_costs_no_shard_where_another_has_it(
    num_bad: int, num_good: int, failing_s: int, working_s: int
) -> None:
    """The bad workers are asked first, and idle when the others finish."""
    now = [0.0]
    book = LeaseBook(shards(200), 4, num_workers=num_bad + num_good, clock=lambda: now[0], has_several_nodes=True)
    places = {f"bad-{i}": Place("n0") for i in range(num_bad)} | {f"good-{i}": Place("n1") for i in range(num_good)}
    held: dict[str, list[tuple[Lease, float]]] = {holder: [] for holder in places}
    while not book.is_finished and now[0] < 100_000:
        now[0] += 1
        book.see({"n0", "n1"})
        for holder, place in places.items():
            takes_s = failing_s if place.node == "n0" else working_s
            while len(held[holder]) < 2 and (lease := book.take(holder, place)):
                held[holder].append((lease, now[0] + takes_s))
        for holder, leases in held.items():
            for lease, _ in [entry for entry in leases if entry[1] <= now[0]]:
                if places[holder].node == "n0":
                    book.give_back(lease, NO_ANSWER, delay_s=5)
                else:
                    book.complete(lease)
            leases[:] = [entry for entry in leases if entry[1] > now[0]]
    assert book.num_completed == 200
    book.raise_if_given_up()


def test_nobody_makes_room_for_a_shard_that_its_node_has_refused() -> None:
    now = [0.0]
    book = LeaseBook(shards(2000), 4, num_workers=2, clock=lambda: now[0])
    near, far = Place("near"), Place("far")

    def see() -> None:
        now[0] += 1
        book.see({"near", "far"})

    see()
    lost = book.take("far-worker", far)
    assert lost is not None
    book.lose(lost, "worker_crash", "gone")
    see()
    again = book.take("near-worker", near)
    assert again is not None
    assert again.shard == lost.shard
    assert book.take("far-worker", far) is not None, "somebody is at work all the time"
    book.give_back(again, NO_ANSWER, delay_s=5)
    for _ in range(20):
        see()
    first, second = book.take("near-worker", near), book.take("near-worker", near)
    assert first is not None
    assert second is not None, "it keeps a place free for a shard that it does not get"


def test_a_retry_waits_for_no_other_worker_where_there_is_none() -> None:
    now = [0.0]
    book = LeaseBook(shards(1), 9, num_workers=1, clock=lambda: now[0])
    book.give_back(take(book), NO_ANSWER, delay_s=2.0)
    now[0] = 2.1
    assert take(book).attempt == 2


@given(st.data())
def test_whatever_fails_nothing_is_lost_and_nothing_is_done_twice(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    book = LeaseBook(shards(count), max_attempts=100)
    held: list[Lease] = []
    completed: list[int] = []
    for _ in range(400):
        if book.is_finished:
            break
        action = data.draw(st.sampled_from(["take", "complete", "give_back"])) if held else "take"
        if action == "take":
            lease = book.take(data.draw(st.sampled_from("ab")))
            held += [lease] if lease else []
        elif action == "complete":
            lease = held.pop(data.draw(st.integers(0, len(held) - 1)))
            assert book.complete(lease)
            completed.append(lease.shard.shard)
        else:
            book.give_back(held.pop(data.draw(st.integers(0, len(held) - 1))), NO_ANSWER)
        assert book.num_outstanding == len(held)
    while not book.is_finished:
        while (lease := book.take(f"end {len(held)}")) is not None:
            held.append(lease)
        for lease in held:
            book.complete(lease)
            completed.append(lease.shard.shard)
        held = []
    assert sorted(completed) == list(range(count))


def test_a_store_that_is_gone_ends_the_job_early_however_many_shards_there_are() -> None:
    now = [0.0]
    book = LeaseBook(shards(1000), 4, clock=lambda: now[0])
    held: list[Lease] = []
    num_attempts = 0
    error = None
    while error is None and now[0] < 3600:
        # Two leases at a time, which fail at different times: one is always held when the other comes back.
        while len(held) < 2 and (lease := book.take("w")) is not None:
            held.append(lease)
            num_attempts += 1
        now[0] += 60
        if held:
            error = _failure(book, held.pop(0))
    assert "10 attempts in a row failed" in str(error)
    assert "no answer" in str(error)
    assert num_attempts <= 11
    assert now[0] <= 15 * 60


def _failure(book: LeaseBook, lease: Lease) -> TransientStorageError | None:
    try:
        book.give_back(lease, NO_ANSWER, delay_s=5)
    except TransientStorageError as error:
        return error
    return None


def test_while_a_store_fails_no_new_shard_is_begun() -> None:
    now = [0.0]
    book = LeaseBook(shards(1000), 4, num_workers=100, clock=lambda: now[0])
    tried = set()
    for _ in range(12):
        lease = book.take("w")
        now[0] += 100
        if lease is not None:
            tried.add(lease.shard.shard)
            book.give_back(lease, NO_ANSWER, delay_s=5)
    assert len(tried) <= 3


def test_what_no_retry_mends_keeps_its_class_and_says_that_work_is_kept() -> None:
    book = LeaseBook(shards(1), 1)
    book.give_back(take(book), StorageError("s3://b/out/x: strange"))
    with pytest.raises(StorageError, match=r"s3://b/out/x: strange; shard 0 .* Committed shards are kept") as caught:
        book.raise_if_given_up()
    assert caught.value.code == "storage_failed"
