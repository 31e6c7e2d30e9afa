"""Decisions about workers at the destination: one object each, in order, and no leftover to anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.scaling_log import ScalingLog
from pipeline.config import StorageConfig
from pipeline.errors import ManifestError
from pipeline.execution.base import Progress
from pipeline.scaling_record import SCALING_PREFIX, ScalingEvent, append_event, read_events
from pipeline.storage import ObjectStore, open_store


def event(second: int, delta: int) -> ScalingEvent:
    return ScalingEvent(at=f"2026-01-01T00:00:{second:02}.250+00:00", delta=delta, num_workers=2, reason="because")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path), StorageConfig())


def test_decisions_are_read_in_the_order_of_time_even_those_of_one_second(store: ObjectStore) -> None:
    told = [event(9, 1), event(9, 2), event(10, -1), event(10, 3)]
    keys = [append_event(store, one) for one in told]
    assert keys == sorted(set(keys))
    assert keys[1] == "_hdrfleet/scaling/20260101T000009Z-000002.json"
    assert read_events(store) == told
    assert read_events(store, last=1) == told[-1:]
    assert (read_events(store, last=0), read_events(store, last=9)) == ([], told)


def test_what_is_no_decision_is_named(store: ObjectStore) -> None:
    store.create(f"{SCALING_PREFIX}/notes.txt", b"not ours")
    assert read_events(store) == []
    store.create(f"{SCALING_PREFIX}/20260101T000009Z-000001.json", b"{}")
    with pytest.raises(ManifestError, match=r"000001\.json is not a scaling decision"):
        read_events(store)


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def watch(self, num_images: int) -> Told:
        raise NotImplementedError

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def __call__(self, counts: Progress) -> None: ...


def test_a_store_that_takes_no_record_costs_one_warning_and_not_the_job(store: ObjectStore, tmp_path: Path) -> None:
    told = Told()
    (tmp_path / "_hdrfleet").write_bytes(b"a file where a folder has to be")
    log = ScalingLog(store, told)
    log(event(1, 2))
    log(event(2, -1))
    assert told.notes == ["workers +2, now 2: because", "workers -1, now 2: because"]
    (warning,) = told.warnings
    assert "are not recorded" in warning


def test_what_is_a_warning_is_said_as_one_and_kept_like_the_others(store: ObjectStore) -> None:
    told = Told()
    warning = event(1, 0).model_copy(update={"is_warning": True})
    ScalingLog(store, told)(warning)
    assert (told.notes, told.warnings) == ([], ["workers +0, now 2: because"])
    assert read_events(store) == [event(1, 0)]
