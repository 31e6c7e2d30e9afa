"""JPEG (ITU-T T.81): header segments, and pixels through simplejpeg in strict mode.

What makes a damaged stream an error, and which damage is none, stands in `jpeg_stream`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import ColorSpace, LdrHeader, Samples
from pipeline.codecs.ifd import read_ifd, read_tiff_header
from pipeline.codecs.jpeg_stream import APP1, APP2, APP14, Layout, Segment, decode_strictly, scan_layout
from pipeline.errors import CorruptImageError, UnsupportedFormatError

_DECODABLE = frozenset({0xC0, 0xC1, 0xC2})

_EXIF_ID = b"Exif\0\0"
_XMP_ID = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_ID = b"ICC_PROFILE\0"
_MPF_ID = b"MPF\0"
_GAIN_MAP_ID = b"urn:iso:std:iso:ts:21496:-1\0"
_GAIN_MAP_XMP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
_APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
_MPF_NUM_IMAGES = 0xB001

_COMPONENTS = {1: (ColorSpace.GRAY, "L"), 3: (ColorSpace.RGB, "RGB"), 4: (ColorSpace.CMYK, "CMYK")}


def read_header(data: bytes) -> LdrHeader:
    """Read everything up to the first scan. Raises TruncatedImageError, CorruptImageError, UnsupportedFormatError."""
    layout = scan_layout(data)
    width, height, num_components = _read_frame(data, layout.frame)
    space, mode = _COMPONENTS[num_components]
    icc, is_icc_broken = _read_icc(data, layout)
    xmp = next(_bodies(data, layout, APP1, _XMP_ID), None)
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
        exif=next(_bodies(data, layout, APP1, _EXIF_ID), None),
        xmp=xmp,
        icc=icc,
        is_icc_broken=is_icc_broken,
        num_frames=num_frames,
        warnings=tuple(warnings),
    )


def decode(data: bytes, header: LdrHeader) -> Samples:
    """Return (H, W), (H, W, 3) or (H, W, 4) samples; CMYK with 255 as full ink. JPEG has no alpha.

    The warning `junk_at_end` says that padding before the end marker was left out.
    """
    layout = scan_layout(data)
    names = {ColorSpace.GRAY: "GRAY", ColorSpace.RGB: "RGB", ColorSpace.CMYK: "CMYK"}
    pixels, has_padding = decode_strictly(data, layout, names[header.color_space])
    if header.color_space is ColorSpace.CMYK and next(_bodies(data, layout, APP14, b"Adobe"), None) is not None:
        # Adobe writes inks inverted (Adobe Technical Note 5116); without its marker T.81 has 255 as full ink.
        np.subtract(255, pixels, out=pixels)
    if header.color_space is ColorSpace.GRAY:
        pixels = pixels.reshape(pixels.shape[:2])
    return Samples(pixels, None, ("junk_at_end",) if has_padding else ())


def require_whole(data: bytes) -> None:
    """Raise TruncatedImageError or CorruptImageError where the coded data of this stream are damaged.

    For streams that a lenient decoder has taken. Kinds that the strict one does not know (12 bits per sample, lossless)
    are passed over.
    """
    layout = scan_layout(data)
    try:
        _, _, num_components = _read_frame(data, layout.frame)
    except UnsupportedFormatError:
        return
    decode_strictly(data, layout, "CMYK" if num_components == 4 else "GRAY")


def _read_frame(data: bytes, frame: Segment) -> tuple[int, int, int]:
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


def _bodies(data: bytes, layout: Layout, marker: int, identifier: bytes) -> Iterator[bytes]:
    """Yield what follows `identifier` in each such application segment."""
    for segment in layout.segments:
        if segment.marker == marker and data.startswith(identifier, segment.body):
            yield data[segment.body + len(identifier) : segment.end]


def _read_icc(data: bytes, layout: Layout) -> tuple[bytes | None, bool]:
    """Join the profile's parts (ICC.1:2022 B.4): sequence number from 1, number of parts, data."""
    parts = list(_bodies(data, layout, APP2, _ICC_ID))
    if not parts:
        return None, False
    by_number = {part[0]: part[2:] for part in parts if len(part) > 2}
    if sorted(by_number) != list(range(1, parts[0][1] + 1 if len(parts[0]) > 1 else 1)) or not by_number:
        return None, True
    return b"".join(by_number[number] for number in sorted(by_number)), False


def _count_pictures(data: bytes, layout: Layout) -> int:
    """Number of images of a multi-picture file (CIPA DC-007), 1 otherwise."""
    index = next(_bodies(data, layout, APP2, _MPF_ID), None)
    header = read_tiff_header(index) if index else None
    if index is None or header is None:
        return 1
    values, _ = read_ifd(index, header[1], header[0], frozenset({_MPF_NUM_IMAGES}))
    count = values.get(_MPF_NUM_IMAGES, (1,))[0]
    return int(count) if isinstance(count, int) and 1 <= count <= 10_000 else 1


def _has_gain_map(data: bytes, layout: Layout, xmp: bytes | None) -> bool:
    return (
        (xmp is not None and _GAIN_MAP_XMP in xmp)
        or next(_bodies(data, layout, APP2, _GAIN_MAP_ID), None) is not None
        or data.find(_APPLE_GAIN_MAP, layout.scan.end) >= 0
    )
