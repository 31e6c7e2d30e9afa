from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TransientStorageError
from pipeline.execution.lease_queue import ReturnQueue
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.records import Shard

NO_ANSWER = TransientStorageError("s3://b/out/x: no answer")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(1, 3)),
    ),
    max_size=80,
)


class Linear:
    """What the queue has to do, in the plainest way."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int]] = []

    def take(self, now: float, divisor: int = 1) -> int | None:
        for index, (due, item) in enumerate(self.waiting):
            if due <= now and item % divisor == 0:
                del self.waiting[index]
                return item
        return None


@given(steps)
def test_it_gives_what_a_search_from_the_front_would_find(actions: list[tuple[str, int]]) -> None:
    queue: ReturnQueue[int] = ReturnQueue()
    plain, now = Linear(), 0.0
    for number, (action, value) in enumerate(actions):
        if action == "put":
            queue.put(now + value, number)
            plain.waiting.append((now + value, number))
        elif action == "wait":
            now += value
        else:
            taken = queue.take(now, lambda item, divisor=value: item % divisor == 0)
            assert taken == plain.take(now, value)
        assert len(queue) == len(plain.waiting)
    while plain.waiting:
        now += 1
        assert queue.take(now) == plain.take(now)


def shards(count: int) -> Iterator[Shard]:
    return (Shard(1, index, ()) for index in range(count))


@given(st.data())
def test_a_book_knows_who_holds_what_whatever_happens(data: st.DataObject) -> None:
    now = 0.0
    book = LeaseBook(shards(data.draw(st.integers(1, 12))), max_attempts=100, num_workers=100, clock=lambda: now)
    held: list[Lease] = []
    for _ in range(60):
        action = data.draw(st.sampled_from(["take", "complete", "give_back", "release", "lose", "wait"]))
        if action == "take":
            lease = book.take(data.draw(st.sampled_from("abc")))
            held += [lease] if lease else []
        elif action == "wait":
            now += 10
        elif held:
            lease = held.pop(data.draw(st.integers(0, len(held) - 1)))
            if action == "complete":
                assert book.complete(lease)
            elif action == "give_back":
                book.give_back(lease, NO_ANSWER, delay_s=data.draw(st.sampled_from([0.0, 5.0])))
            elif action == "release":
                book.release(lease)
            else:
                book.lose(lease, "worker_crash", "gone")
        for holder in "abc":
            assert book.held_by(holder) == [lease for lease in held if lease.holder == holder]
        assert book.num_outstanding == len(held)
