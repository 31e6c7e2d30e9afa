"""PNG chunks with wrong checksums, and transparency that is none."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from ldr_samples import exif_block, insert_png_chunk, p3_profile, picture, png_chunk, save

from pipeline.codecs.ldr import LdrImage, decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError

LIMITS = DecodeConfig()
RGB = picture()
PNG = save(RGB, "png")
XMP = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'


def damaged(kind: bytes, body: bytes) -> bytes:
    """The sample with such a chunk behind IHDR, its last checksum byte wrong."""
    chunk = bytearray(png_chunk(kind, body))
    chunk[-1] ^= 0x40
    return PNG[:33] + bytes(chunk) + PNG[33:]


def decode(data: bytes, capfd: pytest.CaptureFixture[str]) -> LdrImage:
    image = decode_ldr(data, LIMITS)
    assert probe_ldr(data, LIMITS) == image.info
    assert capfd.readouterr() == ("", ""), "libpng, which prints what it warns of, did not see the chunk"
    return image


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (b"tEXt", b"Title\0x", "metadata_damaged"),
        (b"zTXt", b"Title\0\0" + zlib.compress(b"x"), "metadata_damaged"),
        (b"iTXt", XMP, "metadata_damaged"),
        (b"tIME", bytes(7), "metadata_damaged"),
        (b"pHYs", bytes(9), "metadata_damaged"),
        (b"sBIT", b"\5\5\5", "metadata_damaged"),
        (b"bKGD", bytes(6), "metadata_damaged"),
        (b"acTL", struct.pack(">II", 2, 0), "metadata_damaged"),
        (b"prVt", b"private", "metadata_damaged"),
        (b"eXIf", exif_block(6)[6:], "exif_invalid"),
        (b"iCCP", b"p3\0\0" + zlib.compress(p3_profile()), "icc_invalid"),
    ],
)
def test_damaged_metadata_is_passed_over(
    kind: bytes, body: bytes, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = decode(damaged(kind, body), capfd)
    assert image.info.warnings == (code,)
    assert np.array_equal(image.pixels, RGB)
    assert (image.info.orientation, image.info.icc_profile, image.info.num_frames) == (1, None, 1)


def test_a_damaged_profile_under_cicp_is_metadata(capfd: pytest.CaptureFixture[str]) -> None:
    data = damaged(b"iCCP", b"p3\0\0" + zlib.compress(p3_profile()))
    image = decode(insert_png_chunk(data, b"cICP", bytes([1, 13, 0, 1])), capfd)
    assert image.info.warnings == ("metadata_damaged",)
    assert np.array_equal(image.pixels, RGB)


@pytest.mark.parametrize(
    "kind", [b"tRNS", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"PRVT", b"pRNS", b"gAMa", b"iDAT", b"tRNs"]
)
def test_damage_where_pixels_may_depend_on_it_is_fatal(kind: bytes) -> None:
    """Also under a type that is one bit away from such a one."""
    with pytest.raises(CorruptImageError, match=f"checksum in its {kind.decode()}"):
        probe_ldr(damaged(kind, bytes(6)), LIMITS)


def sample(color_type: int, depth: int, *chunks: bytes) -> bytes:
    """2x1 px."""
    num_bytes = -(-2 * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type] // 8)
    ihdr = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, color_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(1 + num_bytes)))
    return b"\x89PNG\r\n\x1a\n" + ihdr + b"".join(chunks) + body + png_chunk(b"IEND", b"")


PALETTE = png_chunk(b"PLTE", bytes(9))


@pytest.mark.parametrize(
    ("color_type", "depth", "length", "has_alpha"),
    [
        *[(0, depth, 2, True) for depth in (1, 2, 4, 8, 16)],
        *[(0, depth, length, False) for depth in (1, 8, 16) for length in (0, 1, 3, 6)],
        *[(2, depth, 6, True) for depth in (8, 16)],
        *[(2, depth, length, False) for depth in (8, 16) for length in (0, 2, 3, 5, 8)],
        *[(3, depth, length, True) for depth in (2, 8) for length in (1, 3)],
        *[(3, depth, length, False) for depth in (2, 8) for length in (0, 4, 256)],
        (3, 1, 2, True),
        (3, 1, 3, False),
    ],
)
def test_alpha_is_told_where_it_comes(
    color_type: int, depth: int, length: int, has_alpha: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    palette = png_chunk(b"PLTE", bytes(6)) if depth == 1 else PALETTE
    chunks = [palette] if color_type == 3 else []
    image = decode(sample(color_type, depth, *chunks, png_chunk(b"tRNS", bytes(length))), capfd)
    assert (image.info.has_alpha, image.alpha is not None) == (has_alpha, has_alpha)
    assert image.info.warnings == (() if has_alpha else ("metadata_damaged",))


@pytest.mark.parametrize("color_type", [4, 6])
def test_an_alpha_channel_stays_beside_a_trns_chunk(color_type: int) -> None:
    image = decode_ldr(sample(color_type, 8, png_chunk(b"tRNS", bytes(2))), LIMITS)
    assert image.info.has_alpha
    assert image.alpha is not None


def test_trns_in_the_wrong_place(capfd: pytest.CaptureFixture[str]) -> None:
    before_palette = sample(3, 8, png_chunk(b"tRNS", b"\0"), PALETTE)
    late = sample(0, 8)
    late = late[:-12] + png_chunk(b"tRNS", bytes(2)) + late[-12:]
    for data in (before_palette, late):
        image = decode(data, capfd)
        assert (image.info.has_alpha, image.alpha) == (False, None)


def test_libpng_itself_agrees_about_usable_chunks() -> None:
    for color_type, length in ((0, 2), (0, 3), (2, 6), (2, 2), (3, 3), (3, 4)):
        data = sample(color_type, 8, *([PALETTE] if color_type == 3 else []), png_chunk(b"tRNS", bytes(length)))
        pixels = imagecodecs.png_decode(data)
        assert (pixels.ndim == 3 and pixels.shape[2] in {2, 4}) == probe_ldr(data, LIMITS).has_alpha
