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
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def infer(self, pixels: LdrPixels) -> Inference:
        self.seen.append(pixels.shape[:2])
        if (4, 5) in self.seen or pixels.size // 3 > self.max_pixels:
            raise DeviceLostError("cuda:0: CUDA error: an illegal memory access was encountered")
        return super().infer(pixels)


def suspect_of(witness: Witness, pixels: LdrPixels, source: str, *, is_wary: bool) -> str | None:
    with pytest.raises(DeviceLostError, match="illegal memory access") as caught:
        witness.infer(pixels, source, is_wary=is_wary)
    return caught.value.suspect


def test_the_first_time_nothing_is_known() -> None:
    assert suspect_of(Witness(Card()), POISON, "a", is_wary=False) is None


def test_a_device_that_was_sound_right_before_was_lost_through_the_image() -> None:
    card = Card()
    witness = Witness(card)
    witness.infer(SMALL, "a", is_wary=True)
    assert suspect_of(witness, POISON, "b", is_wary=True) == "b"
    assert card.seen == [(1024, 1024), (4, 4), (1024, 1024), (4, 5)]
    # Nothing works there any more, through no fault of others.
    assert suspect_of(witness, SMALL, "c", is_wary=True) == "b"
    assert suspect_of(witness, SMALL, "d", is_wary=False) == "b"


def test_a_device_that_fails_by_itself_accuses_nobody() -> None:
    witness = Witness(Card(max_pixels=10_000))
    assert suspect_of(witness, SMALL, "a", is_wary=True) is None
    assert suspect_of(Witness(Card(max_pixels=0)), SMALL, "a", is_wary=False) is None


def test_a_processor_is_not_lost_and_not_asked() -> None:
    card = Card(device="cpu")
    Witness(card).infer(SMALL, "a", is_wary=True)
    assert card.seen == [(4, 4)]


def test_the_suspect_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(DeviceLostError("gone", suspect="a.jpg")))
    assert (str(error), error.suspect) == ("gone", "a.jpg")


@pytest.mark.parametrize(("attempt", "suspect"), [(1, None), (2, "in/b.jpg")])
def test_a_repeated_attempt_names_who_did_it(attempt: int, suspect: str | None) -> None:
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
        converter.run(Shard(1, 0, tasks), attempt)
    converter.close()
    assert caught.value.suspect == suspect
