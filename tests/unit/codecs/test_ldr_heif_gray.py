"""Gray AVIF and HEIC of every depth, with and without alpha; and animated AVIF that keeps its depth."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from ldr_heic_samples import HEIC_GRAY, HEIC_RGB, HEIC_RGBA
from ldr_samples import HEIGHT, WIDTH, picture
from numpy.typing import NDArray

from pipeline.codecs.heif_items import is_monochrome, read_extents
from pipeline.codecs.isobmff import read_container
from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig

LIMITS = DecodeConfig()
RAMP = np.tile(np.arange(WIDTH) * 4, (HEIGHT, 1))  # 0..252, of 8 bits
ALPHA = RAMP[:, ::-1]
LINEAR = bytes(imagecodecs.cms_profile("gray", gamma=1.0))


def gray_avif(bits: int, *, has_alpha: bool = False) -> bytes:
    """RAMP in codes that are the same share of full scale at every depth, to half a code."""
    planes = [RAMP, ALPHA] if has_alpha else [RAMP]
    codes = np.round(np.stack(planes, -1) * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    return bytes(imagecodecs.avif_encode(codes if has_alpha else codes[..., 0], level=100, bitspersample=bits))


def with_profile(data: bytes, icc: bytes) -> bytes:
    """Put a profile in place of the code points in libavif's layout: property boxes first, pixels behind them."""
    start = data.index(b"colrnclx") - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    box = struct.pack(">I", 12 + len(icc)) + b"colrprof" + icc
    grown = len(box) - (end - start)
    patched = bytearray(data[:start] + box + data[end:])
    for kind in (b"meta", b"iprp", b"ipco"):
        at = data.index(kind) - 4
        patched[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + grown).to_bytes(4, "big")
    at = data.index(b"iloc") + 4
    for extent in read_extents(data[at : at - 8 + int.from_bytes(data[at - 8 : at - 4], "big")]):
        field = data.index(struct.pack(">II", extent.start, extent.end - extent.start), at)
        patched[field : field + 4] = (extent.start + grown).to_bytes(4, "big")
    return bytes(patched)


def shares(pixels: NDArray[np.integer]) -> NDArray[np.float64]:
    return pixels / float(np.iinfo(pixels.dtype).max)


@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_gray_avif_of_every_depth_is_gray(bits: int, has_alpha: bool) -> None:
    data = gray_avif(bits, has_alpha=has_alpha)
    image = decode_ldr(data, LIMITS)
    assert image.info.mode == ("LA" if has_alpha else "L")
    assert image.info.bit_depth == (8 if bits == 8 else 16)
    assert np.abs(shares(image.pixels) - RAMP[..., np.newaxis] / 255).max() < 0.01
    if has_alpha:
        assert image.alpha is not None
        assert np.abs(shares(image.alpha) - ALPHA / 255).max() < 0.01
    assert probe_ldr(data, LIMITS) == image.info


@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_a_gray_profile_is_applied_at_every_depth(bits: int, has_alpha: bool) -> None:
    image = decode_ldr(with_profile(gray_avif(bits, has_alpha=has_alpha), LINEAR), LIMITS)
    linear = RAMP / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert image.info.warnings == ()
    # One code of 8 bits is a large step where the curve of sRGB begins.
    assert np.abs(shares(image.pixels) - expected[..., np.newaxis])[:, 4:].max() < 0.02
    assert np.ptp(image.pixels, axis=2).max() <= 1  # littlecms rounds each channel by itself


def test_colour_is_not_taken_for_gray() -> None:
    assert read_container(HEIC_GRAY).is_monochrome
    for data in (HEIC_RGB, HEIC_RGBA, bytes(imagecodecs.avif_encode(picture(), level=100))):
        assert not read_container(data).is_monochrome
    assert decode_ldr(HEIC_RGBA, LIMITS).info.mode == "RGBA"
    for kind in (b"av1C", b"hvcC", b"pixi"):
        assert not is_monochrome(kind, b"")
    assert not is_monochrome(b"pixi", bytes(40))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_animated_avif_keeps_its_depth(bits: int) -> None:
    codes = np.round(picture() * ((2**bits - 1) / 255)).astype(np.uint8 if bits == 8 else np.uint16)
    options = {"level": 100, "bitspersample": bits, "pixelformat": "444"}
    image = decode_ldr(bytes(imagecodecs.avif_encode(np.stack([codes, codes[::-1], codes]), **options)), LIMITS)
    assert (image.info.num_frames, image.info.warnings) == (3, ("animated",))
    assert image.info.bit_depth == (8 if bits == 8 else 16)
    assert np.array_equal(image.pixels, decode_ldr(bytes(imagecodecs.avif_encode(codes, **options)), LIMITS).pixels)


def test_animated_gray_avif_with_alpha() -> None:
    frames = np.stack([RAMP, ALPHA], -1).astype(np.uint8)
    image = decode_ldr(bytes(imagecodecs.avif_encode(np.stack([frames, frames[:, ::-1]]), level=100)), LIMITS)
    assert (image.info.mode, image.info.num_frames) == ("LA", 2)
    assert image.alpha is not None
    assert np.abs(image.pixels.astype(int) - RAMP[..., np.newaxis]).max() <= 2
    assert np.abs(image.alpha.astype(int) - ALPHA).max() <= 2
