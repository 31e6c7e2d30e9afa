"""What is looked at when a job meets its store, at the place where it was made and at others."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from pipeline.storage import ObjectInfo
from pipeline.storage.memory import MemoryStore
from pipeline.store_verdict import DECLARED_WEAK, StoreVerdict, judge_store, place_of


class Looked(MemoryStore):
    """Counts what the probe creates; with `overwrites`, the condition means nothing to it."""

    def __init__(self, *, overwrites: bool = False) -> None:
        super().__init__(f"memory://{uuid4().hex}")
        self.overwrites = overwrites
        self.keys: set[str] = set()

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        self.keys.add(key)
        return self.replace(key, data) if self.overwrites else super().create(key, data, metadata=metadata)


def strong(place: str) -> StoreVerdict:
    return StoreVerdict(place=place, weakness=None, has_conditional_create=True)


def test_races_are_run_where_nobody_looked_yet() -> None:
    store = Looked()
    assert judge_store(store, []) == strong(place_of(store))
    num_new = len(store.keys)
    assert num_new > 10
    store.keys.clear()
    assert judge_store(store, [strong("memory://elsewhere")]) == strong(place_of(store))
    assert len(store.keys) == num_new
    store.keys.clear()
    assert judge_store(store, [strong("memory://elsewhere"), strong(place_of(store))]) == strong(place_of(store))
    assert store.keys == set(), "it was looked at already"


def test_a_job_that_is_moved_to_a_store_that_overwrites_becomes_weak() -> None:
    store = Looked(overwrites=True)
    verdict = judge_store(store, [strong("memory://elsewhere")])
    assert not verdict.has_conditional_create
    assert verdict.weakness is not None
    assert "overwrote" in verdict.weakness
    store.keys.clear()
    assert judge_store(store, [strong("memory://elsewhere"), verdict]) == verdict
    assert store.keys == set(), "nothing worse can be found"


def test_a_weak_job_stays_weak_on_a_store_that_decides_races() -> None:
    store = Looked()
    weak = StoreVerdict(place="memory://elsewhere", weakness="2 won", has_conditional_create=True)
    assert judge_store(store, [weak]) == weak.model_copy(update={"place": place_of(store)})
    assert judge_store(store, [weak], is_declared_weak=True).weakness == "2 won"
    assert len({key.rpartition("-")[0] for key in store.keys}) == 2
    assert len(store.keys) == 2


def test_what_is_declared_weak_is_tried_for_overwriting_alone() -> None:
    store = Looked()
    assert judge_store(store, [], is_declared_weak=True).weakness == DECLARED_WEAK
    assert len(store.keys) == 1
    assert judge_store(store, [strong(place_of(store))], is_declared_weak=True).weakness == DECLARED_WEAK
    assert len(store.keys) == 1
    assert not judge_store(Looked(overwrites=True), [], is_declared_weak=True).has_conditional_create
