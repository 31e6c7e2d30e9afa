"""What is listed twice is one where it agrees, and refused where it does not, however far apart the entries are."""

from __future__ import annotations

import random

import pytest

from pipeline.errors import SourceError
from pipeline.records import ImageTask
from pipeline.sharding import duplicates
from pipeline.sharding.duplicates import without_duplicates


def entry(number: int, etag: str = "e") -> ImageTask:
    return ImageTask(f"{number}.jpg", f"s3://b/{number}.jpg", 1, etag)


def only_once(tasks: list[ImageTask]) -> list[ImageTask]:
    return list(without_duplicates(tasks, lambda: tasks, "the list"))


@pytest.mark.parametrize("batch", [1, 2, 7, 2**16])
def test_equal_entries_are_one_and_the_first_keeps_its_place(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", batch)
    draw = random.Random(7)
    tasks = [entry(draw.randrange(150)) for _ in range(400)]
    assert only_once(tasks) == list(dict.fromkeys(tasks))


@pytest.mark.parametrize("batch", [1, 2, 2**16])
def test_entries_that_differ_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", batch)
    with pytest.raises(SourceError, match=r"^the list: 3\.jpg is listed more than once, with another bucket, size"):
        only_once([*map(entry, range(20)), entry(3, "other")])


def test_names_whose_digests_are_alike_by_chance_stay_two(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = duplicates._digest
    monkeypatch.setattr(duplicates, "_digest", lambda text: 5 if text in {"1.jpg", "4.jpg"} else digest(text))
    tasks = [entry(number) for number in range(6)]
    assert only_once(tasks) == tasks


def test_few_bytes_are_kept_for_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BATCH", 8)
    seen = duplicates._Seen()
    for start in range(0, 8_000, 8):
        seen.add({number: number for number in range(start, start + 8)})
    assert sum(names.nbytes + entries.nbytes for names, entries in seen._runs) == 16 * 8_000
    assert len(seen._runs) < 12, "each look-up goes through all of them"
