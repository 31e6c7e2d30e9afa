"""Capture EXIF of TIFF and BigTIFF: the same tags say the same, and damage costs a warning or a typed error."""

from __future__ import annotations

import io
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
import tifffile
from ldr_samples import picture, save_tiff

from pipeline.codecs.exif import parse_exif
from pipeline.codecs.ifd import IfdForm, read_ifd, read_tiff_header
from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ImageError
from pipeline.records import CaptureMetadata

LIMITS = DecodeConfig()
RGB = picture(12, 16)
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
# Tag -> text, a 16-bit number, or rationals
DETAILS: dict[int, object] = {
    0x829A: [Fraction(1, 250)],
    0x829D: [Fraction(28, 10)],
    0x8827: 400,
    0x9003: "2024:02:29 23:59:58",
    0x9011: "+02:30",
    0xA434: "35mm F2.8",
}
POSITION: dict[int, object] = {1: "S", 2: [Fraction(33), Fraction(30), Fraction(36)], 3: "E", 4: [Fraction(70, 3)] * 3}
CAPTURE = CaptureMetadata(
    camera_make="ACME",
    camera_model="Model 1, with a long name",
    lens_model="35mm F2.8",
    exposure_time_s=1 / 250,
    aperture=2.8,
    iso_speed=400.0,
    captured_at="2024:02:29 23:59:58",
    utc_offset_s=-9000.0,
    latitude_deg=pytest.approx(-33.51),
    longitude_deg=pytest.approx(70 / 3 * (1 + 1 / 60 + 1 / 3600)),
)


def field(value: object, byte_order: str) -> tuple[int, int, bytes]:
    """Return the field type, the count and the bytes."""
    if isinstance(value, str):
        return 2, len(value) + 1, value.encode() + b"\0"
    if isinstance(value, int):
        return 3, 1, struct.pack(byte_order + "H", value)
    assert isinstance(value, list)
    pairs = [part for number in value for part in (number.numerator, number.denominator)]
    return 5, len(value), struct.pack(f"{byte_order}{len(pairs)}I", *pairs)


def directory(tags: dict[int, object], at: int, byte_order: str, *, is_big: bool) -> bytes:
    """Return a directory that lies at `at`, its long values behind it."""
    word, head = ("Q", "Q") if is_big else ("I", "H")
    size = struct.calcsize(word)
    end = at + struct.calcsize("<" + head) + len(tags) * (4 + 2 * size) + size
    entries, values = struct.pack(byte_order + head, len(tags)), b""
    for tag, value in tags.items():
        kind, count, body = field(value, byte_order)
        entries += struct.pack(f"{byte_order}HH{word}", tag, kind, count)
        if len(body) <= size:
            entries += body.ljust(size, b"\0")
        else:
            entries += struct.pack(byte_order + word, end + len(values))
            values += body + bytes(len(body) % 2)
    return entries + bytes(size) + values


def tiff_with_exif(*, is_big: bool, byte_order: str = "<", pointer: int = 4) -> bytes:
    """A picture with DETAILS and POSITION in directories behind it; `pointer` is the field type that leads there."""
    texts = [(271, 2, 0, "ACME", True), (272, 2, 0, "Model 1, with a long name", True)]
    # tifffile writes no pointers of its user's: private tags that become pointers.
    links = {65001: (EXIF_IFD, DETAILS), 65002: (GPS_IFD, POSITION)}
    extra = [(tag, pointer, 1, 0, True) for tag in links]
    data = bytearray(save_tiff(RGB, bigtiff=is_big, byteorder=byte_order, extratags=texts + extra))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = {tag: (file.pages[0].tags[tag].offset, file.pages[0].tags[tag].valueoffset) for tag in links}
    for placeholder, (tag, tags) in links.items():
        entry, value = places[placeholder]
        struct.pack_into(byte_order + "H", data, entry, tag)
        struct.pack_into(byte_order + ("Q" if pointer > 13 else "I"), data, value, len(data))
        data += directory(tags, len(data), byte_order, is_big=is_big)
    return bytes(data)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize(
    ("is_big", "pointer"), [(False, 4), (False, 13), (True, 4), (True, 13), (True, 16), (True, 18)]
)
def test_tiff_and_bigtiff_say_the_same(is_big: bool, pointer: int, byte_order: str) -> None:
    image = decode_ldr(tiff_with_exif(is_big=is_big, byte_order=byte_order, pointer=pointer), LIMITS)
    assert image.info.capture == CAPTURE
    assert image.info.warnings == ()
    assert np.array_equal(image.pixels, RGB)


def test_bigtiff_without_exif_is_silent() -> None:
    info = decode_ldr(save_tiff(RGB, bigtiff=True), LIMITS).info
    assert (info.capture, info.warnings) == (CaptureMetadata(), ())


@pytest.mark.parametrize(
    ("is_big", "target"),
    [(False, 2**31), (False, 2**32 - 1), (True, 2**31), (True, 2**32 - 1), (True, 2**63), (True, 2**64 - 1)],
)
def test_a_pointer_to_nowhere_costs_the_exif_alone(target: int, is_big: bool) -> None:
    data = bytearray(tiff_with_exif(is_big=is_big, pointer=16 if is_big else 4))
    entry = data.index(struct.pack("<HHQ" if is_big else "<HHI", EXIF_IFD, 16 if is_big else 4, 1))
    struct.pack_into("<Q" if is_big else "<I", data, entry + (12 if is_big else 8), target)
    image = decode_ldr(bytes(data), LIMITS)
    assert np.array_equal(image.pixels, RGB)
    assert image.info.capture.camera_make == "ACME"
    assert image.info.capture.exposure_time_s is None
    assert image.info.warnings == ("exif_invalid",)


def test_a_directory_that_leads_to_itself_ends() -> None:
    data = bytearray(tiff_with_exif(is_big=True, pointer=18))
    first = int.from_bytes(data[8:16], "little")
    for tag in (EXIF_IFD, GPS_IFD):
        entry = data.index(struct.pack("<HHQ", tag, 18, 1))
        struct.pack_into("<Q", data, entry + 12, first)
    image = decode_ldr(bytes(data), LIMITS)
    assert np.array_equal(image.pixels, RGB)
    assert image.info.capture.camera_make == "ACME"


def test_a_negative_pointer_is_damage() -> None:
    block = b"II*\0" + struct.pack("<IHHHIiI", 8, 1, EXIF_IFD, 9, 1, -(10**6), 0)
    assert not parse_exif(block).is_valid


def test_a_directory_that_claims_to_be_endless_is_read_in_part() -> None:
    entry = struct.pack("<HHQ4sI", 0x010F, 2, 4, b"ACM\0", 0)
    values, is_sound = read_ifd(
        struct.pack("<Q", 2**64 - 1) + entry * 5000, 0, IfdForm("<", is_big=True), frozenset({0x010F})
    )
    assert (values, is_sound) == ({0x010F: b"ACM\0"}, False)
    huge = struct.pack("<QHHQQ", 1, 0x010F, 2, 2**64 - 1, 0)
    assert read_ifd(huge, 0, IfdForm("<", is_big=True), frozenset({0x010F})) == ({}, False)


@pytest.mark.parametrize("head", [b"II+\0\4\0\0\0", b"II+\0\x08\0\1\0", b"MM\0+\x08\0\0\0", b"II+\0\x08\0\0\0"[:7]])
def test_headers_that_are_no_bigtiff(head: bytes) -> None:
    assert read_tiff_header(head.ljust(40, b"\0") if len(head) == 8 else head) is None


def test_random_damage_of_bigtiff_is_bounded_and_typed() -> None:
    chance = random.Random(11)
    whole = tiff_with_exif(is_big=True, pointer=16)
    start = len(whole) - 700  # the tables, and little of the pixels
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 10])):
            data[chance.randrange(16) if chance.random() < 0.1 else chance.randrange(start, len(data))] = chance.choice(
                [0, 1, 0x7F, 0xFF, chance.randrange(256)]
            )
        cut = bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data)
        parse_exif(cut)
        try:
            image = decode_ldr(cut, LIMITS)
        except ImageError:
            continue
        assert image.pixels.shape == (image.info.height, image.info.width, 3)
