"""What a run says of itself where standard error is no terminal."""

from __future__ import annotations

import pytest

from jobs import train_progress
from jobs.train_progress import TrainingReporter
from pipeline.training.events import ViewsTaken, WorkersAwaited


def test_the_pools_photographs_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(train_progress, "monotonic", lambda: now)
    with TrainingReporter().watch() as observe:
        for num_views, now in ((16, 104.0), (32, 105.0), (400, 200.0), (1000, 201.0)):  # noqa: B007
            observe(ViewsTaken(num_views, 1000))
    assert capsys.readouterr().err.splitlines() == [
        "photographs of the pool 16/1,000, about 4 min left",
        "photographs of the pool 400/1,000, about 2 min left",
        "photographs of the pool 1,000/1,000",
    ]


def test_a_wait_for_workers_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingReporter().watch() as observe:
        observe(WorkersAwaited("waiting for workers"))
    assert capsys.readouterr().err == "waiting for workers\n"


def test_nothing_is_said_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingReporter(quiet=True).watch() as observe:
        observe(ViewsTaken(16, 16))
    assert capsys.readouterr().err == ""
