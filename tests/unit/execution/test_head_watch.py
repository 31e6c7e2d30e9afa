from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.execution import head_watch
from pipeline.execution.head_watch import HeadWatch


def test_a_head_that_is_silent_is_told_of_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers, told = [0.0], [True], list[str]()

    def check(address: str) -> None:
        assert address == "10.0.0.1:6379"
        if not answers[0]:
            raise ConfigError("cannot use Ray")

    monkeypatch.setattr(head_watch, "check_address", check)
    monkeypatch.setattr(head_watch, "monotonic", lambda: now[0])
    watch = HeadWatch("10.0.0.1:6379", told.append, silent_after_s=20)

    def look_at(second: float, *, is_up: bool) -> int:
        now[0], answers[0] = second, is_up
        watch.look()
        return len(told)

    assert [look_at(second, is_up=True) for second in (5, 10)] == [0, 0]
    assert [look_at(second, is_up=False) for second in (15, 29, 30, 35, 50)] == [0, 0, 1, 1, 1]
    assert told[0].startswith("the head of the Ray cluster (10.0.0.1:6379) has not answered for 20 s")
    assert [look_at(second, is_up=True) for second in (55, 60)] == [1, 1], "it is back"
    assert [look_at(second, is_up=False) for second in (65, 79, 80)] == [1, 1, 2]
