"""Interlaced PNG (Adam7, PNG 8.2): the same pixels as without, the same faults told, nothing on stderr."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from ldr_samples import png_chunk
from numpy.typing import NDArray

from pipeline.codecs.formats import PNG_SIGNATURE
from pipeline.codecs.ldr import LdrImage, decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, TruncatedImageError

LIMITS = DecodeConfig()
NUM_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Of each pass: first column, first row, and the distances between columns and rows (8.2).
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
# libspng reads these; libpng, which warns of interlacing, the rest and what has tRNS.
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (2, 8), (3, 1), (3, 2), (3, 4), (3, 8), (6, 8), (6, 16)]
KINDS_OF_LIBPNG = [(0, 16), (2, 16), (4, 8), (4, 16)]
SIZES = [(1, 1), (3, 5), (9, 17), (40, 33)]


def codes(color_type: int, depth: int, height: int, width: int) -> NDArray[np.uint16]:
    shape = (height, width, NUM_CHANNELS[color_type])
    return np.random.default_rng(height * 100 + width).integers(0, 2**depth, shape, dtype=np.uint16)


def scanlines(pixels: NDArray[np.uint16], depth: int) -> bytes:
    """Each row behind filter type 0, samples packed from the left (7.2)."""
    rows = pixels.reshape(pixels.shape[0], -1)
    bits = (rows[..., np.newaxis] >> np.arange(depth - 1, -1, -1, dtype=np.uint16)) & 1
    packed = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png(color_type: int, depth: int, stream: bytes, size: tuple[int, int], *, interlace: int = 1) -> bytes:
    height, width = size
    ihdr = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlace))
    palette = png_chunk(b"PLTE", bytes(range(255, 255 - 3 * 2 ** min(depth, 6), -1))) if color_type == 3 else b""
    return PNG_SIGNATURE + ihdr + palette + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")


def interlaced(pixels: NDArray[np.uint16], depth: int) -> bytes:
    passes = (pixels[y0::dy, x0::dx] for x0, y0, dx, dy in PASSES)
    return b"".join(scanlines(part, depth) for part in passes if part.size)


def both(color_type: int, depth: int, size: tuple[int, int]) -> tuple[LdrImage, LdrImage]:
    pixels = codes(color_type, min(depth, 6) if color_type == 3 else depth, *size)
    plain = png(color_type, depth, zlib.compress(scanlines(pixels, depth)), size, interlace=0)
    return (
        decode_ldr(png(color_type, depth, zlib.compress(interlaced(pixels, depth)), size), LIMITS),
        decode_ldr(plain, LIMITS),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("color_type", "depth"), KINDS)
def test_the_same_pixels_as_without_and_no_warning(
    color_type: int, depth: int, size: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    image, plain = both(color_type, depth, size)
    assert image.info == plain.info
    assert np.array_equal(image.pixels, plain.pixels)
    assert (image.alpha is None) == (plain.alpha is None)
    assert image.alpha is None or np.array_equal(image.alpha, plain.alpha)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("color_type", "depth"), KINDS_OF_LIBPNG)
def test_the_same_pixels_as_without(color_type: int, depth: int) -> None:
    image, plain = both(color_type, depth, (40, 33))
    assert np.array_equal(image.pixels, plain.pixels)


@pytest.mark.parametrize(
    ("color_type", "depth", "trns"), [(0, 8, b"\0\7"), (0, 2, b"\0\1"), (2, 8, b"\0\7" * 3), (3, 8, b"\xff\0")]
)
def test_transparency(color_type: int, depth: int, trns: bytes) -> None:
    pixels = codes(color_type, min(depth, 6), 20, 20)
    transparent = trns[-1] if color_type != 3 else 1
    pixels[:5] = transparent
    data = png(color_type, depth, zlib.compress(interlaced(pixels, depth)), (20, 20))
    at = data.index(b"IDAT") - 4
    image = decode_ldr(data[:at] + png_chunk(b"tRNS", trns) + data[at:], LIMITS)
    assert image.alpha is not None
    assert np.array_equal(image.alpha == 0, (pixels == transparent).all(axis=2))


@pytest.mark.parametrize("taken", [1, 4, 5, 40, 300])
def test_a_stream_that_ends_early(taken: int) -> None:
    """The last four bytes are the checksum of all samples: a stream without them has lost its end."""
    stream = zlib.compress(interlaced(codes(2, 8, 20, 20), 8))
    with pytest.raises(TruncatedImageError, match="not enough image data"):
        decode_ldr(png(2, 8, stream[:-taken], (20, 20)), LIMITS)


def test_rows_that_are_missing() -> None:
    raw = interlaced(codes(2, 8, 20, 20), 8)
    with pytest.raises(TruncatedImageError, match="too short"):
        decode_ldr(png(2, 8, zlib.compress(raw[:-61]), (20, 20)), LIMITS)


@pytest.mark.parametrize("at", [2, 600, -2])
def test_a_damaged_stream(at: int) -> None:
    stream = bytearray(zlib.compress(interlaced(codes(2, 8, 20, 20), 8)))
    stream[at] ^= 0x55
    with pytest.raises(CorruptImageError, match="damaged image data"):
        decode_ldr(png(2, 8, bytes(stream), (20, 20)), LIMITS)
