from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from pipeline import driver_lease
from pipeline.config import StorageConfig
from pipeline.driver_lease import acquire_lease, require_epoch
from pipeline.errors import (
    DestinationInUseError,
    LeaseLostError,
    ManifestError,
    ObjectDeniedError,
    TransientStorageError,
)
from pipeline.lease_record import LeaseRecord, newest_epoch, read_lease
from pipeline.storage import ObjectStore, open_store


@pytest.fixture
def store() -> ObjectStore:
    return open_store(f"memory://{uuid4().hex}", StorageConfig())


class Clock:
    """Time that passes only while somebody waits; `then` happens at the first wait."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Iterator[None] = iter(())

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self.then, None)


def elsewhere(epoch: int, **values: object) -> LeaseRecord:
    record = {
        "epoch": epoch,
        "holder": "theirs",
        "host": "another-host",
        "boot": "another boot",
        "pid": 7,
        "process_started": "1",
        "timeout_s": 60.0,
        "acquired_at": "2026-01-01T00:00:00+00:00",
        "renewed_at": "2026-01-01T00:00:00+00:00",
    }
    return LeaseRecord.model_validate(record | values)


def put(store: ObjectStore, record: LeaseRecord) -> None:
    store.replace(f"_hdrfleet/lease/{record.epoch:06d}.json", record.model_dump_json().encode())


def own(store: ObjectStore, clock: Clock | None = None, timeout_s: float = 60.0) -> driver_lease.DriverLease:
    clock = clock or Clock()
    return acquire_lease(store, timeout_s=timeout_s, clock=clock, sleep=clock.sleep)


def test_epochs_count_up_and_a_released_destination_is_free_at_once(store: ObjectStore) -> None:
    clock = Clock()
    assert newest_epoch(store) == 0
    with own(store, clock) as first:
        assert first.epoch == 1
    with own(store, clock) as second:
        assert second.epoch == 2
        second.check()
    assert clock.now == 0
    record = read_lease(store)
    assert record is not None
    assert (record.epoch, record.released, record.pid) == (2, True, os.getpid())


def test_the_second_driver_of_one_machine_is_refused_at_once(store: ObjectStore) -> None:
    clock = Clock()
    with own(store), pytest.raises(DestinationInUseError, match=rf"in use .*{socket.gethostname()}, process"):
        own(store, clock)
    assert clock.now == 0


def test_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(store: ObjectStore) -> None:
    here = own(store)
    record = read_lease(store)
    assert record is not None
    put(store, record.model_copy(update={"process_started": "100"}))
    clock = Clock()
    assert own(store, clock).epoch == here.epoch + 1
    assert clock.now == 0


def test_another_machine_is_watched_for_the_whole_time_before_it_is_taken_over(store: ObjectStore) -> None:
    put(store, elsewhere(4))
    clock, notes = Clock(), []
    lease = acquire_lease(store, timeout_s=90, on_wait=notes.append, clock=clock, sleep=clock.sleep)
    assert lease.epoch == 5
    assert clock.now >= 90
    assert "another-host, process 7" in notes[0]


def test_another_machine_that_gives_a_sign_of_life_keeps_the_destination(store: ObjectStore) -> None:
    put(store, elsewhere(4))
    clock = Clock()

    def beat() -> Iterator[None]:
        for _ in range(10):
            yield
        put(store, elsewhere(4, beat=1))
        yield

    clock.then = beat()
    with pytest.raises(DestinationInUseError, match="another-host"):
        own(store, clock)
    assert 10 <= clock.now < 60
    assert newest_epoch(store) == 4


def test_a_release_while_watching_ends_the_wait(store: ObjectStore) -> None:
    put(store, elsewhere(4))
    clock = Clock()

    def release() -> Iterator[None]:
        put(store, elsewhere(4, released=True))
        yield

    clock.then = release()
    assert own(store, clock).epoch == 5
    assert clock.now < 5


def test_of_two_that_take_over_together_one_owns_it(store: ObjectStore) -> None:
    put(store, elsewhere(1, released=True))
    clock = Clock()
    create, mine = store.create, []

    def late(key: str, data: bytes, **options: object) -> object:
        if not mine:  # a competitor is quicker by a moment
            mine.append(create(key, elsewhere(2).model_dump_json().encode()))
        return create(key, data)

    store.create = late  # type: ignore[method-assign]
    with pytest.raises(DestinationInUseError, match="another-host"):
        own(store, clock)
    record = read_lease(store)
    assert record is not None
    assert record.holder == "theirs"


def test_a_lost_answer_to_ones_own_success_is_success(store: ObjectStore) -> None:
    create = store.create

    def twice(key: str, data: bytes, **options: object) -> object:
        create(key, data)
        return create(key, data)

    store.create = twice  # type: ignore[method-assign]
    assert own(store).epoch == 1


def test_on_a_store_that_does_not_decide_races_the_last_writer_owns_it(store: ObjectStore) -> None:
    clock = Clock()

    def overwrite() -> Iterator[None]:
        put(store, elsewhere(1))
        yield

    clock.then = overwrite()
    with pytest.raises(DestinationInUseError):
        acquire_lease(store, timeout_s=60, is_weak=True, clock=clock, sleep=clock.sleep)
    assert clock.now > 0


def test_a_driver_that_was_taken_over_stops_and_leaves_the_other_alone(store: ObjectStore) -> None:
    lease = own(store, timeout_s=0.06)
    with lease:
        put(store, elsewhere(lease.epoch + 1))
        lease._thread.join(30)  # the keeper ends when it sees the later epoch
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.check()
    record = read_lease(store)
    assert record is not None
    assert (record.holder, record.released) == ("theirs", False)


@pytest.mark.parametrize("error", [TransientStorageError("no answer"), RuntimeError("a bug in a client")])
def test_a_holder_keeps_giving_signs_of_life_whatever_its_store_raised(store: ObjectStore, error: Exception) -> None:
    replace, failures = store.replace, iter([True, True])

    def flaky(key: str, data: bytes) -> object:
        if next(failures, False):
            raise error
        return replace(key, data)

    lease = own(store, timeout_s=0.06)
    store.replace = flaky  # type: ignore[method-assign]
    with lease:
        for _ in range(500):
            record = read_lease(store)
            if record is not None and record.beat >= 5:
                break
            threading.Event().wait(0.01)
        lease.check()
    record = read_lease(store)
    assert record is not None
    assert record.beat >= 5
    assert record.released


def test_workers_of_an_earlier_epoch_commit_nothing(store: ObjectStore) -> None:
    require_epoch(store, 1)
    put(store, elsewhere(3))
    require_epoch(store, 3)
    with pytest.raises(LeaseLostError, match="epoch 3"):
        require_epoch(store, 2)


def test_a_lease_that_nobody_can_read_is_named(store: ObjectStore) -> None:
    store.create("_hdrfleet/lease/000002.json", b"{}")
    with pytest.raises(ManifestError, match=r"000002\.json"):
        own(store)


def test_a_dead_process_whose_parent_does_not_look_is_gone(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    own(store)
    monkeypatch.setattr(psutil.Process, "status", lambda self: psutil.STATUS_ZOMBIE)
    assert own(store).epoch == 2


def test_a_holder_that_may_be_silent_for_longer_is_watched_for_longer(store: ObjectStore) -> None:
    put(store, elsewhere(1, timeout_s=600.0))
    clock = Clock()
    assert own(store, clock, timeout_s=30).epoch == 2
    assert clock.now >= 600


def test_a_competitor_that_wrote_over_ones_own_epoch_is_noticed(store: ObjectStore) -> None:
    lease = own(store, timeout_s=0.06)
    with lease:
        put(store, elsewhere(lease.epoch))
        lease._thread.join(30)
        with pytest.raises(LeaseLostError, match="same epoch: another-host"):
            lease.check()


def test_a_holder_that_asks_before_a_step_gives_a_sign_of_life_and_sees_a_later_epoch(store: ObjectStore) -> None:
    with own(store) as lease:
        lease.confirm()
        record = read_lease(store)
        assert record is not None
        assert record.beat == 2
        put(store, elsewhere(lease.epoch + 1))
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.confirm()
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.check()
    own_epoch = LeaseRecord.model_validate_json(store.read("_hdrfleet/lease/000001.json"))
    assert (own_epoch.beat, own_epoch.released) == (2, False), "who lost it writes nothing more"


def test_where_a_lease_cannot_be_renewed_no_driver_starts(store: ObjectStore) -> None:
    def refused(key: str, data: bytes) -> object:
        raise ObjectDeniedError(f"{key}: may not be replaced")

    store.replace = refused  # type: ignore[method-assign]
    with pytest.raises(ObjectDeniedError, match="may not be replaced"):
        own(store)


def test_a_step_waits_for_a_store_that_cannot_be_asked(store: ObjectStore) -> None:
    def silent(key: str, data: bytes) -> object:
        raise TransientStorageError("no answer")

    with own(store) as lease:
        store.replace, replace = silent, store.replace  # type: ignore[method-assign]
        with pytest.raises(TransientStorageError):
            lease.confirm()
        store.replace = replace  # type: ignore[method-assign]
        lease.check()
