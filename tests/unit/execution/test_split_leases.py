"""Shards that are done in parts: who has what, whoever fails, and one commit with every row."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ObjectDeniedError, TransientStorageError
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.records import ConversionStatus, ImageResult, ImageTask, Shard

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NO_ANSWER = TransientStorageError("s3://b/out/x: no answer")
TASKS = tuple(ImageTask(f"{index}.jpg", f"{index}.jpg", 1000, "e") for index in range(8))


def row(task: ImageTask) -> ImageResult:
    return ImageResult(task, ConversionStatus.FAILED, NOW, NOW, "empty", "")


def rows(*tasks: ImageTask) -> list[ImageResult]:
    return [row(task) for task in tasks]


def one_shard(max_attempts: int = 4, num_workers: int = 1) -> LeaseBook:
    return LeaseBook(iter([Shard(1, 5, TASKS)]), max_attempts, num_workers=num_workers, clock=lambda: 0.0)


def take(book: LeaseBook, holder: str) -> Lease:
    lease = book.take(holder)
    assert lease is not None
    return lease


def split(book: LeaseBook, lease: Lease, *groups: tuple[ImageTask, ...]) -> Lease:
    kept = book.split(lease, groups)
    assert kept is not None
    return kept


def commit(book: LeaseBook, holder: str) -> Lease:
    """The last lease of the shard: nothing to convert, one row for each image."""
    lease = take(book, holder)
    assert (lease.shard.tasks, lease.shard.part) == (TASKS, 0)
    assert [each.task for each in lease.rows] == list(TASKS)
    assert book.complete(lease)
    assert book.take(holder) is None
    assert book.is_finished
    assert book.num_completed == 1
    return lease


def test_parts_are_leased_and_the_shard_is_committed_once_all_rows_are_in() -> None:
    book = one_shard()
    kept = split(book, take(book, "holder"), TASKS[4:6], TASKS[6:])
    assert (kept.shard.tasks, kept.holder, kept.attempt) == (TASKS[:4], "holder", 1)
    assert book.held_by("holder") == [kept]
    first, second = take(book, "a"), take(book, "b")
    assert (first.shard.tasks, second.shard.tasks) == (TASKS[4:6], TASKS[6:])
    assert len({kept.shard.key, first.shard.key, second.shard.key}) == 3
    assert book.take("c") is None
    assert book.complete(second, rows(*TASKS[6:]))
    assert book.complete(kept, rows(*TASKS[:4]))
    assert not book.is_finished
    assert book.complete(first, rows(*TASKS[4:6]))
    assert commit(book, "c").attempt == 1
    assert (book.num_split, book.num_given_back) == (1, 0)


def test_a_holder_that_ceded_before_the_book_heard_of_it_returns_what_it_did() -> None:
    """Its answer comes after its rows, or never: what they lack is done by somebody else."""
    book = one_shard()
    lease = take(book, "holder")
    assert book.complete(lease, rows(*TASKS[:5]))
    assert book.split(lease, [TASKS[5:]]) is None
    rest = take(book, "a")
    assert rest.shard.tasks == TASKS[5:]
    assert book.complete(rest, rows(*TASKS[5:]))
    commit(book, "a")
    assert book.num_split == 1


def test_a_part_can_be_split_again() -> None:
    book = one_shard()
    kept = split(book, take(book, "holder"), TASKS[4:])
    part = take(book, "a")
    less = split(book, part, TASKS[6:])
    last = take(book, "b")
    assert less.shard.key == part.shard.key
    assert len({kept.shard.key, less.shard.key, last.shard.key}) == 3
    for lease in (kept, less, last):
        assert book.complete(lease, rows(*lease.shard.tasks))
    commit(book, "b")
    assert book.num_split == 1


@pytest.mark.parametrize("victim", ["holder", "helper"])
def test_a_death_costs_the_part_and_the_next_holder_adopts(victim: str) -> None:
    book = one_shard()
    kept = split(book, take(book, "holder"), TASKS[4:])
    part = take(book, "helper")
    dead, other = (kept, part) if victim == "holder" else (part, kept)
    book.lose(dead, "worker_crash", "died")
    assert book.complete(other, rows(*other.shard.tasks))
    again = take(book, "next")
    assert (again.shard, again.attempt) == (dead.shard, 2)
    assert not book.complete(dead, rows(*dead.shard.tasks)), "a zombie"
    assert book.complete(again, rows(*again.shard.tasks))
    assert commit(book, "next").attempt == 2


def test_a_death_before_the_book_heard_of_the_split_costs_the_shard() -> None:
    book = one_shard()
    lease = take(book, "holder")
    book.lose(lease, "worker_crash", "died")
    assert book.split(lease, [TASKS[4:]]) is None
    assert take(book, "next").shard.tasks == TASKS


def test_a_death_before_the_commit_costs_the_commit_alone() -> None:
    book = one_shard()
    kept = split(book, take(book, "holder"), TASKS[4:])
    part = take(book, "helper")
    for lease in (kept, part):
        assert book.complete(lease, rows(*lease.shard.tasks))
    book.lose(take(book, "helper"), "worker_crash", "died")
    assert commit(book, "holder").attempt == 2


def test_an_image_of_a_part_that_kills_workers_is_found_and_the_others_are_kept() -> None:
    poison = TASKS[6]
    book = one_shard(num_workers=9)
    kept = split(book, take(book, "holder"), TASKS[4:])
    assert book.complete(kept, rows(*TASKS[:4]))
    num_lost = 0
    while (lease := book.take(f"worker {num_lost}")) is not None:
        touched = {task.source for task in lease.shard.tasks} - {entry.source for entry in lease.shard.quarantined}
        if poison.source in touched and not lease.rows:
            num_lost += 1
            book.lose(lease, "worker_crash", "died")
        elif lease.rows:
            assert [each.task for each in lease.rows] == list(TASKS)
            assert book.complete(lease)
        elif lease.shard.is_probe:
            assert book.complete(lease)
        else:
            assert [entry.source for entry in lease.shard.quarantined] == [poison.source]
            assert book.complete(lease, rows(*lease.shard.tasks))
    assert book.is_finished
    assert num_lost <= 6
    assert book.num_completed == 1


def test_a_shard_that_took_a_worker_down_does_not_start_anew_with_its_parts() -> None:
    book = one_shard()
    book.lose(take(book, "first"), "worker_crash", "died")
    kept = split(book, take(book, "second"), TASKS[4:])
    part = take(book, "third")
    book.lose(part, "worker_crash", "died")
    assert take(book, "fourth").shard.is_probe
    assert book.complete(kept, rows(*TASKS[:4]))


def test_of_a_shard_that_is_given_up_no_part_is_begun_any_more() -> None:
    book = one_shard(max_attempts=1)
    kept = split(book, take(book, "holder"), TASKS[4:6], TASKS[6:])
    book.give_back(kept, NO_ANSWER)
    assert book.take("a") is None
    assert book.is_finished
    with pytest.raises(TransientStorageError, match="shard 5 of plan 1 failed 1 times"):
        book.raise_if_given_up()


def test_a_part_that_is_at_work_when_its_shard_is_given_up_changes_nothing() -> None:
    book = one_shard(max_attempts=1)
    kept = split(book, take(book, "holder"), TASKS[4:])
    part = take(book, "a")
    book.give_back(part, NO_ANSWER)
    assert book.complete(kept, rows(*TASKS[:4]))
    assert book.take("a") is None
    assert book.is_finished
    assert book.num_completed == 0


class Chance:
    """A job of a few shards to which anything happens that can, as the data say."""

    def __init__(self, num_shards: int) -> None:
        shards = [Shard(1, index, TASKS) for index in range(num_shards)]
        self.book = LeaseBook(iter(shards), 10_000, num_workers=10_000, clock=lambda: 0.0)
        self.held: list[Lease] = []
        self.committed: list[int] = []
        self.num_taken = 0

    def take(self) -> bool:
        self.num_taken += 1
        lease = self.book.take(f"worker {self.num_taken}")
        self.held += [lease] if lease else []
        return lease is not None

    def end(self, lease: Lease, action: str, begun: int) -> None:
        """`begun` images are the holder's, where it cedes the others."""
        tasks = lease.shard.tasks
        can_cede = begun < len(tasks) and not lease.shard.is_probe and not lease.rows
        if action == "lose":
            self.book.lose(lease, "worker_crash", "died")
        elif action == "release":
            self.book.release(lease)
        elif action == "split" and can_cede:
            self.held.append(split(self.book, lease, *((task,) for task in tasks[begun:])))
        elif action == "late" and can_cede:
            assert self.book.complete(lease, rows(*tasks[:begun]))
        else:
            self.finish(lease)

    def finish(self, lease: Lease) -> None:
        if lease.shard.part:
            assert self.book.complete(lease, None if lease.shard.is_probe else rows(*lease.shard.tasks))
            return
        assert not lease.rows or [each.task for each in lease.rows] == list(TASKS)
        assert self.book.complete(lease)
        self.committed += [] if lease.shard.is_probe else [lease.shard.shard]


@given(st.data())
def test_whatever_happens_each_shard_is_committed_once_with_a_row_for_each_image(data: st.DataObject) -> None:
    """Splits of whole shards, parts and parts of parts; losses, answers that come late, and workers that leave."""
    num_shards = data.draw(st.integers(1, 3))
    job = Chance(num_shards)
    for _ in range(data.draw(st.integers(0, 60))):
        action = data.draw(st.sampled_from(["take", "complete", "late", "split", "lose", "release"]))
        if action == "take" or not job.held:
            job.take()
        else:
            lease = job.held.pop(data.draw(st.integers(0, len(job.held) - 1)))
            job.end(lease, action, data.draw(st.integers(0, len(TASKS))))
    while not job.book.is_finished:
        while job.take():
            pass
        held, job.held = job.held, []
        for lease in held:
            job.finish(lease)
    assert sorted(job.committed) == list(range(num_shards))
    assert job.book.num_completed == num_shards


def test_a_part_whose_shard_was_given_up_cedes_to_nobody() -> None:
    """What is ceded then is for the next run: another part would have the number of one that is at work."""
    book = one_shard(num_workers=4)
    kept = split(book, take(book, "a"), TASKS[2:5], TASKS[5:])
    other, last = take(book, "b"), take(book, "c")
    book.give_back(other, ObjectDeniedError("403"))
    kept = split(book, kept, TASKS[1:2])
    assert kept.shard.tasks == TASKS[:1]
    assert book.take("b") is None
    assert book.complete(last, rows(*TASKS[5:]))
    assert book.complete(kept, rows(TASKS[0]))
    assert book.take("a") is None
    assert book.is_finished
    assert book.held_by("a") == book.held_by("c") == []
    with pytest.raises(ObjectDeniedError):
        book.raise_if_given_up()


def test_parts_inherit_how_often_their_store_has_failed() -> None:
    book = one_shard(max_attempts=3)
    lease = take(book, "a")
    assert not lease.is_last
    for _ in range(2):
        book.give_back(lease, NO_ANSWER)
        lease = take(book, "a")
    assert lease.is_last
    kept = split(book, lease, TASKS[4:])
    assert kept.is_last
    assert take(book, "b").is_last
