"""A run over several drivers: one beginning, one sum of what its workers cost."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from pipeline.errors import ConfigError
from pipeline.execution.account import SPENT_VARIABLE, STARTED_VARIABLE, open_account


def test_a_run_that_nobody_watches_over_begins_now_and_keeps_nothing() -> None:
    before = monotonic()
    account = open_account({})
    assert before <= account.started_at <= monotonic()
    assert (account.spent_worker_s, account.path) == (0.0, None)
    account.write(7.0)


def test_a_later_driver_goes_on_with_what_the_earlier_ones_spent(tmp_path: Path) -> None:
    environment = {STARTED_VARIABLE: "12.5", SPENT_VARIABLE: str(tmp_path / "spent")}
    first = open_account(environment)
    assert (first.started_at, first.spent_worker_s) == (12.5, 0.0)
    for spent_s in (10.0, 1234.5):
        first.write(spent_s)
    second = open_account(environment)
    assert (second.started_at, second.spent_worker_s) == (12.5, 1234.5)
    assert [path.name for path in tmp_path.iterdir()] == ["spent"]


def test_a_beginning_that_is_still_to_come_is_now() -> None:
    assert open_account({STARTED_VARIABLE: repr(monotonic() + 1e6)}).started_at <= monotonic()


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf"])
def test_values_that_are_no_seconds_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{STARTED_VARIABLE} is set by jobs.supervise.*unset it"):
        open_account({STARTED_VARIABLE: text})
    (tmp_path / "spent").write_text(text)
    with pytest.raises(ConfigError, match=SPENT_VARIABLE):
        open_account({SPENT_VARIABLE: str(tmp_path / "spent")})


def test_a_disk_that_does_not_take_it_does_not_end_the_job(tmp_path: Path) -> None:
    account = open_account({SPENT_VARIABLE: str(tmp_path / "not there" / "spent")})
    account.write(1.0)
    assert not list(tmp_path.iterdir())
