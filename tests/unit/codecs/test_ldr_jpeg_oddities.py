"""JPEG files with bytes that every viewer passes over: their pixels are those of a lenient decoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from ldr_samples import insert_jpeg_segment, picture, save, save_cmyk_jpeg
from PIL import Image

from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, TruncatedImageError

LIMITS = DecodeConfig()
JPEG = save(picture(), "jpeg", quality=95)
NOISE = save(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8), "jpeg")
END = b"\xff\xd9"


def adobe(transform: int) -> bytes:
    return b"Adobe\0\x64\0\0\0\0" + bytes([transform])


@pytest.mark.parametrize("version", [(0, 0), (2, 1), (3, 1), (255, 255)])
def test_jfif_of_any_version(version: tuple[int, int]) -> None:
    at = JPEG.index(b"JFIF\0") + 5
    image = decode_ldr(JPEG[:at] + bytes(version) + JPEG[at + 2 :], LIMITS)
    assert np.array_equal(image.pixels, simplejpeg.decode_jpeg(JPEG))
    assert image.info.warnings == ()


@pytest.mark.parametrize("has_jfif", [False, True])
@pytest.mark.parametrize("transform", [0, 1, 2, 5, 255])
def test_adobe_transforms_of_three_components(transform: int, has_jfif: bool) -> None:
    data = JPEG if has_jfif else JPEG[:2] + JPEG[20:]
    assert (b"JFIF" in data) == has_jfif
    data = insert_jpeg_segment(data, 0xEE, adobe(transform))
    lenient = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(lenient, simplejpeg.decode_jpeg(JPEG)) == (has_jfif or transform != 0)
    assert np.array_equal(decode_ldr(data, LIMITS).pixels, lenient)


@pytest.mark.parametrize("transform", [0, 1, 2, 7])
def test_adobe_transforms_of_four_components(transform: int) -> None:
    data = save_cmyk_jpeg(picture())
    at = data.index(b"Adobe") + 11
    data = data[:at] + bytes([transform]) + data[at + 1 :]
    inks = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    image = decode_ldr(data, LIMITS)
    assert image.info.mode == "CMYK"
    assert np.abs(image.pixels - expected).max() <= 0.5


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "padding", [bytes(1), bytes(2), bytes(15), bytes(512), b"\0\xff\0\0", b"\xff" * 9, b"\0\xff" * 8]
)
def test_padding_before_the_end_marker(padding: bytes, progressive: bool) -> None:
    data = save(picture(), "jpeg", progressive=progressive)
    image = decode_ldr(data[:-2] + padding + END, LIMITS)
    assert np.array_equal(image.pixels, simplejpeg.decode_jpeg(data))
    assert set(image.info.warnings) <= {"junk_at_end"}


def test_padding_is_noted_where_it_was_left_out() -> None:
    padded = decode_ldr(JPEG[:-2] + bytes(16) + END, LIMITS)
    assert padded.info.warnings == ("junk_at_end",)
    assert decode_ldr(JPEG, LIMITS).info.warnings == ()


def test_padding_behind_coded_zeros_leaves_them_alone() -> None:
    """All coded bytes of one colour under fitting tables are zeros."""
    data = save(np.full((64, 64), 128, np.uint8), "jpeg", optimize=True)
    assert data.endswith(bytes(8) + END) or data[-6:-2].count(0) >= 2
    image = decode_ldr(data[:-2] + bytes(20) + END, LIMITS)
    assert np.array_equal(image.pixels[..., 0], simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0])


@pytest.mark.parametrize("junk", [b"\x55\xaa" * 8, bytes(20) + b"\x01", bytes(600)])
def test_other_leftovers_are_damage(junk: bytes) -> None:
    with pytest.raises(CorruptImageError, match="extraneous"):
        decode_ldr(NOISE[:-2] + junk + END, LIMITS)


def test_zeros_in_place_of_coded_data_are_damage() -> None:
    for missing in (1, 3, 40, 400):
        with pytest.raises((CorruptImageError, TruncatedImageError)):
            decode_ldr(NOISE[: -2 - missing] + END, LIMITS)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_the_end_is_not_looked_at(progressive: bool) -> None:
    data = save(picture(), "jpeg", progressive=progressive)
    image = decode_ldr(data + b"\xff\xda" * 2000 + bytes(range(256)) * 40, LIMITS)
    assert np.array_equal(image.pixels, simplejpeg.decode_jpeg(data))
    assert image.info == probe_ldr(data, LIMITS)


def test_scans_before_the_end_are_counted_through_restart_markers_and_segments() -> None:
    data = save(picture(), "jpeg", restart_marker_blocks=1)
    scan = data.index(b"\xff\xda")
    comments = b"\xff\xfe\0\4" + END
    image = decode_ldr(data[:-2] + comments + END + b"\xff\xda" * 2000, LIMITS)
    assert np.array_equal(image.pixels, simplejpeg.decode_jpeg(data))
    many = data[:scan] + data[scan:-2] * 1001 + END
    with pytest.raises(CorruptImageError, match="more than 1000 scans"):
        decode_ldr(many + bytes(10), LIMITS)
