from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.plan_source import SourceEstimate, estimate_source
from pipeline.codecs.dimensions import HEAD_BYTES
from pipeline.codecs.formats import PNG_SIGNATURE
from pipeline.config import ShardingConfig, SourceConfig
from pipeline.errors import ObjectMissingError, SourceError, TransientStorageError
from pipeline.records import ImageTask
from pipeline.sharding import SourceListing, estimate_megapixels


def png_head(width: int, height: int) -> bytes:
    return PNG_SIGNATURE + struct.pack(">I4sII", 13, b"IHDR", width, height)


class HeadStore:
    """Holds the first bytes of objects and refuses to give a whole one."""

    url = "memory://heads"
    has_atomic_create = True

    def __init__(self, heads: dict[str, bytes]) -> None:
        self.heads = heads
        self.asked: list[tuple[str, int, int]] = []

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        self.asked.append((key, start, num_bytes))
        if key not in self.heads:
            raise ObjectMissingError(f"{key}: no such object")
        return self.heads[key][start : start + num_bytes]


def listing(store: Any, names: list[str], size_bytes: int = 1_000_000) -> SourceListing:
    def entries(_counts: object, _wanted: object) -> Iterator[ImageTask]:
        return (ImageTask(name, name, size_bytes, "e") for name in names)

    return SourceListing(SourceConfig(url="/photos"), "/photos", store, entries, by_extension=True, needs_stat=False)


def estimate(store: Any, names: list[str], num_headers: int, seed: int = 0) -> SourceEstimate:
    return estimate_source(listing(store, names), ShardingConfig(), num_headers=num_headers, seed=seed)


def library(count: int) -> tuple[HeadStore, list[str], float]:
    """Images of log-normal size, as those of several cameras and of thumbnails are."""
    sizes = random.Random(5)
    heads = {f"{index:05d}.png": png_head(int(sizes.lognormvariate(7, 0.6)) + 1, 1000) for index in range(count)}
    total = sum(int.from_bytes(head[16:20], "big") / 1000 for head in heads.values())
    return HeadStore(heads), list(heads), total


def test_all_headers_give_the_exact_pixels() -> None:
    store, names, total = library(50)
    found = estimate(store, names, 50)
    assert found.megapixels == pytest.approx(total)
    assert found.megapixels_low == found.megapixels_high == found.megapixels
    assert (found.num_images, found.num_bytes, found.num_sampled) == (50, 50_000_000, 50)
    assert len(store.asked) == 50


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    store, names, total = library(2000)
    held = 0
    for seed in range(200):
        found = estimate(store, names, 60, seed)
        assert found.megapixels_low is not None
        assert found.megapixels_high is not None
        assert found.megapixels_low <= found.megapixels <= found.megapixels_high
        held += found.megapixels_low <= total <= found.megapixels_high
    assert 0.90 <= held / 200 <= 0.99


def test_the_sample_is_that_of_its_seed_and_reads_no_more_than_heads() -> None:
    store, names, _ = library(500)
    first = estimate(store, names, 20, seed=3)
    assert {num_bytes for _, _, num_bytes in store.asked} == {HEAD_BYTES}
    assert len({key for key, _, _ in store.asked}) == 20
    assert estimate(store, names, 20, seed=3) == first
    assert estimate(store, names, 20, seed=4) != first


def test_what_is_no_image_counts_as_no_pixels_and_is_named() -> None:
    store = HeadStore({"a.png": png_head(2000, 1000), "b.png": b"GIF89a"})
    found = estimate(store, ["a.png", "b.png", "gone.png"], 10)
    assert found.megapixels == pytest.approx(2.0)
    assert (found.num_unreadable, found.unreadable_examples) == (2, ("b.png", "gone.png"))


def test_a_header_that_does_not_say_is_guessed_from_bytes() -> None:
    store = HeadStore({"a.jpg": b"\xff\xd8\xff\xe1" + bytes(HEAD_BYTES)})
    found = estimate(store, ["a.jpg"], 10)
    assert (found.num_unknown, found.megapixels) == (1, estimate_megapixels(ImageTask("a.jpg", "a.jpg", 1_000_000, "")))


def test_without_headers_nothing_is_read_and_no_interval_claimed() -> None:
    store = HeadStore({})
    found = estimate(store, ["a.jpg", "b.jpg"], 0)
    assert (found.megapixels, found.megapixels_low, found.megapixels_high) == (16.0, None, None)
    assert store.asked == []


def test_shards_are_those_of_a_plan() -> None:
    store, names, _ = library(200)
    assert estimate(store, names, 1).num_shards == 4


def test_a_store_that_fails_is_one_line() -> None:
    class Failing(HeadStore):
        def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
            raise TransientStorageError("s3://b/a.png: no answer")

    with pytest.raises(SourceError, match=r"cannot read the source: s3://b/a\.png"):
        estimate(Failing({}), ["a.png"], 1)
