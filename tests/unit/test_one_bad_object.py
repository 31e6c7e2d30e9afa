"""An object that its store fails for while it answers for others costs one row; a store that fails costs no row."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from fakes import FakeEngine, HookedStore
from photographs import jpeg, picture
from unprivileged import without_override

from pipeline.config import SourceConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import (
    CredentialsError,
    DestinationError,
    HdrfleetError,
    ObjectDeniedError,
    SourceUnreadableError,
    StorageError,
    TransientStorageError,
)
from pipeline.manifest import completed_shards, open_manifest
from pipeline.records import ImageTask, Provenance, Shard
from pipeline.sharding import output_key, require_short_prefix, source_store
from pipeline.sharding.names import TRIAL_KEY
from pipeline.source_reader import SourceReader
from pipeline.storage import open_store

NAMES = ("in/a.jpg", "in/b.jpg", "in/c.jpg")
BAD = "in/b.jpg"
PASSES = TransientStorageError("503 time and again")
LASTS = StorageError("500 this object's disk is broken")


class World:
    """Three photographs and what converts them, between stores that fail on demand."""

    def __init__(self) -> None:
        self.source, self.store = (HookedStore(open_store(f"memory://{uuid4().hex}", StorageConfig())) for _ in "ab")
        infos = [self.source.create(name, jpeg(picture(16, 12, seed))) for seed, name in enumerate(NAMES)]
        self.shard = Shard(1, 0, tuple(ImageTask(info.key, info.key, info.size_bytes, info.etag) for info in infos))
        config = build_config(source={"url": "s"}, destination={"url": "d"})
        self.converter = ShardConverter(
            source=self.source,
            destination=self.store,
            engine=FakeEngine(),
            config=config,
            provenance=Provenance("0", "fake", "f" * 64, config.pixel_digest(), "w", "n"),
        )

    def fail(self, store: HookedStore, operation: str, text: str, error: Exception) -> list[str]:
        """Let every such operation raise; returns the keys that were asked for, as they come."""
        asked: list[str] = []

        def before(found: str, key: str) -> None:
            if found == operation:
                asked.append(key)
                if text in key:
                    raise error

        store.before = before
        return asked

    def run(self, *, is_last: bool) -> dict[str, str | None]:
        try:
            self.converter.run(self.shard, 2 if is_last else 1, adopt=is_last, is_last=is_last)
        finally:
            self.source.before = self.store.before = lambda _operation, _key: None
        rows = open_manifest(self.store).current.to_pylist()
        return {row["source"]: row["error_code"] for row in rows}


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(("error", "is_last"), [(LASTS, False), (PASSES, True)])
def test_a_source_that_cannot_be_read_costs_its_row(world: World, error: StorageError, is_last: bool) -> None:
    world.fail(world.source, "read", BAD, error)
    assert world.run(is_last=is_last) == {"in/a.jpg": None, BAD: "source_unreadable", "in/c.jpg": None}
    assert world.converter.counts().failed_by_code == {"source_unreadable": 1}
    message = open_manifest(world.store).current.to_pylist()[1]["error_message"]
    assert "the source answers for others" in message
    assert str(error) in message


@pytest.mark.parametrize(("error", "is_last"), [(LASTS, False), (PASSES, True)])
def test_an_output_that_cannot_be_stored_costs_its_row(world: World, error: StorageError, is_last: bool) -> None:
    world.fail(world.store, "create", output_key(BAD, 1), error)
    assert world.run(is_last=is_last) == {"in/a.jpg": None, BAD: "output_refused", "in/c.jpg": None}
    names = {info.key for info in world.store.list("images")}
    assert names == {output_key(name, 1) for name in NAMES if name != BAD}, "what was tried is gone"


def test_what_may_pass_is_left_to_the_next_attempt(world: World) -> None:
    world.fail(world.source, "read", BAD, PASSES)
    with pytest.raises(TransientStorageError):
        world.run(is_last=False)
    assert completed_shards(world.store, 1) == set()
    assert world.run(is_last=True) == dict.fromkeys(NAMES)


def test_what_passes_meanwhile_costs_no_row(world: World) -> None:
    asked: list[str] = []

    def before(operation: str, key: str) -> None:
        if operation == "read" and key == BAD:
            asked.append(key)
            if len(asked) == 1:
                raise PASSES

    world.source.before = before
    assert world.run(is_last=True) == dict.fromkeys(NAMES)
    assert len(asked) >= 2


@pytest.mark.parametrize("error", [LASTS, PASSES])
@pytest.mark.parametrize(("side", "operation", "text"), [("source", "read", "in/"), ("store", "create", "images/")])
def test_a_store_that_fails_for_all_costs_no_row(
    world: World, error: StorageError, side: str, operation: str, text: str
) -> None:
    world.fail(getattr(world, side), operation, text, error)
    with pytest.raises(StorageError, match=str(error)):
        world.run(is_last=True)
    assert completed_shards(world.store, 1) == set()
    assert world.run(is_last=True) == dict.fromkeys(NAMES)


def test_an_image_alone_in_its_source_is_not_blamed(world: World) -> None:
    """Nothing tells whether its store answers at all."""
    for name in NAMES:
        if name != BAD:
            world.source.delete(name)
    world.shard = Shard(1, 0, tuple(task for task in world.shard.tasks if task.source == BAD))
    world.fail(world.source, "read", BAD, LASTS)
    with pytest.raises(StorageError, match="disk is broken"):
        world.run(is_last=True)


def test_rights_that_are_refused_end_the_job(world: World) -> None:
    asked = world.fail(world.store, "create", output_key(BAD, 1), ObjectDeniedError("403"))
    with pytest.raises(CredentialsError):
        world.run(is_last=True)
    assert TRIAL_KEY not in asked


@pytest.mark.parametrize("text", ["part", "images/"])
def test_an_attempt_that_failed_counts_no_image(world: World, text: str) -> None:
    key = {"part": "manifest/", "images/": "images/"}[text]
    world.fail(world.store, "create", key, PASSES)
    with pytest.raises(HdrfleetError):
        world.run(is_last=False)
    assert world.converter.counts().num_images == 0
    assert world.converter.settled_counts().num_images == 0
    world.run(is_last=True)
    assert world.converter.counts().num_images == world.converter.settled_counts().num_images == len(NAMES)


def test_a_probe_counts_no_image(world: World) -> None:
    shard = Shard(1, 0, world.shard.tasks[:1], is_probe=True)
    world.converter.run(shard)
    assert world.converter.counts().num_images == 0


def test_images_at_work_are_counted_and_not_settled(world: World) -> None:
    seen: list[tuple[int, int]] = []

    def before(operation: str, key: str) -> None:
        if operation == "create" and key.startswith("manifest/"):
            counts, settled = world.converter.counts(), world.converter.settled_counts()
            seen.append((counts.num_images, settled.num_images))

    world.store.before = before
    world.run(is_last=False)
    assert seen == [(3, 0)]


@pytest.mark.parametrize(
    ("url", "num_bytes"),
    [("s3://bucket/{}", 123), ("gs://bucket/{}", 123), ("abfs://container/{}", 123), ("/srv/{}", 3194 - len("/srv/"))],
)
def test_the_longest_name_fits_below_the_longest_prefix(url: str, num_bytes: int) -> None:
    require_short_prefix(url.format("p" * num_bytes))
    with pytest.raises(DestinationError, match=r"one of at most [\d,]+$"):
        require_short_prefix(url.format("p" * (num_bytes + 1)))


def test_bytes_of_a_prefix_are_counted_and_not_characters() -> None:
    require_short_prefix("s3://bucket/" + "é" * 61)
    with pytest.raises(DestinationError):
        require_short_prefix("s3://bucket/" + "é" * 62)


def test_a_folder_that_may_not_be_read_is_no_sign_that_the_source_does_not_answer(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".Trashes").mkdir(mode=0)
    store = HookedStore(source_store(SourceConfig(url=str(tmp_path))))

    def before(operation: str, key: str) -> None:
        if operation == "read" and key.endswith("a.jpg"):
            raise LASTS

    store.before = before
    reader = SourceReader(store, 10, lambda: True)
    with without_override(), pytest.raises(SourceUnreadableError, match="answers for others"):
        reader.read(ImageTask("a.jpg", f"{tmp_path}/a.jpg", 1, ""))
