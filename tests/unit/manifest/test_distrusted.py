"""Records of what a repair found bad: each output once, seen by attempts that began before."""

from __future__ import annotations

import pytest
from manifest_builders import DictStore

from pipeline.errors import ManifestError
from pipeline.manifest import DistrustedOutputs
from pipeline.manifest.distrusted import read_distrusted, record_distrust


def test_an_output_is_recorded_once_and_records_add_up() -> None:
    store = DictStore()
    record_distrust(store, ["images/b.exr", "images/a.exr", "images/b.exr"])
    first = dict(store.objects)
    record_distrust(store, ["images/a.exr"])
    record_distrust(store, [])
    assert store.objects == first
    record_distrust(store, ["images/a.exr", "images/c.exr"])
    assert len(store.objects) == 2
    assert read_distrusted(store) == {"images/a.exr", "images/b.exr", "images/c.exr"}


def test_two_repairs_that_find_the_same_write_the_same() -> None:
    one, other = DictStore(), DictStore()
    record_distrust(one, ["x", "y"])
    record_distrust(other, ["y", "x"])
    assert one.objects == other.objects
    other.lose_answer = True
    record_distrust(other, ["z"])
    assert read_distrusted(other) == {"x", "y", "z"}


def test_an_attempt_learns_of_new_records_when_it_looks_and_reads_each_once() -> None:
    store = DictStore()
    seen = DistrustedOutputs(store)
    assert "x" not in seen
    record_distrust(store, ["x"])
    assert "x" not in seen
    seen.refresh()
    assert "x" in seen
    store.reads.clear()
    seen.refresh()
    assert store.reads == []


def test_what_is_not_what_was_recorded_is_an_error() -> None:
    store = DictStore()
    record_distrust(store, ["x"])
    (key,) = store.objects
    for damaged in (b"", store.objects[key][:-1], b"PAR1"):
        store.objects[key] = damaged
        with pytest.raises(ManifestError, match="SHA-256 differs"):
            read_distrusted(store)
