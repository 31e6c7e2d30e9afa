"""EXIF values, their units and signs, and damage."""

from __future__ import annotations

import random

import pytest
from ldr_samples import exif_block
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pipeline.codecs.exif import MAX_TEXT_CHARS, clean_text, parse_exif, xmp_orientation
from pipeline.codecs.ifd import IfdForm, read_ifd
from pipeline.records import CaptureMetadata


def full_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x013B] = "ACME", "Model 1", 6, "A. Person"
    details = exif.get_ifd(0x8769)
    details[0x829A] = IFDRational(1, 250)
    details[0x829D] = IFDRational(28, 10)
    details[0x8827] = 400
    details[0x9003] = "2024:02:29 23:59:58"
    details[0x9011] = "+02:30"
    details[0x920A] = IFDRational(35, 1)
    details[0xA433], details[0xA434] = "Glass", "35mm F2.8"
    details[0xA431], details[0xA435] = "2003871", "0042"
    details[0x9206] = IFDRational(325, 100)
    exif[0x010E] = "Harbour at night"
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "S", (33.0, 30.0, 36.0)
    gps[3], gps[4] = "W", (70.0, 45.0, 0.0)
    gps[5], gps[6] = b"\1", IFDRational(125, 10)
    return exif.tobytes()


def with_details(**tags: object) -> CaptureMetadata:
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    for tag, value in tags.items():
        details[int(tag[1:], 16)] = value
    return parse_exif(exif.tobytes()).capture


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_every_value_and_unit(prefix: bytes) -> None:
    facts = parse_exif(prefix + full_block().removeprefix(b"Exif\0\0"))
    assert facts.is_valid
    assert facts.orientation == 6
    assert facts.capture == CaptureMetadata(
        camera_make="ACME",
        camera_model="Model 1",
        lens_make="Glass",
        lens_model="35mm F2.8",
        camera_serial="2003871",
        lens_serial="0042",
        exposure_time_s=1 / 250,
        aperture=2.8,
        iso_speed=400.0,
        focal_length_mm=35.0,
        focus_m=3.25,
        captured_at="2024:02:29 23:59:58",
        utc_offset_s=-9000.0,
        owner="A. Person",
        comments="Harbour at night",
        latitude_deg=pytest.approx(-33.51),
        longitude_deg=pytest.approx(-70.75),
        altitude_m=-12.5,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("+02:00", -7200.0), ("-05:30", 19800.0), ("+00:00", 0.0), ("   :  ", None), ("+99:00", None), ("Z", None)],
)
def test_utc_offset_is_what_is_added_to_local_time(text: str, seconds: float | None) -> None:
    """OpenEXR: UTC == local time + utcOffset, so Paris in summer (+02:00) is -7200 s."""
    assert with_details(t9011=text).utc_offset_s == seconds


def test_zero_denominators_and_nonsense_are_none() -> None:
    capture = with_details(t829A=IFDRational(1, 0), t829D=IFDRational(0, 1), t9003="0000:00:00 00:00:00", t8827=0)
    assert capture == CaptureMetadata()


@pytest.mark.parametrize("distance", [IFDRational(0, 1), IFDRational(0xFFFFFFFF, 1), IFDRational(1, 0)])
def test_distance_that_is_unknown_or_infinite_is_none(distance: IFDRational) -> None:
    assert with_details(t9206=distance) == CaptureMetadata()


def test_saturated_iso_uses_the_wide_tag() -> None:
    assert with_details(t8827=65535, t8832=102400).iso_speed == 102400.0
    assert with_details(t8827=65535).iso_speed == 65535.0


def test_owner_falls_back_to_the_camera_owner() -> None:
    assert with_details(tA430="Owner").owner == "Owner"


@pytest.mark.parametrize(
    ("gps", "latitude"),
    [
        ({2: (33.0, 30.0, 0.0), 1: "N"}, 33.5),
        ({2: (91.0, 0.0, 0.0), 1: "N"}, None),
        ({2: (33.0, 0.0, 0.0)}, None),
        ({2: (IFDRational(33, 0), IFDRational(0, 1), IFDRational(0, 1)), 1: "N"}, None),
    ],
)
def test_coordinates_need_a_reference_and_a_range(gps: dict[int, object], latitude: float | None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update(gps)
    assert parse_exif(exif.tobytes()).capture.latitude_deg == latitude


def test_text_is_cleaned() -> None:
    assert clean_text(b"Canon\0\0garbage") == "Canon"
    assert clean_text("a\x07b\x1b[31m\u202ec ") == "ab[31mc"
    assert clean_text(b"caf\xe9") == "caf\u00e9"
    assert clean_text("caf\u00e9".encode()) == "caf\u00e9"
    assert clean_text(b"  \0x") is None
    assert clean_text("x" * 1000) == "x" * MAX_TEXT_CHARS


@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"II*\0", b"PK\3\4" + bytes(40), b"II*\0\xff\xff\xff\xff"])
def test_no_directory(data: bytes) -> None:
    facts = parse_exif(data)
    assert not facts.is_valid
    assert facts.orientation is None
    assert facts.capture == CaptureMetadata()


def test_orientation_out_of_range() -> None:
    assert parse_exif(exif_block(9)).is_valid is False
    assert parse_exif(exif_block(9)).orientation is None
    assert parse_exif(exif_block(0)).is_valid is True
    assert parse_exif(exif_block(0)).orientation is None


def test_cut_block_keeps_what_can_be_read() -> None:
    whole = full_block()
    assert parse_exif(whole).is_valid
    facts = parse_exif(whole[: len(whole) - 60])
    assert not facts.is_valid
    assert facts.orientation == 6
    assert facts.capture.camera_make == "ACME"


def test_random_damage_never_raises() -> None:
    chance = random.Random(4)
    whole = full_block()
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 10])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        capture = parse_exif(bytes(data[: chance.randrange(len(data) + 1)])).capture
        assert capture.latitude_deg is None or -90 <= capture.latitude_deg <= 90


def test_huge_counts_are_damage() -> None:
    entry = b"\x0f\x01\x02\x00\xff\xff\xff\xff\x00\x00\x00\x00"
    values, is_sound = read_ifd(b"\x01\x00" + entry, 0, IfdForm("<"), frozenset({0x010F}))
    assert (values, is_sound) == ({}, False)


@pytest.mark.parametrize(
    ("xmp", "orientation"),
    [
        (b'tiff:Orientation="6"', 6),
        (b"<tiff:Orientation>3</tiff:Orientation>", 3),
        (b"tiff:Orientation = '8'", 8),
        (b'tiff:Orientation="12"', None),
        (b"", None),
    ],
)
def test_xmp_orientation(xmp: bytes, orientation: int | None) -> None:
    assert xmp_orientation(xmp) == orientation
