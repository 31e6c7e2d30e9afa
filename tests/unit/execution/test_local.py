from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from pipeline.errors import (
    DiskFullError,
    InterruptedJobError,
    StuckError,
    TransientStorageError,
)
from pipeline.execution.base import Progress
from pipeline.execution.lease import Lease
from pipeline.execution.local import LocalExecutor
from pipeline.records import ImageTask, Shard, ShardResult


@dataclass
class FakeReplica:
    """Fails as it is told to, by shard and attempt."""

    fail: Callable[[int, int], Exception | None] = lambda _shard, _attempt: None
    calls: list[tuple[int, int, bool]] = field(default_factory=list)
    stopped: bool = False
    closed: bool = False
    overdue: tuple[str, ...] = ()

    def convert(self, lease: Lease, adopt: bool) -> ShardResult:
        shard, attempt = lease.shard, lease.attempt
        self.calls.append((shard.shard, attempt, adopt))
        error = self.fail(shard.shard, attempt)
        if error:
            raise error
        return ShardResult(shard.plan, shard.shard, attempt, True, num_ok=2, num_failed=1, megapixels=0.5)

    def progress(self) -> Progress:
        return Progress(num_images=3 * len(self.calls), num_workers=1, overdue=self.overdue)

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


def shards(count: int) -> Iterator[Shard]:
    return (Shard(1, index, ()) for index in range(count))


def test_every_shard_is_converted_and_summed() -> None:
    replica, seen = FakeReplica(), []
    with LocalExecutor(replica, num_leases=2, max_attempts=3, retry_delay_s=0) as executor:
        summary = executor.run(shards(5), num_shards=5, resuming=False, on_progress=seen.append)
    assert (summary.num_shards, summary.num_ok, summary.num_failed, summary.megapixels) == (5, 10, 5, 2.5)
    assert sorted(replica.calls) == [(index, 1, False) for index in range(5)]
    assert seen[-1].num_images == 15
    assert replica.closed


def test_resuming_looks_for_what_is_there() -> None:
    replica = FakeReplica()
    with LocalExecutor(replica, num_leases=1, max_attempts=3, retry_delay_s=0) as executor:
        executor.run(shards(1), num_shards=1, resuming=True, on_progress=lambda _: None)
    assert replica.calls == [(0, 1, True)]


def test_a_store_that_comes_back_costs_an_attempt_and_the_next_one_adopts() -> None:
    replica = FakeReplica(lambda shard, attempt: TransientStorageError("x") if (shard, attempt) == (1, 1) else None)
    with LocalExecutor(replica, num_leases=1, max_attempts=3, retry_delay_s=0) as executor:
        summary = executor.run(shards(3), num_shards=3, resuming=False, on_progress=lambda _: None)
    assert (summary.num_shards, summary.num_given_back) == (3, 1)
    assert (1, 2, True) in replica.calls


def test_a_store_that_stays_away_gives_the_shard_up_and_finishes_the_others() -> None:
    replica = FakeReplica(lambda shard, _: TransientStorageError("no answer") if shard == 1 else None)
    with (
        LocalExecutor(replica, num_leases=2, max_attempts=2, retry_delay_s=0) as executor,
        pytest.raises(TransientStorageError, match="no answer; shard 1 of plan 1 failed 2 times for its store"),
    ):
        executor.run(shards(4), num_shards=4, resuming=False, on_progress=lambda _: None)
    assert {shard for shard, _, _ in replica.calls} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("raised", "reported"), [(DiskFullError("full"), DiskFullError), (KeyboardInterrupt(), InterruptedJobError)]
)
def test_a_broken_environment_or_an_interrupt_stops_the_worker(
    raised: BaseException, reported: type[Exception]
) -> None:
    def fail(_: Progress) -> None:
        raise raised

    replica = FakeReplica()
    with LocalExecutor(replica, num_leases=1, max_attempts=2, retry_delay_s=0) as executor, pytest.raises(reported):
        executor.run(shards(100), num_shards=100, resuming=False, on_progress=fail)
    assert replica.stopped
    assert replica.closed
    assert len(replica.calls) < 100


def test_an_image_that_raises_what_nobody_foresaw_is_quarantined_alone() -> None:
    committed: list[Shard] = []

    class Fragile(FakeReplica):
        def convert(self, lease: Lease, adopt: bool) -> ShardResult:
            shard = lease.shard
            left_alone = {entry.source for entry in shard.quarantined}
            if "5" in {task.source for task in shard.tasks} - left_alone:
                raise MemoryError
            committed.extend([] if shard.is_probe else [shard])
            return ShardResult(1, shard.shard, lease.attempt, True, 1, 0, 0.0, is_probe=shard.is_probe)

    tasks = tuple(ImageTask(str(index), "k", 1, "e") for index in range(8))
    with LocalExecutor(Fragile(), num_leases=2, max_attempts=3, retry_delay_s=0) as executor:
        summary = executor.run(iter([Shard(1, 0, tasks)]), num_shards=1, resuming=False, on_progress=lambda _: None)
    assert summary.num_shards == 1
    (shard,) = committed
    assert [(entry.source, entry.code) for entry in shard.quarantined] == [("5", "worker_oom")]
    assert shard.tasks == tasks


def test_an_image_that_does_not_come_to_an_end_stops_the_job_without_waiting_for_it() -> None:
    replica = FakeReplica(overdue=("a/slow.png",))
    with (
        LocalExecutor(replica, num_leases=1, max_attempts=2, retry_delay_s=0) as executor,
        pytest.raises(StuckError, match=r"a/slow\.png was not done"),
    ):
        executor.run(shards(5), num_shards=5, resuming=False, on_progress=lambda _: None)
    assert replica.stopped
    assert not replica.closed, "closing would wait for the thread that does not end"


def test_an_interrupt_does_not_wait_for_an_image_that_never_ends() -> None:
    """It is not overdue when the interrupt comes, but some time later."""
    release = threading.Event()

    class Hanging(FakeReplica):
        def convert(self, lease: Lease, adopt: bool) -> ShardResult:
            release.wait(60)
            return super().convert(lease, adopt)

        def stop(self) -> None:
            super().stop()
            self.overdue = ("a.png",)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    try:
        with (
            LocalExecutor(Hanging(), num_leases=1, max_attempts=2, retry_delay_s=0) as executor,
            pytest.raises(StuckError, match="not done within its deadline"),
        ):
            executor.run(shards(5), num_shards=5, resuming=False, on_progress=interrupt)
    finally:
        release.set()


def test_a_shard_that_takes_too_long_stops_the_job() -> None:
    release = threading.Event()

    class Slow(FakeReplica):
        def convert(self, lease: Lease, adopt: bool) -> ShardResult:
            release.wait(60)
            return super().convert(lease, adopt)

    try:
        with (
            LocalExecutor(Slow(), num_leases=1, max_attempts=2, shard_timeout_s=0.01, retry_delay_s=0) as executor,
            pytest.raises(StuckError, match="shard 0 was not done"),
        ):
            executor.run(shards(1), num_shards=1, resuming=False, on_progress=lambda _: None)
    finally:
        release.set()
