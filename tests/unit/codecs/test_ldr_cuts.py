"""Pixel data that ends too early in a container that says otherwise: every length repaired, pixels still missing."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from ldr_samples import all_formats, picture, png_chunk, save, save_tiff

from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, TruncatedImageError

LIMITS = DecodeConfig(max_pixels=4_000_000)
SAMPLES = all_formats()
# Noise leaves no room: each byte of it is needed.
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def refuse(data: bytes) -> None:
    with pytest.raises((TruncatedImageError, CorruptImageError)):
        decode_ldr(data, LIMITS)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 50, 1000])
def test_jpeg_with_its_end_marker_in_place(progressive: bool, missing: int) -> None:
    data = save(NOISE, "jpeg", progressive=progressive)
    refuse(data[: -2 - missing] + data[-2:])


@pytest.mark.parametrize("missing", [20, 500, 5000])
def test_png_with_right_lengths_and_checksums(missing: int) -> None:
    data = save(NOISE, "png")
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    body = data[at + 8 : at + 8 + length]
    assert data[at + 12 + length :] == png_chunk(b"IEND", b""), "one chunk holds all"
    refuse(data[:at] + png_chunk(b"IDAT", body[:-missing]) + png_chunk(b"IEND", b""))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("missing", [2, 50, 400])
def test_webp_with_right_lengths(lossless: bool, missing: int) -> None:
    data = save(NOISE, "webp", lossless=lossless)
    length = int.from_bytes(data[16:20], "little") - missing
    cut = data[: 20 + length]
    refuse(data[:4] + struct.pack("<I", len(cut) - 8) + data[8:16] + struct.pack("<I", length) + cut[20:])


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits", "jpeg", "zstd", "lzma", None])
@pytest.mark.parametrize("missing", [40, 1000])
def test_tiff_whose_last_strip_is_said_to_be_shorter(compression: str | None, missing: int) -> None:
    data = bytearray(save_tiff(NOISE, compression=compression, rowsperstrip=16))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tag, count = page.tags[279], page.databytecounts[-1]
    size = {3: 2, 4: 4}[int(tag.dtype)]
    at = tag.valueoffset + (tag.count - 1) * size
    data[at : at + size] = (count - missing).to_bytes(size, "little")
    refuse(bytes(data))


def item_lengths(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(item, where its length stands, length) from iloc (ISO/IEC 14496-12, 8.11.3), of 4-byte lengths."""
    at = data.index(b"iloc") + 4
    version, offset_bytes, length_bytes, base_bytes = data[at], data[at + 4] >> 4, data[at + 4] & 15, data[at + 5] >> 4
    assert (version, length_bytes) in {(0, 4), (1, 4)}
    num_items, at = int.from_bytes(data[at + 6 : at + 8], "big"), at + 8
    for _ in range(num_items):
        item = int.from_bytes(data[at : at + 2], "big")
        at += (4 if version == 0 else 6) + base_bytes
        assert data[at : at + 2] == b"\0\1", "one extent"
        at += 2 + offset_bytes
        yield item, at, int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes


@pytest.mark.parametrize("name", ["avif", "avif_10", "heic", "heic_alpha", "heic_10"])
@pytest.mark.parametrize("missing", [1, 30])
def test_heif_whose_primary_item_is_said_to_be_shorter(name: str, missing: int) -> None:
    data = bytearray(SAMPLES[name])
    item, at, length = next(iter(item_lengths(data)))
    assert item == 1
    data[at : at + 4] = (length - missing).to_bytes(4, "big")
    refuse(bytes(data))


def test_the_samples_are_sound_before_they_are_cut() -> None:
    for data in (save(NOISE, "jpeg"), save(NOISE, "png"), save(NOISE, "webp", lossless=True), save_tiff(NOISE)):
        assert decode_ldr(data, LIMITS).pixels.shape == picture().shape
