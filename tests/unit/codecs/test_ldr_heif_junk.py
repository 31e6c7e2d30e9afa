"""HEIC and AVIF with bytes behind the last box that belong to none."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from ldr_samples import all_formats

from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, TruncatedImageError

LIMITS = DecodeConfig(max_pixels=4_000_000)
SAMPLES = {name: data for name, data in all_formats().items() if name.startswith(("avif", "heic"))}
STILLS = {name: data for name, data in SAMPLES.items() if name != "avif_animated"}
JUNK = {
    "text": b"garbage123",
    "a box that is cut": struct.pack(">I4s", 5000, b"free") + bytes(30),
    "a large box that is cut": struct.pack(">I4sQ", 1, b"uuid", 2**40) + bytes(30),
    "a box of an impossible size": struct.pack(">I4s", 3, b"abcd") + bytes(30),
    "ones": b"\xff" * 64,
}


@pytest.mark.parametrize("name", STILLS)
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_stray_bytes_at_the_end(name: str, junk: bytes) -> None:
    clean = decode_ldr(STILLS[name], LIMITS)
    image = decode_ldr(STILLS[name] + junk, LIMITS)
    assert np.array_equal(image.pixels, clean.pixels)
    assert (image.alpha is None) == (clean.alpha is None)
    assert set(image.info.warnings) == {*clean.info.warnings, "junk_at_end"}
    assert probe_ldr(STILLS[name] + junk, LIMITS) == image.info


@pytest.mark.parametrize("kind", [b"mdat", b"meta", b"moov", b"imda"])
def test_a_needed_box_that_is_cut_is_a_cut_file(kind: bytes) -> None:
    for data in STILLS.values():
        with pytest.raises(TruncatedImageError):
            decode_ldr(data + struct.pack(">I4s", 5000, kind) + bytes(30), LIMITS)


@pytest.mark.parametrize("name", STILLS)
def test_cut_pixels_in_a_box_of_another_name_are_missed(name: str) -> None:
    """The item table says that they should be there."""
    data = STILLS[name]
    assert data.count(b"mdat") == 1
    for missing in (1, 20):
        with pytest.raises(TruncatedImageError):
            decode_ldr(data.replace(b"mdat", b"mdau")[:-missing], LIMITS)


def test_every_cut_is_found() -> None:
    for data in STILLS.values():
        for end in range(len(data) // 3, len(data), max(1, len(data) // 40)):
            with pytest.raises((TruncatedImageError, CorruptImageError)):
                decode_ldr(data[:end], LIMITS)


def test_sequences_are_not_trusted_with_junk() -> None:
    """Where their frames lie is not checked."""
    with pytest.raises(TruncatedImageError):
        decode_ldr(SAMPLES["avif_animated"] + JUNK["text"], LIMITS)
