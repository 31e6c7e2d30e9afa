"""The first signal stops; what is being stopped is not killed by the second before it has said how to go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from jobs.signals import stopping_on_signals
from pipeline.errors import InterruptedJobError

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_are_put_back_after_work_that_nobody_stopped() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with stopping_on_signals():
        assert [signal.getsignal(number) for number in NUMBERS] != before
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("second", NUMBERS)
@pytest.mark.parametrize("first", NUMBERS)
def test_a_second_signal_disturbs_neither_the_clean_up_nor_the_message(
    first: signal.Signals, second: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InterruptedJobError), stopping_on_signals():
        os.kill(os.getpid(), first)
    os.kill(os.getpid(), second)  # its default would end this process
    assert "once more quits at once" in capsys.readouterr().err
