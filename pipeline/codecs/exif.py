"""EXIF and XMP: the orientation, and the capture facts that OpenEXR has standard attributes for.

A reader of its own, because metadata must never cost an image: every value is bounds-checked, a damaged directory
yields what is still readable, and nothing is printed or raised. Tags are those of CIPA DC-008 (Exif 3.0), the
directory layout is TIFF 6.0, section 2.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.records import CaptureMetadata

MAX_TEXT_CHARS = 256

_ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_GPS_IFD = 0x8825
_PRIMARY_TAGS = frozenset({0x010F, 0x0110, _ORIENTATION, 0x013B, _EXIF_IFD, _GPS_IFD})
_EXIF_TAGS = frozenset(
    {0x829A, 0x829D, 0x8827, 0x8832, 0x9003, 0x9010, 0x9011, 0x920A, 0xA430, 0xA433, 0xA434}  # names: _capture()
)
_GPS_TAGS = frozenset(range(1, 7))

# TIFF field type -> (struct code, size in bytes); 2 (ASCII) and 7 (UNDEFINED) are returned as bytes.
_FIELD_TYPES = {
    1: ("B", 1),
    3: ("H", 2),
    4: ("I", 4),
    5: ("II", 8),
    6: ("b", 1),
    8: ("h", 2),
    9: ("i", 4),
    10: ("ii", 8),
    11: ("f", 4),
    12: ("d", 8),
}
_BYTES_TYPES = frozenset({2, 7})
_RATIONAL_TYPES = frozenset({5, 10})
_MAX_ENTRIES = 4096
_MAX_VALUE_BYTES = 65536

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")
_UTC_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})")

Value = bytes | tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ExifFacts:
    """`orientation` is 1..8, or None where the file is silent; `is_valid` is False where anything was damaged."""

    orientation: int | None
    capture: CaptureMetadata
    is_valid: bool


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
    """Read an EXIF block (a TIFF structure, with or without the `Exif\\0\\0` prefix). Never raises."""
    data = data.removeprefix(b"Exif\0\0")
    header = read_tiff_header(data)
    if header is None:
        return ExifFacts(None, CaptureMetadata(), is_valid=False)
    byte_order, offset = header
    primary, is_valid = read_ifd(data, offset, byte_order, _PRIMARY_TAGS)
    parts: list[Mapping[int, Value]] = []
    for pointer, tags in ((_EXIF_IFD, _EXIF_TAGS), (_GPS_IFD, _GPS_TAGS)):
        at = _number(primary.get(pointer))
        part, part_is_valid = ({}, True) if at is None else read_ifd(data, int(at), byte_order, tags)
        parts.append(part)
        is_valid &= part_is_valid
    orientation = _number(primary.get(_ORIENTATION))
    if orientation is not None and not 1 <= orientation <= 8:
        # 0 is written by some software for "unknown"; anything else is damage.
        is_valid &= orientation == 0
        orientation = None
    return ExifFacts(None if orientation is None else int(orientation), _capture(primary, *parts), is_valid)


def xmp_orientation(xmp: bytes) -> int | None:
    """Return `tiff:Orientation` (1..8) of an XMP packet, or None."""
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else None


def read_tiff_header(data: bytes) -> tuple[str, int] | None:
    """Return the struct byte order and the offset of the first directory, or None if this is no classic TIFF header."""
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if byte_order is None or len(data) < 8:
        return None
    return byte_order, struct.unpack_from(byte_order + "I", data, 4)[0]


def read_ifd(data: bytes, offset: int, byte_order: str, tags: frozenset[int]) -> tuple[dict[int, Value], bool]:
    """Read the wanted `tags` of one image file directory.

    Returns the values that could be read (bytes for text, otherwise a tuple of numbers; a rational with a zero
    denominator is None) and whether the directory was sound.
    """
    if offset + 2 > len(data):
        return {}, False
    (num_entries,) = struct.unpack_from(byte_order + "H", data, offset)
    is_sound = num_entries <= _MAX_ENTRIES
    values: dict[int, Value] = {}
    for index in range(min(num_entries, _MAX_ENTRIES)):
        at = offset + 2 + 12 * index
        if at + 12 > len(data):
            return values, False
        tag, field_type, count = struct.unpack_from(byte_order + "HHI", data, at)
        if tag in tags:
            value = _read_value(data, at + 8, byte_order, field_type, count)
            is_sound &= value is not None
            if value is not None:
                values.setdefault(tag, value)
    return values, is_sound


def _read_value(data: bytes, at: int, byte_order: str, field_type: int, count: int) -> Value | None:
    code, size = ("s", 1) if field_type in _BYTES_TYPES else _FIELD_TYPES.get(field_type, ("", 0))
    num_bytes = size * count
    if not 0 < num_bytes <= _MAX_VALUE_BYTES:
        # An empty text is common and harmless; anything else of this kind is damage.
        return b"" if field_type in _BYTES_TYPES and count == 0 else None
    if num_bytes > 4:
        (at,) = struct.unpack_from(byte_order + "I", data, at)
    if at + num_bytes > len(data):
        return None
    if field_type in _BYTES_TYPES:
        return data[at : at + num_bytes]
    numbers = struct.unpack_from(byte_order + code * count, data, at)
    if field_type in _RATIONAL_TYPES:
        return tuple(n / d if d else None for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    return numbers


def _capture(primary: Mapping[int, Value], exif: Mapping[int, Value], gps: Mapping[int, Value]) -> CaptureMetadata:
    iso = _positive(exif.get(0x8827))
    if iso is None or iso >= 65535:  # PhotographicSensitivity saturates; RecommendedExposureIndex is 32 bits wide
        iso = _positive(exif.get(0x8832)) or iso
    return CaptureMetadata(
        camera_make=_text(primary.get(0x010F)),
        camera_model=_text(primary.get(0x0110)),
        lens_make=_text(exif.get(0xA433)),
        lens_model=_text(exif.get(0xA434)),
        exposure_time_s=_positive(exif.get(0x829A)),
        aperture=_positive(exif.get(0x829D)),
        iso_speed=iso,
        focal_length_mm=_positive(exif.get(0x920A)),
        captured_at=_date_time(exif.get(0x9003)),
        utc_offset_s=_utc_offset_s(exif.get(0x9011) or exif.get(0x9010)),
        owner=_text(primary.get(0x013B)) or _text(exif.get(0xA430)),
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
