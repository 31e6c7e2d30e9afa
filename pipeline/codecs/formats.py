"""Which bytes are an image, and in which format. Magic bytes decide; extensions only select files when listing.

Light on purpose: no codec library is loaded here.
"""

from __future__ import annotations

from enum import StrEnum

from pipeline.errors import AlreadyHdrError, ImageError, TruncatedImageError, UnsupportedFormatError


class ImageFormat(StrEnum):
    """The formats that `decode_ldr` reads; the value is what the manifest shows."""

    JPEG = "jpeg"
    PNG = "png"
    TIFF = "tiff"
    WEBP = "webp"
    AVIF = "avif"
    HEIC = "heic"


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})

_IS_HDR = "holds linear HDR pixels already"

# What a person would want to read instead of "unknown format". The first match counts.
_KNOWN_BUT_UNSUPPORTED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"v/1\x01", "OpenEXR holds linear HDR pixels already"),
    (0, b"#?RADIANCE", "Radiance RGBE holds linear HDR pixels already"),
    (0, b"#?RGBE", "Radiance RGBE holds linear HDR pixels already"),
    (0, b"PF\n", "a portable float map holds linear HDR pixels already"),
    (0, b"Pf\n", "a portable float map holds linear HDR pixels already"),
    (0, b"GIF8", "GIF is not supported"),
    (0, b"BM", "BMP is not supported"),
    (0, b"8BPS", "a Photoshop document is not supported; export it as TIFF or PNG"),
    (0, b"\xff\x0a", "JPEG XL is not supported"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL is not supported"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 is not supported"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 is not supported"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file is not supported; develop it first"),
    (4, b"ftypcrx ", "a camera raw file is not supported; develop it first"),
    (0, b"IIU\0", "a camera raw file is not supported; develop it first"),
    (0, b"IIRO", "a camera raw file is not supported; develop it first"),
    (4, b"ftyp", "an MPEG-4 family file without HEIC or AVIF images is not supported"),
    (0, b"%PDF", "PDF is not an image"),
    (0, b"<svg", "SVG has no pixels"),
)


def sniff_format(data: bytes) -> ImageFormat | None:
    """Return the supported format that the first bytes declare, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if data.startswith(PNG_SIGNATURE):
        return ImageFormat.PNG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if data.startswith(_TIFF_MAGICS):
        return ImageFormat.TIFF
    return _sniff_heif(data)


def unsupported(data: bytes) -> ImageError:
    """The error for bytes that `sniff_format` does not know: AlreadyHdrError for the formats of HDR images.

    What is shorter than a signature, and begins like one, is a truncated file.
    """
    signatures = (b"\xff\xd8\xff", PNG_SIGNATURE, *_TIFF_MAGICS, b"RIFF")
    if len(data) > 1 and any(signature.startswith(data) for signature in signatures):
        return TruncatedImageError("the file ends within its signature")
    for offset, magic, text in _KNOWN_BUT_UNSUPPORTED:
        if data.startswith(magic, offset):
            return AlreadyHdrError(text) if text.endswith(_IS_HDR) else UnsupportedFormatError(text)
    return UnsupportedFormatError(f"not an image in a supported format ({', '.join(ImageFormat)})")


def _sniff_heif(data: bytes) -> ImageFormat | None:
    # ISO/IEC 14496-12 FileTypeBox: size, "ftyp", major brand, minor version, compatible brands.
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), len(data), 512)
    brands = {data[at : at + 4] for at in (8, *range(16, end - 3, 4))}
    major = data[8:12]
    if major in _HEIC_BRANDS:
        return ImageFormat.HEIC
    if brands & _AVIF_BRANDS:
        return ImageFormat.AVIF
    return ImageFormat.HEIC if brands & _HEIC_BRANDS else None
