"""WebP (RFC 9649): the RIFF chunks, and pixels through libwebp."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import WebPImagePlugin

from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import ColorSpace, LdrHeader
from pipeline.errors import CorruptImageError, TruncatedImageError

_ANIMATION, _XMP, _EXIF, _ALPHA, _ICC = 0x02, 0x04, 0x08, 0x10, 0x20
_CODED = frozenset({b"VP8 ", b"VP8L"})
_MIN_ZEROS = 16


def read_header(data: bytes) -> LdrHeader:
    """Walk the RIFF chunks. Raises TruncatedImageError and CorruptImageError."""
    chunks = list(_chunks(data))
    if not chunks:
        raise CorruptImageError("WebP without image data")
    found: dict[bytes, bytes] = {}
    num_frames = 0
    for kind, start, end in chunks:
        num_frames += kind == b"ANMF"
        if kind != b"ANMF":
            found.setdefault(
                kind, data[start : min(end, start + 32)] if kind in {b"VP8 ", b"VP8L"} else data[start:end]
            )
    is_animated = False
    if b"VP8X" in found:
        flags, width, height = _read_vp8x(found[b"VP8X"])
        is_animated = bool(flags & _ANIMATION)
        has_alpha = bool(flags & _ALPHA)
    elif b"VP8 " in found:
        (width, height), has_alpha = _read_vp8(found[b"VP8 "]), False
    elif b"VP8L" in found:
        width, height, has_alpha = _read_vp8l(found[b"VP8L"])
    else:
        raise CorruptImageError("WebP without image data")
    if is_animated and not num_frames:
        raise CorruptImageError("animated WebP without frames")
    return LdrHeader(
        format=ImageFormat.WEBP,
        width=width,
        height=height,
        sample_bits=8,
        mode="RGBA" if has_alpha else "RGB",
        color_space=ColorSpace.RGB,
        has_alpha=has_alpha,
        exif=found.get(b"EXIF"),
        xmp=found.get(b"XMP "),
        icc=found.get(b"ICCP"),
        num_frames=num_frames if is_animated else 1,
        warnings=("animated",) if is_animated else (),
    )


def decode(data: bytes, header: LdrHeader) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return colour (H, W, 3) and alpha (H, W) or None; of an animation, the first frame on its canvas."""
    pixels: NDArray[Any]
    if "animated" in header.warnings:
        # Pillow's decoder composes a frame that is smaller than the canvas.
        with WebPImagePlugin.WebPImageFile(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGBA" if header.has_alpha else "RGB"))
    else:
        pixels = imagecodecs.webp_decode(data, hasalpha=header.has_alpha)
    _check_for_hole(data)
    return pixels[..., :3], pixels[..., 3] if header.has_alpha else None


def _check_for_hole(data: bytes) -> None:
    """Refuse a file whose coded pixels end in zeros that nobody needs: the hole of an interrupted download.

    Flat pictures end in zeros too (49,000 of them below noise, without loss), and libwebp's decoder reads all of them
    but three at most; behind a hole it makes up flat pixels of fewer bits than there were, and is done before the end.
    """
    kind, coded = next(_coded_pixels(data), (b"", b""))
    if len(coded) < 2 * _MIN_ZEROS or any(coded[-_MIN_ZEROS:]):
        return
    body = coded[:-_MIN_ZEROS]
    body += bytes(len(body) % 2)
    alone = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(body), b"WEBP", kind, len(body)) + body
    try:
        imagecodecs.webp_decode(alone)
    except imagecodecs.WebpError:
        return  # the zeros were needed
    raise TruncatedImageError("the end of the coded pixels was never written: it is all zeros")


def _coded_pixels(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and contents of the VP8 and VP8L chunks: of an animation, those of its first frame."""
    for kind, start, end in _chunks(data):
        if kind in _CODED:
            yield kind, data[start:end]
        elif kind == b"ANMF":
            inner = data[start + 16 : end]
            yield from _coded_pixels(b"RIFF" + struct.pack("<I", 4 + len(inner)) + b"WEBP" + inner)
            return


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    if len(data) < 12:
        raise TruncatedImageError("WebP ends within its header")
    file_end = 8 + int.from_bytes(data[4:8], "little")
    if file_end > len(data):
        raise TruncatedImageError(f"WebP of {file_end} bytes ends after {len(data)}")
    at = 12
    while at + 8 <= file_end:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length
        if end > file_end:
            raise CorruptImageError("WebP with a chunk that is longer than its file")
        yield kind, at + 8, end
        at = end + length % 2


def _read_vp8x(body: bytes) -> tuple[int, int, int]:
    if len(body) < 10:
        raise CorruptImageError("WebP with a damaged VP8X chunk")
    return body[0], int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1


def _read_vp8(body: bytes) -> tuple[int, int]:
    # RFC 6386, 9.1: frame tag (bit 0 clear for a key frame), start code, 14-bit sides below 2-bit scales.
    if len(body) < 10 or body[0] & 1 or body[3:6] != b"\x9d\x01\x2a":
        raise CorruptImageError("WebP without a VP8 key frame")
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _read_vp8l(body: bytes) -> tuple[int, int, bool]:
    # RFC 9649, 3.4: signature, 14-bit width - 1, 14-bit height - 1, alpha flag.
    if len(body) < 5 or body[0] != 0x2F:
        raise CorruptImageError("WebP with a damaged VP8L header")
    bits = int.from_bytes(body[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
