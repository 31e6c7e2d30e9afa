from __future__ import annotations

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import ObjectExistsError, TransientStorageError
from pipeline.storage.retry import RetryPolicy, num_retries


class Flaky:
    """Fails with `error` for the first `num_failures` calls."""

    def __init__(self, num_failures: int, error: Exception) -> None:
        self.num_failures = num_failures
        self.error = error
        self.num_calls = 0

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise self.error
        return "done"


def test_transient_faults_are_retried_with_growing_jitter() -> None:
    waits: list[float] = []
    flaky = Flaky(5, TransientStorageError("busy"))
    assert RetryPolicy(max_attempts=6, max_retry_s=1000, sleep=waits.append).call(flaky) == "done"
    assert flaky.num_calls == 6
    assert len(waits) == 5
    assert all(0 <= wait <= 0.25 * 2**index for index, wait in enumerate(waits))


def test_jitter_is_full() -> None:
    waits: list[float] = []
    for _ in range(200):
        RetryPolicy(max_attempts=3, max_retry_s=1000, sleep=waits.append).call(Flaky(2, TransientStorageError("busy")))
    second = waits[1::2]
    assert max(second) <= 0.5
    assert min(second) < 0.1
    assert max(second) > 0.4
    assert len(set(second)) > 150


def test_attempts_are_bounded_and_told() -> None:
    flaky = Flaky(100, TransientStorageError("s3://b/k: busy"))
    with pytest.raises(TransientStorageError, match=r"s3://b/k: busy; gave up after 4 attempts") as caught:
        RetryPolicy(max_attempts=4, max_retry_s=1000, sleep=lambda _: None).call(flaky)
    assert flaky.num_calls == 4
    assert caught.value.__cause__ is flaky.error


class Clock:
    """A clock that only the operation and the waits advance."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize("attempt_s", [0.0, 0.5, 7.0, 60.0])
def test_no_attempt_starts_after_the_time_is_up(attempt_s: float) -> None:
    """Whatever an attempt takes: the last one starts within the time, and the error says how long it all took."""
    clock = Clock()
    starts: list[float] = []

    def operation() -> None:
        starts.append(clock.now_s)
        clock.advance(attempt_s)
        raise TransientStorageError("busy")

    policy = RetryPolicy(max_attempts=1000, max_retry_s=120, sleep=clock.advance, clock=clock)
    with pytest.raises(TransientStorageError) as caught:
        policy.call(operation)
    assert len(starts) > 1
    assert max(starts) < 120
    assert clock.now_s < 120 + attempt_s
    assert str(caught.value) == f"busy; gave up after {len(starts)} attempts in {clock.now_s:.0f} s"


def test_waits_are_capped() -> None:
    waits: list[float] = []
    with pytest.raises(TransientStorageError):
        RetryPolicy(max_attempts=200, max_retry_s=1e9, sleep=waits.append).call(Flaky(999, TransientStorageError("x")))
    assert 19 < max(waits) <= 20


@pytest.mark.parametrize(("asked_s", "least_s"), [(3.0, 3.0), (3600.0, 20.0)])
def test_the_store_is_left_alone_for_as_long_as_it_asks(asked_s: float, least_s: float) -> None:
    """On top there is jitter still: a fleet that was told the same does not come back together."""
    busy = TransientStorageError("busy")
    busy.retry_after_s = asked_s
    waits: list[float] = []
    for _ in range(100):
        RetryPolicy(max_attempts=2, max_retry_s=1000, sleep=waits.append).call(Flaky(1, busy))
    assert all(least_s <= wait <= least_s + 0.25 for wait in waits)
    assert max(waits) - min(waits) > 0.2


def test_asking_for_long_does_not_prolong_the_bound() -> None:
    busy = TransientStorageError("busy")
    busy.retry_after_s = 15.0
    clock = Clock()
    flaky = Flaky(100, busy)
    with pytest.raises(TransientStorageError):
        RetryPolicy(max_attempts=100, max_retry_s=40, sleep=clock.advance, clock=clock).call(flaky)
    assert flaky.num_calls == 3
    assert clock.now_s < 40


def test_time_is_bounded() -> None:
    flaky = Flaky(100, TransientStorageError("busy"))
    with pytest.raises(TransientStorageError, match=r"^busy$"):
        RetryPolicy(max_attempts=20, max_retry_s=0.0, sleep=lambda _: None).call(flaky)
    assert flaky.num_calls == 1


def test_other_errors_pass_at_once() -> None:
    for error in (ObjectExistsError("there"), ValueError("bug")):
        flaky = Flaky(100, error)
        with pytest.raises(type(error)):
            RetryPolicy(max_attempts=4, max_retry_s=1000, sleep=lambda _: None).call(flaky)
        assert flaky.num_calls == 1


def test_bounds_come_from_the_configuration() -> None:
    policy = RetryPolicy.from_config(StorageConfig(max_attempts=1))
    flaky = Flaky(1, TransientStorageError("busy"))
    with pytest.raises(TransientStorageError, match=r"^busy$"):
        policy.call(flaky)


def test_what_is_tried_again_is_counted() -> None:
    before = num_retries()
    RetryPolicy(max_attempts=4, max_retry_s=1000, sleep=lambda _: None).call(Flaky(0, TransientStorageError("busy")))
    assert num_retries() == before
    RetryPolicy(max_attempts=4, max_retry_s=1000, sleep=lambda _: None).call(Flaky(2, TransientStorageError("busy")))
    assert num_retries() == before + 2
