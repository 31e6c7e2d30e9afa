from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import ClassVar

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import DestinationError, ObjectExistsError, TransientStorageError
from pipeline.storage import ObjectInfo, open_store
from pipeline.storage.memory import MemoryStore
from pipeline.storage.probe import probe_store, require_writable


class LosesAnswers(MemoryStore):
    """The first success of each of the first `num_keys` keys is reported as if it were another's."""

    num_keys = 1

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._lost: set[str] = set()
        self._guard = threading.Lock()

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        info = super().create(key, data, metadata=metadata)
        with self._guard:
            is_lost = key not in self._lost and len(self._lost) < self.num_keys
            self._lost.add(key)
        if is_lost:
            raise ObjectExistsError("already there: the answer to our own success was lost")
        return info


@pytest.mark.parametrize("num_keys", [1, 2, 4])
def test_an_answer_that_is_lost_makes_no_store_weak(num_keys: int) -> None:
    """The store decides every race; only its answers to the winners get lost on the way."""
    store = LosesAnswers(f"memory://probe-lost-{num_keys}")
    store.num_keys = num_keys
    probe = probe_store(store)
    assert probe.atomic, probe.reason
    assert list(store.list()) == []


@pytest.mark.parametrize("operation", ["create", "read"])
def test_what_was_tried_with_an_output_leaves_nothing_behind_where_no_answer_comes(operation: str) -> None:
    class Silent(MemoryStore):
        def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
            info = super().create(key, data, metadata=metadata)
            if operation == "create":
                raise TransientStorageError("the answer is lost")
            return info

        def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
            raise TransientStorageError("no answer")

    store = Silent(f"memory://probe-silent-{operation}")
    with pytest.raises(TransientStorageError):
        require_writable(store, "images/.hdrfleet-probe")
    assert list(store.list()) == []


def test_a_store_that_says_no_to_everything_cannot_be_written() -> None:
    class Refuses(MemoryStore):
        def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
            raise ObjectExistsError("already there")

    with pytest.raises(DestinationError, match="cannot be written"):
        probe_store(Refuses("memory://probe-refuses"))


def test_declared_weakness_is_kept() -> None:
    probe = probe_store(open_store("memory://probe-weak", StorageConfig(), atomic_create=False))
    assert not probe.atomic
    assert not probe.overwrites


class DecidesSometimes(MemoryStore):
    """As Swift was measured: creates in sequence are safe, and of those that race one wins in 32 rounds of 100."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__(url)
        self._chance = random.Random(seed)
        self._guard = threading.Lock()
        self._decides: dict[str, bool] = {}

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        with self._guard:
            decides = self._decides.setdefault(key, key.endswith("-0") or self._chance.random() < 0.32)
        return super().create(key, data, metadata=metadata) if decides else self.replace(key, data)


def test_a_store_that_decides_one_race_in_three_is_found_weak_each_time() -> None:
    """With three rounds, one in thirty would pass."""
    passed = [seed for seed in range(200) if probe_store(DecidesSometimes(f"memory://probe-luck-{seed}", seed)).atomic]
    assert passed == []


def test_the_probe_ends_at_the_first_race_that_comes_out_wrong() -> None:
    class Counts(DecidesSometimes):
        keys: ClassVar[set[str]] = set()

        def delete(self, key: str) -> None:
            self.keys.add(key)
            super().delete(key)

    store = Counts("memory://probe-ends", seed=3)
    assert not probe_store(store).atomic
    assert 2 <= len(store.keys) < 10
    assert list(store.list()) == []
