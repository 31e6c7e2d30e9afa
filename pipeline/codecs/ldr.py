"""Encoded LDR bytes to upright sRGB samples, or a typed error.

One path for every format: check the byte limit, read the header, check the pixel limit, decode, convert the colours
to sRGB, apply the orientation. The readers (`jpeg`, `png`, `tiff`, `webp`, `heif`) know their containers; nothing
here depends on a file's name. All functions are safe to call from several threads at once.

Warning codes in `LdrInfo.warnings`, besides those of `icc.plan_color`: `multi_picture`, `animated`, `multi_page`
(only the primary image is converted), `already_hdr_gain_map`, `exif_invalid`, `junk_in_header` (bytes between JPEG
segments that belong to none), `junk_at_end` (padding before a JPEG's end marker, which only decoding shows, or bytes
behind the last box of a HEIC or AVIF file), `metadata_damaged` (PNG chunks with wrong checksums, or a tRNS chunk that
does not fit), `extra_channel_ignored` (TIFF samples that are neither colour nor alpha).

Floating-point TIFF, OpenEXR and Radiance files are refused: they hold HDR pixels already, and clipping them to what
the network takes would throw away what the user wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs import heif, jpeg, png, tiff, webp
from pipeline.codecs.exif import NO_EXIF, ExifFacts, parse_exif, xmp_orientation
from pipeline.codecs.formats import ImageFormat, sniff_format, unsupported
from pipeline.codecs.header import LdrHeader, Samples
from pipeline.codecs.icc import ColorPlan, plan_color, to_srgb
from pipeline.codecs.orientation import apply_orientation, swaps_sides
from pipeline.codecs.samples import scale_samples, to_full_range
from pipeline.config import DecodeConfig
from pipeline.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageError,
    TooLargeError,
    TruncatedImageError,
    UnsupportedFormatError,
)
from pipeline.records import LdrInfo

__all__ = ["LdrImage", "decode_ldr", "estimate_decoded_bytes", "probe_ldr"]

_Pixels = Samples | tuple[NDArray[Any], NDArray[Any] | None]

_READERS: dict[ImageFormat, Callable[[bytes], LdrHeader]] = {
    ImageFormat.JPEG: jpeg.read_header,
    ImageFormat.PNG: png.read_header,
    ImageFormat.TIFF: tiff.read_header,
    ImageFormat.WEBP: webp.read_header,
    ImageFormat.AVIF: lambda data: heif.read_header(data, ImageFormat.AVIF),
    ImageFormat.HEIC: lambda data: heif.read_header(data, ImageFormat.HEIC),
}
_DECODERS: dict[ImageFormat, Callable[[bytes, LdrHeader], _Pixels]] = {
    ImageFormat.JPEG: jpeg.decode,
    ImageFormat.PNG: png.decode,
    ImageFormat.TIFF: tiff.decode,
    ImageFormat.WEBP: webp.decode,
    ImageFormat.AVIF: heif.decode,
    ImageFormat.HEIC: heif.decode,
}
_TRUNCATION_HINTS = (
    "truncat",
    "end of file",
    "premature",
    "failed to read",
    "unexpected end",
    "not enough",
    "stream too short",
)
_MAX_MESSAGE_CHARS = 200


@dataclass(frozen=True, slots=True)
class LdrImage:
    """One decoded LDR image.

    `pixels`: (H, W, 3), C-contiguous, uint8 (0..255) or uint16 (0..65535), sRGB-encoded (IEC 61966-2-1), full range,
    upright. `alpha`: (H, W) straight (unassociated) coverage of the same dtype, or None.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    alpha: NDArray[np.uint8] | NDArray[np.uint16] | None
    info: LdrInfo


def probe_ldr(data: bytes, limits: DecodeConfig) -> LdrInfo:
    """Return what `decode_ldr` would report, from the header alone: no pixel is decoded.

    Raises the errors of `decode_ldr`, and gives its warnings, but for damage that only the pixels show.
    """
    header = _read_header(data, limits)
    with _codec_errors(header.format):
        exif = _read_exif(header)
        return _describe(header, exif, _plan_color(header, exif))


def decode_ldr(data: bytes, limits: DecodeConfig) -> LdrImage:
    """Decode the primary image of a JPEG, PNG, TIFF, WebP, AVIF or HEIC file.

    Raises EmptyImageError (no bytes), TooLargeError (more bytes or declared pixels than `limits` allow; checked before
    pixels are decoded), UnsupportedFormatError (another format, or a kind of this one that cannot be read),
    TruncatedImageError (the file ends before its pixels do) and CorruptImageError (anything else that is wrong with
    it); never another exception because of what the bytes hold. MemoryError, as it is, where memory runs out.
    """
    header = _read_header(data, limits)
    with _codec_errors(header.format):
        exif = _read_exif(header)
        plan = _plan_color(header, exif)
        color, alpha, warnings = Samples(*_DECODERS[header.format](data, header))
        for plane in (color, alpha):
            if plane is not None and plane.shape[:2] != (header.height, header.width):
                raise CorruptImageError(
                    f"{header.format} declares {header.width}x{header.height} px but holds "
                    f"{plane.shape[1]}x{plane.shape[0]}"
                )
        info = _describe(header, exif, plan, warnings)
        color = scale_samples(color, header.sample_bits)
        if header.is_narrow_range:
            color = to_full_range(color)
        pixels = to_srgb(color, header.color_space, plan)
        orientation = info.orientation if header.decoder_orientation == 1 else 1
        return LdrImage(
            pixels=_owned(apply_orientation(pixels, orientation)),
            alpha=None
            if alpha is None
            else _owned(apply_orientation(scale_samples(alpha, header.sample_bits), orientation)),
            info=info,
        )


def estimate_decoded_bytes(info: LdrInfo) -> int:
    """Bytes that `LdrImage` will hold for this file: three colour channels, and alpha where there is one."""
    return info.width * info.height * (3 + info.has_alpha) * (info.bit_depth // 8)


def _read_header(data: bytes, limits: DecodeConfig) -> LdrHeader:
    if not data:
        raise EmptyImageError("the file has no bytes")
    if len(data) > limits.max_bytes:
        raise TooLargeError(f"{len(data)} bytes are more than the limit of {limits.max_bytes}")
    kind = sniff_format(data)
    if kind is None:
        raise unsupported(data)
    with _codec_errors(kind):
        header = _READERS[kind](data)
    if header.width <= 0 or header.height <= 0:
        raise CorruptImageError(f"{kind} declares {header.width}x{header.height} px")
    if header.width * header.height > limits.max_pixels:
        raise TooLargeError(
            f"{header.width}x{header.height} px are {header.width * header.height}, "
            f"more than the limit of {limits.max_pixels}"
        )
    return header


def _read_exif(header: LdrHeader) -> ExifFacts:
    return parse_exif(header.exif) if header.exif else NO_EXIF


def _plan_color(header: LdrHeader, exif: ExifFacts) -> ColorPlan:
    # The rule is one for cameras' files. Others are conversions, whose EXIF is often older than their pixels.
    return plan_color(header, is_adobe_rgb=exif.is_adobe_rgb and header.format is ImageFormat.JPEG)


def _describe(header: LdrHeader, exif: ExifFacts, plan: ColorPlan, decoding: tuple[str, ...] = ()) -> LdrInfo:
    orientation = header.orientation or exif.orientation
    if orientation is None and header.xmp:
        orientation = xmp_orientation(header.xmp)
    if header.decoder_orientation != 1:
        orientation = header.decoder_orientation
    orientation = orientation or 1
    # The decoder's output is upright already where it did the turning.
    is_swapped = swaps_sides(orientation) and header.decoder_orientation == 1
    warnings = (*header.warnings, *plan.warnings, *(() if exif.is_valid else ("exif_invalid",)), *decoding)
    return LdrInfo(
        format=header.format.value,
        width=header.height if is_swapped else header.width,
        height=header.width if is_swapped else header.height,
        bit_depth=header.bit_depth,
        mode=header.mode,
        orientation=orientation,
        icc_profile=plan.description,
        has_alpha=header.has_alpha,
        num_frames=header.num_frames,
        warnings=warnings,
        capture=exif.capture,
    )


def _owned(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return writable memory of its own: codec buffers may be read-only or keep a larger array alive."""
    return pixels if pixels.flags.owndata and pixels.flags.writeable else pixels.copy()


@contextmanager
def _codec_errors(kind: ImageFormat) -> Iterator[None]:
    """Map whatever a codec library throws at hostile bytes to an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        # What the machine lacks is not the image's fault: whoever runs the worker finds out whether it is.
        raise
    except Exception as error:
        # The libraries behind this edge document no closed set of exceptions for hostile bytes.
        text = " ".join(f"{kind}: {error}".split())[:_MAX_MESSAGE_CHARS]
        if "maximum image size" in text.lower():  # libheif has a limit of its own, 2**30 pixels
            raise TooLargeError(text) from error
        if isinstance(error, NotImplementedError) or "unsupported" in text.lower():
            raise UnsupportedFormatError(text) from error
        is_truncated = isinstance(error, EOFError) or any(hint in text.lower() for hint in _TRUNCATION_HINTS)
        raise (TruncatedImageError if is_truncated else CorruptImageError)(text) from error
