"""Outputs of earlier attempts that carry the right identity and are damaged: passed by, made anew, left to nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import numpy as np
import pytest
from fakes import FakeEngine, HookedStore
from photographs import jpeg, picture

from pipeline.codecs.exr import HdrImage, decode_exr, encode_exr
from pipeline.config import EncodeConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import ObjectDeniedError, ObjectExistsError, StorageError, TransientStorageError
from pipeline.manifest import completed_shards, open_manifest, part_key
from pipeline.records import ImageTask, Provenance, Shard, ShardResult
from pipeline.storage import ObjectInfo, ObjectStore, open_store

FIRST, SECOND = "images/a.jpg.exr", "images/a.jpg.v2.exr"
SIZE = (64, 48)


class World:
    """One photograph, and what converts it into a destination; with `damage`, over a damaged first output."""

    def __init__(self) -> None:
        self.source, self.store = (open_store(f"memory://{uuid4().hex}", StorageConfig()) for _ in range(2))
        info = self.source.create("a.jpg", jpeg(picture(*SIZE)))
        self.task = ImageTask("a.jpg", "a.jpg", info.size_bytes, info.etag)
        self.good = b""

    def run(self, attempt: int, *, adopt: bool, store: ObjectStore | None = None, plan: int = 1) -> ShardResult:
        config = build_config(source={"url": "s"}, destination={"url": "d"})
        provenance = Provenance("0", "fake", "f" * 64, config.pixel_digest(), f"worker {attempt}", "n")
        made = ShardConverter(
            source=self.source,
            destination=store or self.store,
            engine=FakeEngine(),
            config=config,
            provenance=provenance,
        )
        task = self.task if plan == 1 else replace(self.task, revision=plan)
        try:
            return made.run(Shard(plan, 0, (task,)), attempt, adopt=adopt)
        finally:
            made.close()

    def damage(self, change: Callable[[bytes], bytes]) -> bytes:
        """Let the first attempt have stored its output and died, and change what it stored."""
        self.run(1, adopt=False)
        self.store.delete(part_key(1, 0))
        self.good = self.store.read(FIRST)
        bad = change(self.good)
        assert bad != self.good
        self.store.replace(FIRST, bad)
        return bad

    def row(self) -> dict[str, Any]:
        (row,) = open_manifest(self.store).current.to_pylist()
        return row

    def require_row(self, output: str, *, adopted: bool) -> None:
        """The row names this output, and what is there under its name is the image."""
        row = self.row()
        assert (row["status"], row["output"], row["adopted"]) == ("ok", output, adopted)
        data = self.store.read(output)
        assert row["output_sha256"] == hashlib.sha256(data).hexdigest()
        assert data == self.good


@pytest.fixture
def world() -> World:
    return World()


def flipped(data: bytes) -> bytes:
    """The same header and offsets; the last bytes of the pixels are others."""
    return data[:-40] + bytes(byte ^ 0xFF for byte in data[-40:])


def remade(change: Callable[[HdrImage], HdrImage]) -> Callable[[bytes], bytes]:
    def make(data: bytes) -> bytes:
        old = decode_exr(data)
        assert old.identity is not None
        assert old.provenance is not None
        return encode_exr(change(old.image), EncodeConfig(), old.identity, old.provenance)

    return make


DAMAGES = {
    "pixels": flipped,
    "cut": lambda data: data[:-100],
    "another size": remade(lambda image: HdrImage(np.ascontiguousarray(image.pixels[:-1]), None)),
    "alpha": remade(lambda image: HdrImage(image.pixels, np.ones(image.pixels.shape[:2], image.pixels.dtype))),
}


@pytest.mark.parametrize("adopt", [True, False], ids=["looks first", "computes first"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_it_is_passed_by_and_the_image_made_anew(world: World, damage: Any, adopt: bool) -> None:
    bad = world.damage(damage)
    result = world.run(2, adopt=adopt)
    assert (result.num_ok, result.num_failed) == (1, 0)
    world.require_row(SECOND, adopted=False)
    assert world.store.read(FIRST) == bad, "evidence stays"


def test_a_later_attempt_adopts_what_was_made_in_its_place(world: World) -> None:
    world.damage(flipped)
    world.run(2, adopt=True)
    world.store.delete(part_key(1, 0))
    world.run(3, adopt=True)
    world.require_row(SECOND, adopted=True)


def test_a_source_that_was_touched_does_not_adopt_what_has_rotted_since(world: World) -> None:
    world.run(1, adopt=False)
    world.good = world.store.read(FIRST)
    world.store.replace(FIRST, flipped(world.good))
    world.run(1, adopt=False, plan=2)
    world.require_row(SECOND, adopted=False)


@pytest.mark.parametrize("adopt", [True, False])
def test_a_lack_of_memory_is_not_taken_for_damage(world: World, adopt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world.good = world.damage(lambda data: data + b"\0")  # whole, and other bytes than an attempt would compute
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.codecs.exr._read_planes", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            world.run(2, adopt=adopt)
    world.run(3, adopt=adopt)
    world.require_row(FIRST, adopted=True)


@pytest.mark.parametrize("adopt", [True, False])
@pytest.mark.parametrize("error", [TransientStorageError("503"), ObjectDeniedError("403")])
def test_what_the_store_does_not_give_is_not_taken_for_damaged(world: World, error: StorageError, adopt: bool) -> None:
    world.damage(lambda data: data + b"\0")  # whole, and other bytes than an attempt would compute
    broken = HookedStore(world.store)

    def fail(operation: str, key: str) -> None:
        if (operation, key) == ("read", FIRST):
            raise error

    broken.before = fail
    with pytest.raises(type(error)):
        world.run(2, adopt=adopt, store=broken)
    assert completed_shards(world.store, 1) == set()
    assert [info.key for info in world.store.list("images")] == [FIRST]
    world.run(3, adopt=adopt)
    assert (world.row()["output"], world.row()["adopted"]) == (FIRST, True)


@pytest.mark.parametrize("adopt", [True, False])
def test_what_the_store_never_gives_costs_its_row_and_is_not_taken_for_damaged(world: World, adopt: bool) -> None:
    world.damage(lambda data: data + b"\0")
    broken = HookedStore(world.store)

    def fail(operation: str, key: str) -> None:
        if (operation, key) == ("read", FIRST):
            raise StorageError("no")

    broken.before = fail
    world.run(2, adopt=adopt, store=broken)
    assert world.row()["error_code"] == "output_refused"
    assert [info.key for info in world.store.list("images")] == [FIRST]


class Garbling(HookedStore):
    """Gives other bytes than are stored under one key, as a bad cable or a bad mirror does."""

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        data = super().read(key, if_match=if_match, max_bytes=max_bytes)
        return flipped(data) if key == FIRST else data


class Weak(HookedStore):
    """Looks whether a key is free, and writes later, whatever is there by then."""

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        if key in {info.key for info in self.inner.list(key.rpartition("/")[0])}:
            raise ObjectExistsError(key)
        self.before("write", key)
        return self.inner.replace(key, data)


@pytest.fixture(params=["passes by first", "adopts first"])
def others_turn(request: pytest.FixtureRequest) -> str:
    """The step of the attempt that passes by, ahead of which the attempt that adopts runs from its start to its end."""
    return {"passes by first": part_key(1, 0), "adopts first": SECOND}[request.param]


@pytest.mark.parametrize("kind", ["atomic", "weak"])
def test_of_one_that_passes_by_and_one_that_adopts_one_row_counts_and_is_right(
    world: World, others_turn: str, kind: str
) -> None:
    world.run(1, adopt=False)
    world.store.delete(part_key(1, 0))
    world.good = world.store.read(FIRST)
    other: list[ShardResult] = []
    zombie = type("GarblingWeak", (Garbling, Weak), {})(world.store) if kind == "weak" else Garbling(world.store)
    step = "write" if kind == "weak" else "create"
    zombie.once(step, others_turn, lambda: other.append(world.run(3, adopt=True)))
    mine = world.run(2, adopt=True, store=zombie)
    assert other
    assert other[0].num_ok == mine.num_ok == 1
    assert {info.key for info in world.store.list("images")} == {FIRST, SECOND}
    assert other[0].committed
    if others_turn == SECOND:
        assert not mine.committed
        world.require_row(FIRST, adopted=True)
    else:
        # The new revision was there: the newest comes first. A weak store then takes the later of two parts as well.
        assert mine.committed == (kind == "weak")
        world.require_row(SECOND, adopted=kind == "atomic")


def test_two_that_pass_it_by_on_a_weak_store_write_the_same(world: World) -> None:
    bad = world.damage(flipped)
    weak = Weak(world.store)
    weak.once("write", SECOND, lambda: world.run(3, adopt=True))
    world.run(2, adopt=True, store=weak)
    world.require_row(SECOND, adopted=False)
    assert world.store.read(FIRST) == bad
    assert {info.key for info in world.store.list("images")} == {FIRST, SECOND}
