"""Truncated and damaged files: a typed error or a whole image, never gray pixels, never a foreign exception."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from ldr_heic_samples import HEIC_RGB
from ldr_samples import all_formats, insert_png_chunk, picture, png_chunk, save, save_tiff

from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, ImageError, TruncatedImageError, UnsupportedFormatError

LIMITS = DecodeConfig(max_pixels=4_000_000)
SAMPLES = all_formats()
MUTATIONS_PER_FORMAT = 20


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_told(name: str, fraction: float) -> None:
    data = SAMPLES[name]
    with pytest.raises((TruncatedImageError, CorruptImageError)) as caught:
        decode_ldr(data[: int(len(data) * fraction)], LIMITS)
    # A TIFF may keep its directory at the end: then a cut file has none.
    assert caught.type is TruncatedImageError or name.startswith("tiff")


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("tiff")])
def test_one_missing_byte_is_noticed(name: str) -> None:
    with pytest.raises(TruncatedImageError):
        decode_ldr(SAMPLES[name][:-1], LIMITS)


@pytest.mark.parametrize("name", SAMPLES)
def test_random_damage_gives_an_image_or_an_image_error(name: str) -> None:
    chance = random.Random(f"damage {name}")
    outcomes, messages = set(), []
    for _ in range(MUTATIONS_PER_FORMAT):
        data = bytearray(SAMPLES[name])
        for _ in range(chance.choice([1, 2, 8, 30])):
            at = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), 600))
            data[at] = chance.choice([0, 255, data[at] ^ (1 << chance.randrange(8))])
        try:
            image = decode_ldr(bytes(data), LIMITS)
        except ImageError as error:
            outcomes.add(error.code)
            messages.append(str(error))
        else:
            outcomes.add("ok")
            assert image.pixels.shape == (image.info.height, image.info.width, 3)
            assert image.pixels.flags.c_contiguous
    assert outcomes - {"ok"}, "the damage was never noticed"
    assert not [text for text in messages if "\n" in text]


def test_flipped_bit_in_png_pixels() -> None:
    data = bytearray(save(picture(), "png"))
    data[len(data) // 2] ^= 16
    with pytest.raises(CorruptImageError, match="checksum"):
        decode_ldr(bytes(data), LIMITS)


def test_png_with_too_few_pixels_under_a_right_checksum() -> None:
    data = save(picture(), "png")
    at = data.index(b"IDAT") - 4
    short = png_chunk(b"IDAT", zlib.compress(bytes(500))) + png_chunk(b"IEND", b"")
    with pytest.raises(ImageError) as caught:
        decode_ldr(data[:at] + short, LIMITS)
    assert caught.value.code in {"decode_truncated", "decode_corrupt"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (struct.pack(">IIBBBBB", 4, 4, 8, 5, 0, 0, 0), "colour type"),
        (struct.pack(">IIBBBBB", 4, 4, 3, 0, 0, 0, 0), "bit depth"),
        (struct.pack(">IIBBBBB", 4, 4, 8, 2, 1, 0, 0), "compression"),
        (struct.pack(">IIBBBBB", 0, 4, 8, 2, 0, 0, 0), "0x4"),
        (b"\0", "IHDR"),
    ],
)
def test_impossible_png_headers(body: bytes, words: str) -> None:
    idat = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", body) + idat + png_chunk(b"IEND", b"")
    with pytest.raises(CorruptImageError, match=words):
        probe_ldr(data, LIMITS)


def test_png_structure() -> None:
    data = save(picture(), "png")
    with pytest.raises(CorruptImageError, match="IHDR"):
        probe_ldr(insert_png_chunk(data, b"IHDR", data[16:29]), LIMITS)
    with pytest.raises(CorruptImageError, match="without image data"):
        probe_ldr(data[:33] + png_chunk(b"IEND", b""), LIMITS)
    with pytest.raises(CorruptImageError, match="chunk header"):
        probe_ldr(data[:33] + b"\0\0\0\x01\x01\x02\x03\x04" + bytes(8), LIMITS)


def test_jpeg_kinds_that_cannot_be_read() -> None:
    data = save(picture(), "jpeg")
    frame = data.index(b"\xff\xc0")
    lossless = data[:frame] + b"\xff\xc3" + data[frame + 2 :]
    twelve_bits = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    two_components = data[: frame + 9] + b"\x02" + data[frame + 10 :]
    for changed in (lossless, twelve_bits, two_components):
        with pytest.raises(UnsupportedFormatError):
            probe_ldr(changed, LIMITS)


@pytest.mark.parametrize(
    "tail", [b"\xff\xd9", b"\xff\xe0\0\1" + bytes(20), b"\xff\xc0\0\x05\x08\0\0" + b"\xff\xda\0\x02" + bytes(9)]
)
def test_jpeg_headers_that_make_no_sense(tail: bytes) -> None:
    with pytest.raises(CorruptImageError):
        probe_ldr(b"\xff\xd8" + tail, LIMITS)


def test_jpeg_with_thousands_of_scans_is_refused() -> None:
    data = save(picture(), "jpeg", progressive=True)
    with pytest.raises(CorruptImageError, match="scans"):
        decode_ldr(data[:-2] + b"\xff\xda" * 1001 + data[-2:], LIMITS)


def test_webp_chunks() -> None:
    data = save(picture(), "webp")
    longer = data[:16] + struct.pack("<I", len(data)) + data[20:]
    with pytest.raises(CorruptImageError, match="longer"):
        probe_ldr(longer, LIMITS)
    empty = b"RIFF\4\0\0\0WEBP"
    with pytest.raises(CorruptImageError, match="without image data"):
        probe_ldr(empty, LIMITS)
    other = b"RIFF\x0c\0\0\0WEBPABCD\0\0\0\0"
    with pytest.raises(CorruptImageError, match="without image data"):
        probe_ldr(other, LIMITS)


def test_heif_item_types_that_are_no_text_do_not_reach_the_library() -> None:
    data = HEIC_RGB.replace(b"hvc1", b"hv\xa01", 1)
    with pytest.raises(CorruptImageError, match="readable type"):
        probe_ldr(data, LIMITS)


@pytest.mark.parametrize("missing", [b"meta", b"pitm", b"iprp", b"ipco"])
def test_heif_without_a_needed_box(missing: bytes) -> None:
    with pytest.raises(CorruptImageError):
        probe_ldr(HEIC_RGB.replace(missing, b"free", 1), LIMITS)


def test_unsupported_heif_codec_is_said_so() -> None:
    with pytest.raises(UnsupportedFormatError):
        decode_ldr(HEIC_RGB.replace(b"hvc1", b"vvc1", 1), LIMITS)


def test_tiff_strips_must_lie_in_the_file() -> None:
    data = save_tiff(picture(), rowsperstrip=16)
    offset = data.index(struct.pack("<HHI", 273, 4, 3)) + 8
    table = int.from_bytes(data[offset : offset + 4], "little")
    for value, error in ((len(data), TruncatedImageError), (0, CorruptImageError)):
        changed = data[: table + 8] + struct.pack("<I", value) + data[table + 12 :]
        with pytest.raises(error):
            decode_ldr(changed, LIMITS)


def test_tiff_with_fewer_strips_than_its_height_needs() -> None:
    data = save_tiff(picture(), rowsperstrip=16)
    entry = data.index(struct.pack("<HHI", 257, 4, 1)) + 8
    taller = data[:entry] + struct.pack("<I", 480) + data[entry + 4 :]
    with pytest.raises(CorruptImageError, match="strips"):
        decode_ldr(taller, LIMITS)


def test_tiff_with_half_a_jpeg_strip() -> None:
    data = bytearray(save(picture(), "tiff", compression="jpeg"))
    end = data.index(b"\xff\xd9")
    data[end : end + 2] = b"ab"
    with pytest.raises(TruncatedImageError, match="unfinished"):
        decode_ldr(bytes(data), LIMITS)


def test_no_pixels_are_invented_for_a_cut_jpeg() -> None:
    """Every cut of a progressive file is found, also between two scans where the rest still decodes."""
    data = save(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8), "jpeg", progressive=True)
    for end in range(200, len(data), 37):
        with pytest.raises((TruncatedImageError, CorruptImageError)):
            decode_ldr(data[:end], LIMITS)


def test_tiff_tiles_far_larger_than_the_image() -> None:
    data = save_tiff(picture(), tile=(16, 16), compression="deflate")
    for tag in (322, 323):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data = data[:at] + struct.pack("<I", 65536) + data[at + 4 :]
    with pytest.raises(CorruptImageError, match="tiles"):
        probe_ldr(data, LIMITS)
