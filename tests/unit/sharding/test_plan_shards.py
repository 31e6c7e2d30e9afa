"""Cutting a listing into shards, and finding what has changed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ShardingConfig
from pipeline.records import ImageTask
from pipeline.sharding import changed_tasks, estimate_megapixels, plan_shards


def task(name: str, size_bytes: int = 1000, etag: str = "e") -> ImageTask:
    return ImageTask(name, name, size_bytes, etag)


TASKS = st.lists(
    st.builds(task, st.sampled_from(["a.jpg", "b.PNG", "c.tif", "d.heic", "e"]), st.integers(0, 40_000_000)),
    max_size=60,
)


@pytest.mark.parametrize(
    ("name", "size_bytes", "megapixels"),
    [
        ("a.jpg", 3_000_000, 24.0),
        ("a.PNG", 24_000_000, 48.0),
        ("a.heic", 1_000_000, 16.0),
        ("a", 1_000_000, 8.0),
        ("a.jpg", 0, 12.0),
    ],
)
def test_estimates(name: str, size_bytes: int, megapixels: float) -> None:
    assert estimate_megapixels(task(name, size_bytes)) == pytest.approx(megapixels)


@given(TASKS, st.integers(1, 10), st.floats(1, 500))
def test_shards_keep_order_and_limits(tasks: list[ImageTask], max_images: int, max_megapixels: float) -> None:
    config = ShardingConfig(max_images=max_images, max_megapixels=max_megapixels)
    shards = list(plan_shards(tasks, 3, config))
    assert [member for shard in shards for member in shard.tasks] == tasks
    assert [shard.shard for shard in shards] == list(range(len(shards)))
    assert {shard.plan for shard in shards} <= {3}
    sums = [sum(map(estimate_megapixels, shard.tasks)) for shard in shards]
    for shard, megapixels in zip(shards, sums, strict=True):
        assert 1 <= len(shard.tasks) <= max_images
        assert megapixels <= max_megapixels * (1 + 1e-9) or len(shard.tasks) == 1
    for (shard, megapixels), following in zip(zip(shards, sums, strict=True), shards[1:], strict=False):
        # No shard closes early: the next image would not have fitted.
        overflow = megapixels + estimate_megapixels(following.tasks[0]) > max_megapixels * (1 - 1e-9)
        assert len(shard.tasks) == max_images or overflow
    assert list(plan_shards(tasks, 3, config)) == shards


def test_planning_streams() -> None:
    endless = (task(f"{index}.jpg") for index in itertools.count())
    shards = plan_shards(endless, 1, ShardingConfig(max_images=2))
    assert [member.source for member in next(shards).tasks] == ["0.jpg", "1.jpg"]


def test_by_default_a_shard_holds_64_small_images_or_256_megapixels() -> None:
    small = plan_shards([task("a.jpg")] * 65, 1, ShardingConfig())
    assert [len(shard.tasks) for shard in small] == [64, 1]
    large = plan_shards([task("a.jpg", 8_000_000)] * 5, 1, ShardingConfig())  # 64 megapixels each
    assert [len(shard.tasks) for shard in large] == [4, 1]


def test_changed_tasks() -> None:
    known = {"same.jpg": ("e", 1), "changed.jpg": ("old", 4), "gone.jpg": ("e", 1), "unstable": ("", 1)}
    listing = [task("changed.jpg"), task("new.jpg"), task("same.jpg"), task("unstable", etag="")]
    found = list(changed_tasks(listing, known))
    assert [(each.source, each.revision, each.etag) for each in found] == [("changed.jpg", 5, "e"), ("new.jpg", 1, "e")]
