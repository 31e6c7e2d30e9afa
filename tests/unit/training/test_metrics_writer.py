"""Metrics: one row an interval, nothing double after a resume, the same on an object store."""

from __future__ import annotations

import csv
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from training_runs import memory_store

from pipeline.config import StorageConfig
from pipeline.storage import ObjectStore, open_store
from pipeline.training.events import CheckpointSaved, Started, StepDone, Validated
from pipeline.training.metrics import METRICS_CSV, VALIDATION_CSV, MetricsWriter


def step(number: int, *, loss: float = 1.0, is_skipped: bool = False) -> StepDone:
    return StepDone(
        step=number,
        num_steps=100,
        done=number / 100,
        elapsed_s=float(number),
        loss=loss,
        parts={"tanh_l1": loss / 2},
        learning_rate=1e-3,
        grad_norm=0.5,
        num_patches=4,
        seconds=2.0,
        data_wait_s=0.5,
        is_skipped=is_skipped,
        num_skipped=int(is_skipped),
    )


def rows(store: ObjectStore, key: str = METRICS_CSV) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(store.read(key).decode())))


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return open_store(str(tmp_path / "out"), StorageConfig())
    return memory_store(f"metrics-{tmp_path.name}")


def writer(store: ObjectStore, *, tensorboard: bool = False) -> MetricsWriter:
    return MetricsWriter(store, log_every_steps=2, tensorboard=tensorboard)


def test_a_row_holds_the_means_of_its_interval(store: ObjectStore) -> None:
    with writer(store) as metrics:
        metrics(Started(0, 0.0))
        for number, loss in enumerate([1.0, 3.0, 5.0, 6.0, 9.0], start=1):
            metrics(step(number, loss=loss))
    found = rows(store)
    assert [(row["step"], row["loss"], row["tanh_l1"]) for row in found] == [
        ("2", "2", "1"),
        ("4", "5.5", "2.75"),
        ("5", "9", "4.5"),
    ]
    assert found[0]["patches_per_s"] == "2"
    assert found[0]["data_wait_share"] == "0.25"


def test_skipped_steps_do_not_enter_the_means(store: ObjectStore) -> None:
    with writer(store) as metrics:
        metrics(Started(0, 0.0))
        metrics(step(1, loss=4.0))
        metrics(step(2, loss=float("inf"), is_skipped=True))
        metrics(step(3, loss=float("nan"), is_skipped=True))
        metrics(step(4, loss=float("nan"), is_skipped=True))
    assert [row["loss"] for row in rows(store)] == ["4", "nan"]
    assert rows(store)[0]["num_skipped"] == "1"


def test_a_resumed_run_has_every_row_once(store: ObjectStore) -> None:
    with writer(store) as metrics:
        metrics(Started(0, 0.0))
        for number in range(1, 9):
            metrics(step(number, loss=1.0))
            if number % 4 == 0:
                metrics(Validated(number, 1.0, {"loss": 1.0}, 1.0, is_best=True))
    with writer(store) as metrics:
        metrics(Started(4, 4.0))
        for number in range(5, 11):
            metrics(step(number, loss=2.0))
            if number % 4 == 0:
                metrics(Validated(number, 1.0, {"loss": 2.0}, 2.0, is_best=False))
    assert [(row["step"], row["loss"]) for row in rows(store)] == [
        ("2", "1"),
        ("4", "1"),
        ("6", "2"),
        ("8", "2"),
        ("10", "2"),
    ]
    assert [(row["step"], row["loss"], row["is_best"]) for row in rows(store, VALIDATION_CSV)] == [
        ("4", "1", "1"),
        ("8", "2", "0"),
    ]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"), StorageConfig())
    with writer(store) as metrics:
        metrics(Started(0, 0.0))
        for number in range(1, 5):
            metrics(step(number))
    path = tmp_path / "out" / METRICS_CSV
    path.write_text(path.read_text()[:-9])
    with writer(store) as metrics:
        metrics(Started(4, 4.0))
        metrics(step(5))
        metrics(step(6))
    assert [row["step"] for row in rows(store)] == ["2", "6"]


def test_a_remote_store_has_the_rows_at_each_checkpoint() -> None:
    store = memory_store("metrics-at-checkpoint")
    with writer(store, tensorboard=True) as metrics:
        metrics(Started(0, 0.0))
        metrics(step(1))
        metrics(step(2))
        assert not list(store.list())
        metrics(CheckpointSaved(2, 2.0, 10))
        assert [row["step"] for row in rows(store)] == ["2"]
        metrics(step(3))
    assert [row["step"] for row in rows(store)] == ["2", "3"]
    (events,) = store.list("tensorboard")
    assert events.size_bytes > 0


def events_of(path: Path) -> list[Any]:
    from tensorboardX.proto.event_pb2 import Event

    data, at, events = path.read_bytes(), 0, []
    while at < len(data):  # TFRecord: length, its checksum, the record, its checksum
        (size,) = struct.unpack_from("<Q", data, at)
        events.append(Event.FromString(data[at + 12 : at + 12 + size]))
        at += size + 16
    return events


def test_tensorboard_files_hold_the_same_values(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"), StorageConfig())
    with writer(store, tensorboard=True) as metrics:
        metrics(Started(0, 0.0))
        metrics(step(1, loss=0.25))
        metrics(step(2, loss=0.75))
        metrics(Validated(2, 2.0, {"loss": 0.125}, 0.125, is_best=True))
    (path,) = (tmp_path / "out" / "tensorboard").iterdir()
    values = {(value.tag, event.step): value.simple_value for event in events_of(path) for value in event.summary.value}
    assert values["train/loss", 2] == 0.5
    assert values["validation/loss", 2] == 0.125
    assert values["train/patches_per_s", 2] == 2


@pytest.mark.parametrize("resumed_at", [0, 4])
def test_tensorboard_drops_the_points_of_steps_that_are_taken_again(tmp_path: Path, resumed_at: int) -> None:
    """Also where a run was killed before its first checkpoint, and begins at step 0 again."""
    from tensorboardX.proto.event_pb2 import SessionLog

    store = open_store(str(tmp_path / "out"), StorageConfig())
    with writer(store, tensorboard=True) as metrics:
        metrics(Started(resumed_at, 0.0))
    (path,) = (tmp_path / "out" / "tensorboard").iterdir()
    started = [event.step for event in events_of(path) if event.session_log.status == SessionLog.START]
    assert started == [resumed_at + 1]
