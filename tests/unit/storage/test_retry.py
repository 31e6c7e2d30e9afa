from __future__ import annotations

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import ObjectExistsError, TransientStorageError
from pipeline.storage.retry import RetryPolicy


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
