"""Who is to blame for a lost device: it itself, or the image that it worked on."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np
import pytest
from fakes import FakeEngine
from photographs import jpeg, picture

from pipeline.config import StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import DeviceLostError
from pipeline.inference.base import Inference, LdrPixels
from pipeline.inference.witness import Witness
from pipeline.records import ImageTask, Provenance, Shard
from pipeline.storage import open_store

SMALL = np.zeros((4, 4, 3), np.uint8)
POISON = np.zeros((4, 5, 3), np.uint8)


@dataclass(frozen=True)
class Card(FakeEngine):
    """A device that images of 5 columns take along; it does with images of up to `max_pixels`."""

    device: str = "cuda:0"
    max_pixels: int = 2**30
    max_memory_pixels: int = 2**30
    says: str = "an illegal memory access was encountered"
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def infer(self, pixels: LdrPixels) -> Inference:
        self.seen.append(pixels.shape[:2])
        if (4, 5) in self.seen or pixels.size // 3 > self.max_pixels:
            raise DeviceLostError(f"cuda:0: CUDA error: {self.says}")
        if pixels.size // 3 > self.max_memory_pixels:
            raise MemoryError("cuda:0: out of memory even for a tile")
        return super().infer(pixels)


def suspect_of(witness: Witness, pixels: LdrPixels, source: str, *, is_checked: bool) -> str | None:
    def work() -> None:
        if is_checked:
            witness.check()
        witness.infer(pixels, source)

    with pytest.raises(DeviceLostError, match="CUDA error") as caught:
        work()
    return caught.value.suspect


def test_the_first_time_nothing_is_known() -> None:
    assert suspect_of(Witness(Card()), POISON, "a", is_checked=False) is None


def test_a_device_that_was_sound_right_before_was_lost_through_the_image() -> None:
    card = Card()
    witness = Witness(card)
    witness.check()
    witness.infer(SMALL, "a")
    assert suspect_of(witness, POISON, "b", is_checked=True) == "b"
    assert card.seen == [(1024, 1024), (4, 4), (1024, 1024), (4, 5)]
    # Nothing works there any more, through no fault of others.
    assert suspect_of(witness, SMALL, "c", is_checked=True) == "b"
    assert suspect_of(witness, SMALL, "d", is_checked=False) == "b"


def test_a_check_holds_for_one_image() -> None:
    witness = Witness(Card())
    witness.check()
    witness.infer(SMALL, "a")
    assert suspect_of(witness, POISON, "b", is_checked=False) is None


def test_a_device_that_fails_by_itself_accuses_nobody() -> None:
    assert suspect_of(Witness(Card(max_pixels=10_000)), SMALL, "a", is_checked=True) is None
    assert suspect_of(Witness(Card(max_pixels=0)), SMALL, "a", is_checked=False) is None


@pytest.mark.parametrize(
    "says", ["uncorrectable ECC error encountered", "Invalid access of peer GPU memory over nvlink"]
)
def test_what_no_image_does_accuses_nobody(says: str) -> None:
    assert suspect_of(Witness(Card(says=says)), POISON, "a", is_checked=True) is None


def test_a_check_that_finds_no_memory_fails_no_image() -> None:
    witness = Witness(Card(max_memory_pixels=10_000))
    witness.check()
    assert witness.infer(SMALL, "a").linear.shape == (4, 4, 3)
    assert suspect_of(witness, POISON, "b", is_checked=True) is None


def test_the_message_names_the_image() -> None:
    with pytest.raises(DeviceLostError, match=r"illegal memory access was encountered; at work on a\.jpg$"):
        Witness(Card()).infer(POISON, "a.jpg")


def test_a_processor_is_not_lost_and_not_asked() -> None:
    card = Card(device="cpu")
    witness = Witness(card)
    witness.check()
    witness.infer(SMALL, "a")
    assert card.seen == [(4, 4)]


def test_the_suspect_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(DeviceLostError("gone", suspect="a.jpg")))
    assert (str(error), error.suspect) == ("gone", "a.jpg")


@pytest.mark.parametrize(("is_suspect", "blamed"), [(False, None), (True, "in/b.jpg")])
def test_a_shard_that_came_back_names_who_did_it(is_suspect: bool, blamed: str | None) -> None:
    source, store = (open_store(f"memory://{uuid4().hex}", StorageConfig()) for _ in "ab")
    sizes = {"in/a.jpg": (4, 4), "in/b.jpg": (4, 5)}
    infos = [source.create(name, jpeg(picture(*size))) for name, size in sizes.items()]
    tasks = tuple(ImageTask(info.key, info.key, info.size_bytes, info.etag) for info in infos)
    config = build_config(source={"url": "s"}, destination={"url": "d"})
    converter = ShardConverter(
        source=source,
        destination=store,
        engine=Card(),
        config=config,
        provenance=Provenance("0", "fake", "f" * 64, config.pixel_digest(), "w", "n"),
    )
    with pytest.raises(DeviceLostError) as caught:
        converter.run(Shard(1, 0, tasks), is_suspect=is_suspect)
    converter.close()
    assert caught.value.suspect == blamed
