"""EXIF and XMP: the orientation, and the capture facts that OpenEXR has standard attributes for.

A reader of its own, because metadata must never cost an image: every value is bounds-checked, a damaged directory
yields what is still readable, and nothing is printed or raised. Tags are those of CIPA DC-008 (Exif 3.0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.codecs.ifd import IfdForm, Value, read_ifd, read_tiff_header
from pipeline.records import CaptureMetadata

MAX_TEXT_CHARS = 256

_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_GPS_IFD = 0x8825
_PRIMARY_TAGS = frozenset({0x010E, 0x010F, 0x0110, _ORIENTATION, 0x013B, _EXIF_IFD, _GPS_IFD})
# Names: _capture().
_CAPTURE_TAGS = frozenset(
    {0x829A, 0x829D, 0x8827, 0x8832, 0x9003, 0x9010, 0x9011, 0x9206, 0x920A, *range(0xA430, 0xA436)} - {0xA432}
)
_GPS_TAGS = frozenset(range(1, 7))

# A DCF 2.0 "option file" (JEITA CP-3461B): no colour space of EXIF's own, and the interoperability index of Adobe RGB.
_COLOR_SPACE, _UNCALIBRATED = 0xA001, 0xFFFF
_INTEROPERABILITY_IFD, _INTEROPERABILITY_INDEX, _ADOBE_RGB = 0xA005, 0x0001, b"R03"
_EXIF_TAGS = _CAPTURE_TAGS | {_COLOR_SPACE, _INTEROPERABILITY_IFD}

_INFINITELY_FAR_M = 1e6

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_UTC_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})")


@dataclass(frozen=True, slots=True)
class ExifFacts:
    """`orientation` is 1..8, or None where the file is silent; `is_valid` is False where anything was damaged.

    `is_adobe_rgb` says that the pixels of a JPEG without a profile are Adobe RGB (1998).
    """

    orientation: int | None
    capture: CaptureMetadata
    is_valid: bool
    is_adobe_rgb: bool = False


NO_EXIF = ExifFacts(orientation=None, capture=CaptureMetadata(), is_valid=True)


def clean_text(raw: bytes | str) -> str | None:
    """Return text up to the first NUL, without control characters, at most 256 characters; None if nothing is left."""
    if isinstance(raw, bytes):
        raw = raw.partition(b"\0")[0]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
    else:
        text = raw.partition("\0")[0]
    text = "".join(char for char in text if char.isprintable()).strip()
    return text[:MAX_TEXT_CHARS].strip() or None


def parse_exif(data: bytes) -> ExifFacts:
    """Read an EXIF block (a TIFF or BigTIFF structure, with or without the `Exif\\0\\0` prefix). Never raises."""
    data = data.removeprefix(b"Exif\0\0")
    header = read_tiff_header(data)
    if header is None:
        return ExifFacts(None, CaptureMetadata(), is_valid=False)
    form, offset = header
    primary, is_valid = read_ifd(data, offset, form, _PRIMARY_TAGS)
    parts: list[Mapping[int, Value]] = []
    for pointer, tags in ((_EXIF_IFD, _EXIF_TAGS), (_GPS_IFD, _GPS_TAGS)):
        at = _number(primary.get(pointer))
        part, part_is_valid = ({}, True) if at is None else read_ifd(data, int(at), form, tags)
        parts.append(part)
        is_valid &= part_is_valid
    orientation = _number(primary.get(_ORIENTATION))
    if orientation is not None and not 1 <= orientation <= 8:
        # 0 is written by some software for "unknown"; anything else is damage.
        is_valid &= orientation == 0
        orientation = None
    return ExifFacts(
        orientation=None if orientation is None else int(orientation),
        capture=_capture(primary, *parts),
        is_valid=is_valid,
        is_adobe_rgb=_is_adobe_rgb(data, form, parts[0]),
    )


def _is_adobe_rgb(data: bytes, form: IfdForm, exif: Mapping[int, Value]) -> bool:
    at = _number(exif.get(_INTEROPERABILITY_IFD))
    if at is None or at < 0 or _number(exif.get(_COLOR_SPACE)) != _UNCALIBRATED:
        return False
    # Programs that move the directories often leave this one behind: its damage says nothing about the rest.
    values, _ = read_ifd(data, int(at), form, frozenset({_INTEROPERABILITY_INDEX}))
    index = values.get(_INTEROPERABILITY_INDEX)
    return isinstance(index, bytes) and index.rstrip(b"\0 ") == _ADOBE_RGB


def xmp_orientation(xmp: bytes) -> int | None:
    """Return `tiff:Orientation` (1..8) of an XMP packet, or None."""
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else None


def _capture(primary: Mapping[int, Value], exif: Mapping[int, Value], gps: Mapping[int, Value]) -> CaptureMetadata:
    iso = _positive(exif.get(0x8827))
    if iso is None or iso >= 65535:  # PhotographicSensitivity saturates; RecommendedExposureIndex is 32 bits wide
        iso = _positive(exif.get(0x8832)) or iso
    return CaptureMetadata(
        camera_make=_text(primary.get(0x010F)),
        camera_model=_text(primary.get(0x0110)),
        lens_make=_text(exif.get(0xA433)),
        lens_model=_text(exif.get(0xA434)),
        camera_serial=_text(exif.get(0xA431)),
        lens_serial=_text(exif.get(0xA435)),
        exposure_time_s=_positive(exif.get(0x829A)),
        aperture=_positive(exif.get(0x829D)),
        iso_speed=iso,
        focal_length_mm=_positive(exif.get(0x920A)),
        focus_m=_focus_m(exif.get(0x9206)),
        captured_at=_date_time(exif.get(0x9003)),
        utc_offset_s=_utc_offset_s(exif.get(0x9011) or exif.get(0x9010)),
        owner=_text(primary.get(0x013B)) or _text(exif.get(0xA430)),
        comments=_text(primary.get(0x010E)),
        latitude_deg=_degrees(gps.get(2), gps.get(1), b"S", 90.0),
        longitude_deg=_degrees(gps.get(4), gps.get(3), b"W", 180.0),
        altitude_m=_altitude_m(gps.get(6), gps.get(5)),
    )


def _number(value: Value | None) -> float | None:
    if not value or isinstance(value, bytes):
        return None
    first = value[0]
    return first if first is not None and math.isfinite(first) else None


def _positive(value: Value | None) -> float | None:
    number = _number(value)
    return float(number) if number is not None and number > 0 else None


def _text(value: Value | None) -> str | None:
    return clean_text(value) if isinstance(value, bytes) else None


def _focus_m(value: Value | None) -> float | None:
    """SubjectDistance: 0 is unknown, and a numerator of 0xFFFFFFFF is infinity, which says nothing in metres."""
    distance = _positive(value)
    return distance if distance is not None and distance < _INFINITELY_FAR_M else None


def _date_time(value: Value | None) -> str | None:
    text = _text(value)
    if text is None:
        return None
    try:
        # EXIF times are local and carry no zone; only their form is checked here.
        datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return text if len(text) == 19 else None


def _utc_offset_s(value: Value | None) -> float | None:
    """EXIF's `+02:00` is local minus UTC; OpenEXR's utcOffset is the other way round: UTC == local + utcOffset."""
    match = _UTC_OFFSET.fullmatch(_text(value) or "")
    if match is None:
        return None
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    if seconds > 15 * 3600:
        return None
    return float(seconds if match[1] == "-" else -seconds) + 0.0


def _degrees(value: Value | None, reference: Value | None, negative: bytes, limit: float) -> float | None:
    if value is None or isinstance(value, bytes) or not 1 <= len(value) <= 3:
        return None
    degrees = 0.0
    for part, scale in zip(value, (1, 60, 3600), strict=False):
        if part is None or part < 0:
            return None
        degrees += part / scale
    if not isinstance(reference, bytes) or degrees > limit:
        return None
    return -degrees if reference[:1].upper() == negative else degrees


def _altitude_m(value: Value | None, reference: Value | None) -> float | None:
    altitude = _number(value)
    if altitude is None:
        return None
    return -altitude if _number(reference) == 1 else altitude
