"""JPEG (ITU-T T.81): header segments, and pixels through simplejpeg in strict mode.

libjpeg decodes damaged entropy data to gray or shifted blocks and only warns; strict mode turns every such warning
into an error. Damage in the header's metadata, and junk between its segments, is another matter: it loses no pixel, so
it is cut out before decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.codecs.exif import read_ifd, read_tiff_header
from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import ColorSpace, LdrHeader
from pipeline.errors import CorruptImageError, TruncatedImageError, UnsupportedFormatError

_SOI = b"\xff\xd8"
_EOI, _SOS, _DHT, _JPG, _DAC = 0xD9, 0xDA, 0xC4, 0xC8, 0xCC
_APP1, _APP2, _APP14 = 0xE1, 0xE2, 0xEE
# APP0 (JFIF) and APP14 (Adobe) decide about colour; the other application segments and comments are metadata.
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_DECODABLE = frozenset({0xC0, 0xC1, 0xC2})

_EXIF_ID = b"Exif\0\0"
_XMP_ID = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_ID = b"ICC_PROFILE\0"
_MPF_ID = b"MPF\0"
_GAIN_MAP_ID = b"urn:iso:std:iso:ts:21496:-1\0"
_GAIN_MAP_XMP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
_APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_MPF_NUM_IMAGES = 0xB001

# A hostile progressive file can hold many thousand scans over a large frame, each decoded in full.
_MAX_SCANS = 1000

_COMPONENTS = {1: (ColorSpace.GRAY, "L"), 3: (ColorSpace.RGB, "RGB"), 4: (ColorSpace.CMYK, "CMYK")}


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    start: int  # of the 0xFF byte
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class _Layout:
    segments: tuple[_Segment, ...]
    frame: _Segment
    scan: _Segment
    has_junk: bool


def read_header(data: bytes) -> LdrHeader:
    """Read everything up to the first scan. Raises TruncatedImageError, CorruptImageError, UnsupportedFormatError."""
    layout = _scan_layout(data)
    width, height, num_components = _read_frame(data, layout.frame)
    space, mode = _COMPONENTS[num_components]
    icc, is_icc_broken = _read_icc(data, layout)
    xmp = next(_bodies(data, layout, _APP1, _XMP_ID), None)
    num_frames = _count_pictures(data, layout)
    warnings = []
    if layout.has_junk:
        warnings.append("junk_in_header")
    if num_frames > 1:
        warnings.append("multi_picture")
    if _has_gain_map(data, layout, xmp):
        warnings.append("already_hdr_gain_map")
    return LdrHeader(
        format=ImageFormat.JPEG,
        width=width,
        height=height,
        sample_bits=8,
        mode=mode,
        color_space=space,
        exif=next(_bodies(data, layout, _APP1, _EXIF_ID), None),
        xmp=xmp,
        icc=icc,
        is_icc_broken=is_icc_broken,
        num_frames=num_frames,
        warnings=tuple(warnings),
    )


def decode(data: bytes, header: LdrHeader) -> tuple[NDArray[np.uint8], None]:
    """Return (H, W), (H, W, 3) or (H, W, 4) samples; CMYK with 255 as full ink. JPEG has no alpha."""
    layout = _scan_layout(data)
    names = {ColorSpace.GRAY: "GRAY", ColorSpace.RGB: "RGB", ColorSpace.CMYK: "CMYK"}
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise CorruptImageError(f"JPEG with more than {_MAX_SCANS} scans")
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            _normalised(data, layout), colorspace=names[header.color_space], strict=True
        )
    except ValueError as error:
        text = str(error)
        # A file cut between two scans of a progressive JPEG shows as a bad table: then its end marker is missing.
        is_truncated = "Premature end" in text or data.find(bytes([0xFF, _EOI]), layout.scan.end) < 0
        kind = TruncatedImageError if is_truncated else CorruptImageError
        raise kind(f"JPEG: {text}") from error
    if header.color_space is ColorSpace.CMYK and next(_bodies(data, layout, _APP14, b"Adobe"), None) is not None:
        # Adobe writes inks inverted (Adobe Technical Note 5116); without its marker T.81 has 255 as full ink.
        np.subtract(255, pixels, out=pixels)
    if header.color_space is ColorSpace.GRAY:
        pixels = pixels.reshape(pixels.shape[:2])
    return pixels, None


def _scan_layout(data: bytes) -> _Layout:
    segments: list[_Segment] = []
    frames: list[_Segment] = []
    at, has_junk = 2, False
    while True:
        start = _next_marker(data, at)
        has_junk |= start != at
        marker = data[start + 1]
        if marker in _STANDALONE:
            at = start + 2
            continue
        if marker in {_EOI, 0xD8}:
            raise CorruptImageError("JPEG without image data")
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if start + 4 > len(data) or end > len(data):
            raise TruncatedImageError("JPEG ends within its header")
        if end < start + 4:
            raise CorruptImageError("JPEG with an impossible segment length")
        segment = _Segment(marker, start, start + 4, end)
        if marker == _SOS:
            break
        segments.append(segment)
        if marker in _START_OF_FRAME:
            frames.append(segment)
        at = end
    if len(frames) != 1:
        raise CorruptImageError(f"JPEG with {len(frames)} frame headers")
    return _Layout(tuple(segments), frames[0], segment, has_junk)


def _next_marker(data: bytes, at: int) -> int:
    """Return where the next marker's last 0xFF is, skipping fill bytes (T.81 B.1.1.2) and whatever is no marker."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise TruncatedImageError("JPEG ends within its header")
        if data[at + 1] == 0xFF:
            at += 1
        elif data[at + 1] == 0:
            at += 2
        else:
            return at


def _read_frame(data: bytes, frame: _Segment) -> tuple[int, int, int]:
    body = data[frame.body : frame.end]
    if len(body) < 6:
        raise CorruptImageError("JPEG with a short frame header")
    precision, num_components = body[0], body[5]
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if frame.marker not in _DECODABLE or precision != 8:
        raise UnsupportedFormatError(
            f"JPEG process SOF{frame.marker - 0xC0} with {precision} bits per sample is not supported"
        )
    if num_components not in _COMPONENTS:
        raise UnsupportedFormatError(f"JPEG with {num_components} components is not supported")
    return width, height, num_components


def _bodies(data: bytes, layout: _Layout, marker: int, identifier: bytes) -> Iterator[bytes]:
    """Yield what follows `identifier` in each such application segment."""
    for segment in layout.segments:
        if segment.marker == marker and data.startswith(identifier, segment.body):
            yield data[segment.body + len(identifier) : segment.end]


def _read_icc(data: bytes, layout: _Layout) -> tuple[bytes | None, bool]:
    """Join the profile's parts (ICC.1:2022 B.4): sequence number from 1, number of parts, data."""
    parts = list(_bodies(data, layout, _APP2, _ICC_ID))
    if not parts:
        return None, False
    by_number = {part[0]: part[2:] for part in parts if len(part) > 2}
    if sorted(by_number) != list(range(1, parts[0][1] + 1 if len(parts[0]) > 1 else 1)) or not by_number:
        return None, True
    return b"".join(by_number[number] for number in sorted(by_number)), False


def _count_pictures(data: bytes, layout: _Layout) -> int:
    """Number of images of a multi-picture file (CIPA DC-007), 1 otherwise."""
    index = next(_bodies(data, layout, _APP2, _MPF_ID), None)
    header = read_tiff_header(index) if index else None
    if index is None or header is None:
        return 1
    values, _ = read_ifd(index, header[1], header[0], frozenset({_MPF_NUM_IMAGES}))
    count = values.get(_MPF_NUM_IMAGES, (1,))[0]
    return int(count) if isinstance(count, int) and 1 <= count <= 10_000 else 1


def _has_gain_map(data: bytes, layout: _Layout, xmp: bytes | None) -> bool:
    return (
        (xmp is not None and _GAIN_MAP_XMP in xmp)
        or next(_bodies(data, layout, _APP2, _GAIN_MAP_ID), None) is not None
        or data.find(_APPLE_GAIN_MAP, layout.scan.end) >= 0
    )


def _normalised(data: bytes, layout: _Layout) -> bytes:
    """Return what strict decoding may see: the segments that pixels depend on, then the scans.

    That leaves out junk, and metadata whose damage would fail the image (an incomplete profile is one of libjpeg's
    warnings). A sequential scan must carry Ss, Se, Ah/Al = 0, 63, 0 (T.81 B.2.3); some cameras write zeros, and every
    decoder ignores them.
    """
    scan = layout.scan
    parts: list[bytes | memoryview] = [
        _SOI,
        *(data[s.start : s.end] for s in layout.segments if s.marker not in _METADATA),
    ]
    if layout.frame.marker in _SEQUENTIAL and scan.end - scan.body > 3:
        parts += [data[scan.start : scan.end - 3], b"\x00\x3f\x00", memoryview(data)[scan.end :]]
    else:
        parts.append(memoryview(data)[scan.start :])
    return b"".join(parts)
