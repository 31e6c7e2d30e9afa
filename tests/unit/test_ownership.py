"""When a process asks whether it still owns a destination."""

from __future__ import annotations

import pytest

from pipeline.errors import LeaseLostError, TransientStorageError
from pipeline.ownership import Ownership


class Asked:
    def __init__(self) -> None:
        self.now_s, self.num_asked = 100.0, 0
        self.answer: Exception | None = None

    def __call__(self) -> None:
        self.num_asked += 1
        if self.answer:
            raise self.answer


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def ownership(asked: Asked) -> Ownership:
    return Ownership(asked, fresh_s=30, clock=lambda: asked.now_s)


def test_an_answer_holds_for_its_time(asked: Asked, ownership: Ownership) -> None:
    for now_s, num_asked in ((100.0, 1), (129.0, 1), (130.0, 2), (131.0, 2), (400.0, 3)):
        asked.now_s = now_s
        ownership.require()
        assert asked.num_asked == num_asked


def test_who_slept_asks(asked: Asked, ownership: Ownership) -> None:
    ownership.require()
    asked.answer = LeaseLostError("taken over")
    ownership.require()
    asked.now_s += 181
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            ownership.require()


def test_a_question_without_an_answer_is_asked_again(asked: Asked, ownership: Ownership) -> None:
    asked.answer = TransientStorageError("no answer")
    with pytest.raises(TransientStorageError):
        ownership.require()
    asked.answer = None
    ownership.require()
    assert asked.num_asked == 2


def test_confirm_always_asks_and_counts(asked: Asked, ownership: Ownership) -> None:
    for _ in range(3):
        ownership.confirm()
    ownership.require()
    assert asked.num_asked == 3
