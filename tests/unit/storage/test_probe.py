from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from pipeline.config import StorageConfig
from pipeline.errors import DestinationError, ObjectExistsError
from pipeline.storage import ObjectInfo, open_store
from pipeline.storage.memory import MemoryStore
from pipeline.storage.probe import probe_store


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
