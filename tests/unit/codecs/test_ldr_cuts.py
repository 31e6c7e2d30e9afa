"""Pixel data that ends too early in a container that says otherwise: every length repaired, pixels still missing."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np
import pytest
import tifffile
from ldr_heic_samples import HEIC_RGB
from ldr_samples import all_formats, p3_profile, picture, png_chunk, save, save_tiff
from numpy.typing import NDArray
from PIL import Image

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


@pytest.mark.parametrize("missing", [1, 40, 1000])
def test_plain_tiff_of_one_strip_that_is_said_to_be_shorter(missing: int) -> None:
    data = bytearray(save_tiff(NOISE))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tag, count = page.tags[279], page.databytecounts[0]
    size = {3: 2, 4: 4}[int(tag.dtype)]
    data[tag.valueoffset : tag.valueoffset + size] = (count - missing).to_bytes(size, "little")
    refuse(bytes(data))


TIFFS = {
    "pillow": save(NOISE, "tiff", compression="tiff_lzw"),  # its directory is at the end, long values behind it
    "profile": save(NOISE, "tiff", compression="tiff_adobe_deflate", icc_profile=p3_profile()),
    "plain": save(NOISE, "tiff"),
    "jpeg": save(NOISE, "tiff", compression="jpeg"),
    "tifffile": save_tiff(NOISE, compression="lzw"),
    "big": save(NOISE, "tiff", big_tiff=True),
    "motorola": save_tiff(NOISE, byteorder=">"),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_that_lost_its_last_bytes(name: str) -> None:
    for num_missing in (*range(1, 40), *range(40, 900, 7)):
        refuse(TIFFS[name][:-num_missing])


def scans_of(data: bytes) -> list[int]:
    """Where the headers of the scans begin; those of a progressive JPEG have their tables before them."""
    found, at = [], data.index(b"\xff\xda")
    while at >= 0:
        found.append(at)
        at = data.find(b"\xff\xda", at + 2)
    return found


@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0]])
def test_progressive_jpeg_that_lacks_its_last_scans(pixels: NDArray[np.uint8]) -> None:
    data = save(pixels, "jpeg", progressive=True, quality=90)
    scans = scans_of(data)
    assert len(scans) > 4
    for scan in scans[1:]:
        tables = data.rfind(b"\xff\xc4", 0, scan)
        refuse(data[:tables] + b"\xff\xd9")


@pytest.mark.parametrize("stump", [b"\xff\xd8", b"\x89PNG", b"II*", b"RIF"])
def test_a_stump_of_a_signature_is_a_cut_file(stump: bytes) -> None:
    with pytest.raises(TruncatedImageError):
        decode_ldr(stump, LIMITS)


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


def scenery() -> NDArray[np.uint8]:
    """A picture that compresses as photographs do: smooth, with some noise in it."""
    noise = np.random.default_rng(0).normal(0, 6, (144, 192, 3))
    return np.clip(picture(144, 192) * 0.9 + 12 + noise, 0, 255).astype(np.uint8)


HOLED = {
    "jpeg": save(scenery(), "jpeg"),
    "jpeg_progressive": save(scenery(), "jpeg", progressive=True),
    "png": save(scenery(), "png"),
    "tiff_lzw": save_tiff(scenery(), compression="lzw", rowsperstrip=16),
    "tiff_deflate": save_tiff(scenery(), compression="deflate", rowsperstrip=16),
    "tiff_packbits": save_tiff(scenery(), compression="packbits", rowsperstrip=16),
    "tiff_jpeg": save(scenery(), "tiff", compression="jpeg"),
    "webp": save(scenery(), "webp"),
    "webp_alpha": save(np.dstack([scenery(), scenery()[..., 0]]), "webp"),
    "webp_lossless": save(scenery(), "webp", lossless=True),
    "avif": save(scenery(), "avif"),
    "avif_10": bytes(imagecodecs.avif_encode(scenery().astype(np.uint16) * 4, level=90, bitspersample=10)),
    "heic": HEIC_RGB,
    "heic_alpha": SAMPLES["heic_alpha"],
    "heic_10": SAMPLES["heic_10"],
}


@pytest.mark.parametrize("name", HOLED)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.95])
def test_the_hole_of_an_interrupted_download(name: str, share: float) -> None:
    """Programs that reserve the space first leave a file of full length that ends in zeros."""
    data = HOLED[name]
    num_missing = int(len(data) * share)
    refuse(data[:-num_missing] + bytes(num_missing))


@pytest.mark.parametrize("lossless", [False, True])
def test_the_hole_in_the_first_frame_of_a_webp(lossless: bool) -> None:
    frames = {"save_all": True, "append_images": [Image.fromarray(picture(144, 192))]}
    data = save(scenery(), "webp", lossless=lossless, **frames)
    second = data.index(b"ANMF", data.index(b"ANMF") + 4)
    refuse(data[: second - 200] + bytes(200) + data[second:])


@pytest.mark.parametrize("kind", ["webp", "avif"])
@pytest.mark.parametrize("quality", [1, 80, "lossless"])
@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("top", ["flat", "noise"])
def test_flat_pictures_are_no_holes(kind: str, quality: int | str, value: int, top: str) -> None:
    """libwebp's files of flat areas end in thousands of zeros, which count."""
    pixels = np.full((400, 300, 3), value, np.uint8)
    if top == "noise":
        pixels[:60] = np.random.default_rng(0).integers(0, 256, (60, 300, 3))
    options = {"quality": 100, "lossless": kind == "webp"} if quality == "lossless" else {"quality": quality}
    for method in (0, 4) if kind == "webp" else (None,):
        data = save(pixels, kind, **options, **({} if method is None else {"method": method}))
        assert decode_ldr(data, LIMITS).pixels.shape == pixels.shape


def test_the_samples_are_sound_before_they_are_cut() -> None:
    for data in (*HOLED.values(), *SAMPLES.values()):
        decode_ldr(data, LIMITS)
    for data in (save(NOISE, "jpeg"), save(NOISE, "png"), save(NOISE, "webp", lossless=True), save_tiff(NOISE)):
        assert decode_ldr(data, LIMITS).pixels.shape == picture().shape
