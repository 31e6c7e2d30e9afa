"""PNG (W3C PNG, third edition; ISO/IEC 15948): a checksum of every chunk, and pixels through libpng.

A wrong checksum fails the image where the chunk may decide about pixels; other chunks are passed over (13.2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import MAX_ICC_BYTES, Cicp, ColorSpace, LdrHeader, PngColor
from pipeline.codecs.icc_profile import is_hdr_name
from pipeline.codecs.png_chunks import decode_pixels, walk_chunks
from pipeline.errors import CorruptImageError

_XMP_KEYWORD = b"XML:com.adobe.xmp"
# ImageMagick's keywords for profiles as text, in the order of trust; what it wrote before there was eXIf.
_EXIF_KEYWORDS = (b"Raw profile type exif", b"Raw profile type APP1")
_EXIF_STARTS = (b"Exif\0\0", b"II*\0", b"MM\0*")
_MAX_KEYWORD_BYTES = 79
_MAX_XMP_BYTES = 16 * 2**20
_MAX_RAW_EXIF_BYTES = 2**20

# Colour type -> (mode, colour space, has an alpha channel, allowed bit depths); PNG 11.2.1, table 11.1.
_COLOR_TYPES: dict[int, tuple[str, ColorSpace, bool, frozenset[int]]] = {
    0: ("L", ColorSpace.GRAY, False, frozenset({1, 2, 4, 8, 16})),
    2: ("RGB", ColorSpace.RGB, False, frozenset({8, 16})),
    3: ("P", ColorSpace.RGB, False, frozenset({1, 2, 4, 8})),
    4: ("LA", ColorSpace.GRAY, True, frozenset({8, 16})),
    6: ("RGBA", ColorSpace.RGB, True, frozenset({8, 16})),
}
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"acTL"})
# What the name of an iCCP chunk stands for (W3C Note "Using the ITU BT.2100 PQ EOTF with the PNG Format").
_BT_2100 = Cicp(primaries=9, transfer=16)
_METADATA_DAMAGED = "metadata_damaged"


def read_header(data: bytes) -> LdrHeader:
    """Walk every chunk and check its CRC. Raises TruncatedImageError and CorruptImageError.

    Warnings: `animated`; `metadata_damaged` or `exif_invalid` for a chunk that was passed over.
    """
    chunks, xmp, raw_exif, damaged = _collect(data)
    width, height, depth, color_type, compression, filtering, interlace = _read_ihdr(chunks)
    if color_type not in _COLOR_TYPES or depth not in _COLOR_TYPES[color_type][3]:
        raise CorruptImageError(f"PNG with colour type {color_type} and bit depth {depth}")
    if compression or filtering or interlace > 1:
        raise CorruptImageError("PNG with unknown compression, filter or interlace method")
    mode, space, has_alpha, _ = _COLOR_TYPES[color_type]
    has_usable_trns = _has_usable_trns(chunks, color_type, depth)
    if b"tRNS" in chunks and not has_usable_trns:
        damaged.append(b"tRNS")
    num_frames = int.from_bytes(chunks.get(b"acTL", b"\0\0\0\x01")[:4], "big")
    color = _read_color(chunks, is_icc_damaged=b"iCCP" in damaged)
    told = {b"eXIf": "exif_invalid"} | ({b"iCCP": "icc_invalid"} if color.get("is_icc_broken") else {})
    warnings = ["animated"] if b"acTL" in chunks else []
    # `icc_invalid` follows from `is_icc_broken`.
    warnings += sorted({told.get(kind, _METADATA_DAMAGED) for kind in damaged} - {"icc_invalid"})
    return LdrHeader(
        format=ImageFormat.PNG,
        width=width,
        height=height,
        sample_bits=max(depth, 8),  # libpng expands fewer bits to the full range of 8
        mode=mode,
        color_space=space,
        has_alpha=has_alpha or has_usable_trns,
        exif=chunks.get(b"eXIf", raw_exif),
        xmp=xmp,
        num_frames=max(num_frames, 1),
        warnings=tuple(warnings),
        **color,
    )


def decode(data: bytes, header: LdrHeader) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colour samples (H, W) or (H, W, 3) and alpha (H, W) or None, in 8 or 16 bits, palettes expanded."""
    pixels = decode_pixels(data, keeps_trns=header.has_alpha)
    if pixels.ndim == 2:
        return pixels, None
    alpha = pixels[..., -1] if pixels.shape[2] in {2, 4} else None
    color = pixels[..., 0] if header.color_space is ColorSpace.GRAY else pixels[..., :3]
    return color, alpha


class _Collected(NamedTuple):
    """The first chunk of each kept type, the XMP packet, EXIF in a text chunk, and the types of damaged chunks."""

    chunks: dict[bytes, bytes]
    xmp: bytes | None
    raw_exif: bytes | None
    damaged: list[bytes]


def _collect(data: bytes) -> _Collected:
    chunks: dict[bytes, bytes] = {}
    damaged: list[bytes] = []
    raw_exif: dict[bytes, bytes] = {}
    xmp: bytes | None = None
    has_pixels = False
    for index, chunk in enumerate(walk_chunks(data)):
        kind, start, end = chunk.kind, chunk.start, chunk.end
        if (index == 0) != (kind == b"IHDR"):
            raise CorruptImageError("PNG without exactly one IHDR chunk at its beginning")
        has_pixels |= kind == b"IDAT"
        if not chunk.is_sound:
            damaged.append(kind)
        elif kind == b"tRNS" and has_pixels:
            damaged.append(kind)  # too late: libpng passes it over
        elif kind in _KEPT:
            chunks.setdefault(kind, data[start:end])
        elif kind == b"iTXt" and data.startswith(_XMP_KEYWORD + b"\0", start):
            xmp = _itxt_text(data[start:end])
        elif kind in {b"tEXt", b"zTXt"} and data.startswith(_EXIF_KEYWORDS, start, end):
            keyword, _, text = data[start:end].partition(b"\0")
            raw_exif.setdefault(keyword, _raw_profile(text, is_deflated=kind == b"zTXt"))
    if not has_pixels:
        raise CorruptImageError("PNG without image data")
    exif = next((body for word in _EXIF_KEYWORDS if (body := raw_exif.get(word, b"")).startswith(_EXIF_STARTS)), None)
    return _Collected(chunks, xmp, exif, damaged)


def _has_usable_trns(chunks: Mapping[bytes, bytes], color_type: int, depth: int) -> bool:
    """Whether there is a tRNS chunk (11.3.1.1) as this colour type needs it; libpng passes over any other."""
    trns, palette = chunks.get(b"tRNS"), chunks.get(b"PLTE", b"")
    if trns is None:
        return False
    if color_type == 3:
        is_in_order = b"PLTE" in chunks and list(chunks).index(b"PLTE") < list(chunks).index(b"tRNS")
        return is_in_order and 1 <= len(trns) <= min(len(palette) // 3, 2**depth)
    return len(trns) == {0: 2, 2: 6}.get(color_type)


def _read_ihdr(chunks: Mapping[bytes, bytes]) -> tuple[int, ...]:
    ihdr = chunks[b"IHDR"]
    if len(ihdr) != 13:
        raise CorruptImageError("PNG with a damaged IHDR chunk")
    return struct.unpack(">IIBBBBB", ihdr)


def _itxt_text(body: bytes) -> bytes | None:
    # keyword, NUL, compressed flag, method, language, NUL, translated keyword, NUL, text
    rest = body[len(_XMP_KEYWORD) + 1 :]
    parts = rest[2:].split(b"\0", 2)
    if len(rest) < 2 or len(parts) != 3:
        return None
    return _inflate(parts[2], _MAX_XMP_BYTES) if rest[0] else parts[2]


def _raw_profile(text: bytes, *, is_deflated: bool) -> bytes:
    """Return the bytes of a profile that is text: its name, its length and hexadecimal digits; or nothing."""
    body = _inflate(text[1:], _MAX_RAW_EXIF_BYTES) if is_deflated else text
    parts = (body or b"").split(maxsplit=2)
    try:
        return bytes.fromhex(parts[2].decode("ascii")) if len(parts) == 3 else b""
    except ValueError:
        return b""


def _read_color(chunks: Mapping[bytes, bytes], *, is_icc_damaged: bool) -> dict[str, Any]:
    """Choose the colour chunk by precedence: cICP, iCCP, sRGB, gAMA with cHRM (PNG 4.3)."""
    cicp = chunks.get(b"cICP")
    if cicp is not None and len(cicp) == 4:
        return {"cicp": Cicp(primaries=cicp[0], transfer=cicp[1]), "is_narrow_range": cicp[3] == 0}
    if b"iCCP" in chunks:
        if _has_hdr_name(chunks[b"iCCP"]):
            return {"cicp": _BT_2100}
        profile = _read_iccp(chunks[b"iCCP"])
        return {"icc": profile, "is_icc_broken": profile is None}
    if is_icc_damaged:
        return {"is_icc_broken": True}
    gamma, chromaticities = chunks.get(b"gAMA"), chunks.get(b"cHRM")
    if b"sRGB" in chunks or (gamma is None and chromaticities is None):
        return {}
    # Both store 100000 times the value; chromaticities as white, red, green, blue. They are read as signed, as libpng
    # does: 11.3.2.1 says unsigned, but the blue of ACES AP0 lies below y = 0.
    return {
        "png_color": PngColor(
            gamma=int.from_bytes(gamma, "big") / 1e5 if gamma is not None and len(gamma) == 4 else None,
            chromaticities=tuple(v / 1e5 for v in struct.unpack(">8i", chromaticities))
            if chromaticities is not None and len(chromaticities) == 32
            else None,
        )
    }


def _has_hdr_name(iccp: bytes) -> bool:
    """Whether the profile's name alone says PQ or HLG: what it holds is then for programs that do not know the name."""
    name, separator, _ = iccp[: _MAX_KEYWORD_BYTES + 1].partition(b"\0")
    return bool(separator) and is_hdr_name(name.decode("latin-1"))


def _read_iccp(body: bytes) -> bytes | None:
    _name, separator, rest = body.partition(b"\0")
    if not separator or rest[:1] != b"\0":
        return None
    return _inflate(rest[1:], MAX_ICC_BYTES)


def _inflate(compressed: bytes, max_bytes: int) -> bytes | None:
    """Return the whole deflated stream, or None where it is damaged or larger than `max_bytes`."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(compressed, max_bytes)
    except zlib.error:
        return None
    return data if inflater.eof else None
