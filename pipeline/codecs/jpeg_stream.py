"""The segments and scans of a JPEG stream (ITU-T T.81), and their strict decoding.

libjpeg decodes damaged entropy data to gray or shifted blocks and only warns; strict mode turns every such warning
into an error. Damage in the header's metadata, junk between its segments, and padding before the end marker are another
matter: they lose no pixel, so they are cut out or put right before decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import CorruptImageError, TruncatedImageError

APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_SOI = b"\xff\xd8"
_EOI, _SOS, _DHT, _JPG, _DAC = 0xD9, 0xDA, 0xC4, 0xC8, 0xCC
# APP0 (JFIF) and APP14 (Adobe) decide about colour; the other application segments and comments are metadata.
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_PROGRESSIVE = 0xC2
_NUM_COEFFICIENTS = 64

# A hostile progressive file can hold many thousand scans over a large frame, each decoded in full.
_MAX_SCANS = 1000
_MAX_SEGMENTS = 100_000
# What follows 0xFF in coded data where a segment or the end begins: no stuffed zero, no restart marker, no fill byte.
_MARKER_IN_SCANS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

# Encoders that work in blocks of a disk fill the last one up before the end marker.
_MAX_PADDING_BYTES = 512
_EXTRANEOUS_AT_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")

# What libjpeg says where it gets no memory; it says so in one class of exceptions with what is wrong with the file.
_OUT_OF_MEMORY = "Insufficient memory"

# The colour transforms that libjpeg knows in an Adobe segment, and which it takes for any other (jdapimin.c).
_ADOBE_TRANSFORMS = {3: (frozenset({0, 1}), 1), 4: (frozenset({0, 2}), 2)}


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment: its body lies behind the length."""

    marker: int
    start: int  # of the 0xFF byte
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The segments before the first scan, the one frame header among them, and the first scan's header."""

    segments: tuple[Segment, ...]
    frame: Segment
    scan: Segment
    has_junk: bool


def decode_strictly(data: bytes, layout: Layout, color_space: str) -> tuple[NDArray[np.uint8], bool]:
    """Return uint8 samples (H, W, C), and whether padding before the end marker had to be left out.

    Raises TruncatedImageError and CorruptImageError for everything that libjpeg would warn of, and MemoryError.
    """
    behind = tuple(_segments_behind(data, layout.scan))
    end = behind[-1].start if behind and behind[-1].marker == _EOI else len(data)
    if layout.frame.marker == _PROGRESSIVE:
        _require_all_scans(data, layout, behind)
    if data.count(b"\xff\xda", layout.scan.start, end) > _MAX_SCANS:
        raise CorruptImageError(f"JPEG with more than {_MAX_SCANS} scans")
    stream = _normalised(data, layout)
    try:
        return _simplejpeg(stream, color_space), False
    except ValueError as error:
        # What lies behind the first scan is as long in the stream as in the file.
        padded = _without_padding(stream, len(stream) - (len(data) - end), str(error))
        if padded is not None:
            try:
                return _simplejpeg(padded, color_space), True
            except ValueError:
                pass  # it is damaged otherwise, too: the first message says more
        text = str(error)
        # A file cut between two scans of a progressive JPEG shows as a bad table: then its end marker is missing.
        is_truncated = "Premature end" in text or data.find(bytes([0xFF, _EOI]), layout.scan.end) < 0
        kind = TruncatedImageError if is_truncated else CorruptImageError
        raise kind(f"JPEG: {text}") from error


def _simplejpeg(stream: bytes, color_space: str) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, colorspace=color_space, strict=True)
    except ValueError as error:
        if _OUT_OF_MEMORY in str(error):
            raise MemoryError(f"JPEG: {error}") from error
        raise
    return pixels


def _segments_behind(data: bytes, scan: Segment) -> Iterator[Segment]:
    """Yield the segments between scans, their headers, and at last the end marker of the image, if it has one."""
    at = scan.end
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER_IN_SCANS.search(data, at)
        if match is None:
            return
        start, marker = match.start(), data[match.start() + 1]
        length = 0 if marker in _STANDALONE else int.from_bytes(data[start + 2 : start + 4], "big")
        at = start + 2 + length
        yield Segment(marker, start, min(start + 4, at), at)
        if marker == _EOI:
            return


def _require_all_scans(data: bytes, layout: Layout, behind: Iterable[Segment]) -> None:
    """Raise TruncatedImageError unless every coefficient comes down to its last bit (T.81, G.1.1.1).

    A download that was broken off and closed with an end marker lacks scans, and decodes to a blurred picture.
    """
    frame = data[layout.frame.body : layout.frame.end]
    missing = {component: set(range(_NUM_COEFFICIENTS)) for component in frame[6 : 6 + 3 * frame[5] : 3]}
    for scan in (layout.scan, *(segment for segment in behind if segment.marker == _SOS)):
        header = data[scan.body : scan.end]
        num_components = header[0] if header else 0
        if len(header) < 4 + 2 * num_components:
            continue
        first, last, approximation = header[1 + 2 * num_components : 4 + 2 * num_components]
        if not approximation & 15:
            for component in header[1 : 1 + 2 * num_components : 2]:
                missing.get(component, set()).difference_update(range(first, last + 1))
    if any(missing.values()):
        raise TruncatedImageError("JPEG: a progressive image without all of its scans")


def _without_padding(stream: bytes, end: int, message: str) -> bytes | None:
    """Return the stream without zeros and fill bytes right before its end marker, where these alone are the fault."""
    found = _EXTRANEOUS_AT_END.search(message)
    if found is None:
        return None
    start = max(0, end - _MAX_PADDING_BYTES)
    run = stream[len(stream[start:end].rstrip(b"\0\xff")) + start : end]
    # Only what libjpeg skipped: zeros further ahead may be coded data. It does not count fill bytes.
    num_skipped = int(found[1]) + run.count(b"\xff")
    if len(run) < int(found[1]):
        return None
    return stream[: end - min(num_skipped, len(run))] + stream[end:]


def scan_layout(data: bytes) -> Layout:
    """Walk the segments up to the first scan. Raises TruncatedImageError and CorruptImageError."""
    segments: list[Segment] = []
    frames: list[Segment] = []
    at, has_junk = 2, False
    while True:
        start = _next_marker(data, at)
        # Fill bytes may stand before a marker (T.81, B.1.1.2).
        has_junk |= data[at:start].strip(b"\xff") != b""
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
        segment = Segment(marker, start, start + 4, end)
        if marker == _SOS:
            break
        segments.append(segment)
        if marker in _START_OF_FRAME:
            frames.append(segment)
        at = end
    if len(frames) != 1:
        raise CorruptImageError(f"JPEG with {len(frames)} frame headers")
    return Layout(tuple(segments), frames[0], segment, has_junk)


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


def _normalised(data: bytes, layout: Layout) -> bytes:
    """Return what strict decoding may see: the segments that pixels depend on, then the scans.

    That leaves out junk, and metadata whose damage would fail the image (an incomplete profile is one of libjpeg's
    warnings). A sequential scan must carry Ss, Se, Ah/Al = 0, 63, 0 (T.81 B.2.3); some cameras write zeros, and every
    decoder ignores them.
    """
    scan = layout.scan
    parts: list[bytes | memoryview] = [
        _SOI,
        *(_known(data, s, layout.frame) for s in layout.segments if s.marker not in _METADATA),
    ]
    if layout.frame.marker in _SEQUENTIAL and scan.end - scan.body > 3:
        parts += [data[scan.start : scan.end - 3], b"\x00\x3f\x00", memoryview(data)[scan.end :]]
    else:
        parts.append(memoryview(data)[scan.start :])
    return b"".join(parts)


def _known(data: bytes, segment: Segment, frame: Segment) -> bytes:
    """Return the segment with what libjpeg would warn of set to what it then assumes.

    A JFIF version other than 1.x becomes 1.01; a colour transform that Adobe does not define becomes YCbCr or YCCK.
    """
    whole, body = data[segment.start : segment.end], data[segment.body : segment.end]
    if segment.marker == APP0 and len(body) >= 14 and body.startswith(b"JFIF\0") and body[5] != 1:
        return whole[:9] + b"\x01\x01" + whole[11:]
    if segment.marker == APP14 and len(body) >= 12 and body.startswith(b"Adobe"):
        transforms, assumed = _ADOBE_TRANSFORMS.get(data[frame.body + 5], (None, 0))
        if transforms is not None and body[11] not in transforms:
            return whole[:15] + bytes([assumed]) + whole[16:]
    return whole
