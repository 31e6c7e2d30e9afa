from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.lending import Lending, OpenImages, OpenWork, even_parts
from pipeline.records import ImageTask, Quarantine, Shard
from pipeline.sharding import estimate_megapixels

sizes = st.lists(st.integers(1, 4_000_000), max_size=30)


def tasks(*num_bytes: int) -> tuple[ImageTask, ...]:
    return tuple(ImageTask(f"{index}.jpg", f"{index}.jpg", size, "e") for index, size in enumerate(num_bytes))


def megapixels(part: tuple[ImageTask, ...]) -> float:
    return sum(map(estimate_megapixels, part))


def test_the_first_images_are_kept_and_the_others_are_nobody_elses_any_more() -> None:
    images = OpenImages(Shard(1, 7, tasks(*[1000] * 9)))
    assert images.claim(tasks(1000)[0])
    parts = images.cede(4)
    assert [[task.source for task in part] for part in parts] == [
        ["3.jpg", "6.jpg"],
        ["4.jpg", "7.jpg"],
        ["5.jpg", "8.jpg"],
    ]
    assert images.has_ceded
    assert images.left().num_images == 2
    assert not images.claim(parts[0][0])
    assert images.is_open(tasks(*[1000] * 9)[1])


def test_one_that_is_left_goes_to_who_has_nothing_to_do() -> None:
    images = OpenImages(Shard(1, 0, tasks(1000, 1000)))
    assert images.claim(tasks(1000)[0])
    assert [task.source for (task,) in images.cede(2)] == ["1.jpg"]
    assert images.left() == OpenWork((1, 0, 0), 0, 0.0)
    assert images.cede(2) == ()


def test_nothing_is_ceded_of_what_is_begun_or_in_quarantine_or_to_nobody() -> None:
    shard = Shard(1, 0, tasks(1000, 1000), quarantined=(Quarantine("1.jpg", "worker_crash", "died"),))
    images = OpenImages(shard)
    assert images.cede(1) == ()
    assert images.claim(shard.tasks[0])
    assert not images.claim(shard.tasks[0])
    assert images.cede(2) == ()
    assert not images.has_ceded


@given(sizes, st.integers(1, 9), st.integers(0, 30))
def test_every_image_is_kept_or_in_one_part_and_parts_are_even(num_bytes: list[int], num: int, begun: int) -> None:
    planned = tasks(*num_bytes)
    images = OpenImages(Shard(1, 0, planned))
    mine = [task for task in planned[:begun] if images.claim(task)]
    open_before = images.left().megapixels
    parts = images.cede(num)
    mine += [task for task in planned if images.claim(task)]
    assert sorted([*mine, *(task for part in parts for task in part)], key=planned.index) == list(planned)
    assert all(parts)
    assert len(parts) <= num - 1
    largest = max(map(estimate_megapixels, planned), default=0.0)
    assert megapixels(tuple(mine[begun:])) <= open_before / num * 1.001
    if parts:
        ceded = sum(map(megapixels, parts))
        assert max(map(megapixels, parts)) <= ceded / len(parts) + largest


@given(sizes, st.integers(0, 8))
def test_even_parts_lose_nothing_and_keep_the_order(num_bytes: list[int], num: int) -> None:
    planned = tasks(*num_bytes)
    parts = even_parts(planned, num)
    assert len(parts) == min(num, len(planned))
    if parts:
        assert sorted((task for part in parts for task in part), key=planned.index) == list(planned)
    assert all(list(part) == sorted(part, key=planned.index) for part in parts)


def test_an_image_is_done_by_one_side_however_both_hurry() -> None:
    for _ in range(30):
        planned = tasks(*[1000] * 64)
        images = OpenImages(Shard(1, 0, planned))
        together = threading.Barrier(2)
        ceded: list[ImageTask] = []

        def cede(images: OpenImages = images, together: threading.Barrier = together) -> None:
            together.wait(10)
            ceded.extend(task for _ in range(8) for part in images.cede(2) for task in part)  # noqa: B023

        other = threading.Thread(target=cede)
        other.start()
        together.wait(10)
        mine = [task for task in planned if images.claim(task)]
        other.join(10)
        assert sorted([*mine, *ceded], key=planned.index) == list(planned)


def test_a_worker_knows_what_it_has_at_work_and_cedes_nothing_else() -> None:
    lending = Lending()
    first, second = OpenImages(Shard(1, 0, tasks(1000, 1000))), OpenImages(Shard(1, 0, tasks(3000), part=2))
    with lending.at_work(first):
        with lending.at_work(second):
            assert [(work.key, work.num_images) for work in lending.open_work()] == [((1, 0, 0), 2), ((1, 0, 2), 1)]
            assert lending.cede((1, 0, 1), 2) == ()
            assert len(lending.cede((1, 0, 2), 2)) == 1
        assert [work.key for work in lending.open_work()] == [(1, 0, 0)]
        assert sum(work.megapixels for work in lending.open_work()) == pytest.approx(megapixels(tasks(1000, 1000)))
    assert lending.open_work() == ()
