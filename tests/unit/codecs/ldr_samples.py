"""Encoders for small pictures with known contents, shared by the decoder's tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from ldr_heic_samples import HEIC_10BIT, HEIC_RGB, HEIC_RGBA
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 48, 64
D65 = (0.3127, 0.3290)
P3_PRIMARIES = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A smooth gradient with a red block in the top-left corner: every orientation looks different."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full((height, width), 64)], -1)
    pixels[: height // 4, : width // 4] = (250, 20, 20)
    return pixels.astype(np.uint8)


def ramp_alpha() -> NDArray[np.uint8]:
    return np.broadcast_to(np.arange(WIDTH) * 255 // (WIDTH - 1), (HEIGHT, WIDTH)).astype(np.uint8)


def save(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    """Encode with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def save_tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """Encode with tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "rgb", "metadata": None} | options)
    return buffer.getvalue()


def exif_block(orientation: int | None = None, **tags: Any) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    for tag, value in tags.items():
        exif[int(tag.removeprefix("t"), 16)] = value
    return exif.tobytes()


def adobe_rgb_exif(index: bytes = b"R03\0", color_space: int = 0xFFFF, byte_order: str = "<") -> bytes:
    """What a camera writes into an Adobe RGB file: three directories, linked by the tags 0x8769 and 0xA005."""

    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        fields = b"".join(struct.pack(byte_order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
        return struct.pack(byte_order + "H", len(entries)) + fields + bytes(4)

    def long(value: int) -> bytes:
        return struct.pack(byte_order + "I", value)

    details_at, index_at = 8 + 18, 8 + 18 + 30
    details = directory((0xA001, 3, 1, struct.pack(byte_order + "H", color_space)), (0xA005, 4, 1, long(index_at)))
    header = (b"II*\0" if byte_order == "<" else b"MM\0*") + long(8)
    return b"Exif\0\0" + header + directory((0x8769, 4, 1, long(details_at))) + details + directory((1, 2, 4, index))


def p3_profile(gamma: float = 2.2) -> bytes:
    """Display P3's primaries with a pure power."""
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=P3_PRIMARIES, gamma=gamma))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def insert_png_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """Put a chunk right after IHDR."""
    return data[:33] + png_chunk(kind, body) + data[33:]


def insert_jpeg_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """Put an application segment right after SOI."""
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def cmyk_profile() -> bytes:
    """A printer profile made by hand (ICC.1, lut8Type with two grid points): cyan paper-white to Lab (60, -40, -40),
    magenta to (50, 70, 0), yellow to (90, 0, 80), black to (0, 0, 0); overprints by multiplying what is left.
    """
    inks = np.array([[60, -40, -40], [50, 70, 0], [90, 0, 80], [0, 0, 0]], float)
    nodes = bytearray()
    for node in np.ndindex(2, 2, 2, 2):
        lightness = 100.0 * np.prod([inks[i][0] / 100 for i in range(4) if node[i]] or [1.0])
        chroma = sum((inks[i][1:] for i in range(4) if node[i]), np.zeros(2)) * (lightness > 0) / max(sum(node), 1)
        nodes += bytes(np.round([lightness * 2.55, *(chroma + 128)]).astype(np.uint8))
    matrix = struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + bytes(nodes) + bytes(range(256)) * 3
    text = b"Test inks\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    tags = [(b"desc", desc), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", white), (b"A2B0", lut)]
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for signature, value in tags:
        table += signature + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = at + len(body)
    header = struct.pack(">I4sI", size, b"test", 0x02100000) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def all_formats() -> dict[str, bytes]:
    """One small file of every kind that is decoded, by name."""
    rgb, frames = picture(), [Image.fromarray(picture()[::-1])]
    rgba = np.dstack([rgb, ramp_alpha()])
    exif, icc = exif_block(6, t010F="ACME"), p3_profile()
    return {
        "jpeg": save(rgb, "jpeg", exif=exif, icc_profile=icc),
        "jpeg_progressive": save(rgb, "jpeg", progressive=True),
        "jpeg_cmyk": save_cmyk_jpeg(rgb),
        "png": save(rgba, "png", icc_profile=icc, exif=exif),
        "png_16": bytes(imagecodecs.png_encode(rgb.astype(np.uint16) * 257)),
        "tiff": save_tiff(rgb, rowsperstrip=7),
        "tiff_tiles": save_tiff(rgb, compression="deflate", predictor=True, tile=(16, 16)),
        "tiff_lzw": save_tiff(rgb.astype(np.uint16) * 257, compression="lzw"),
        "tiff_jpeg": save(rgb, "tiff", compression="jpeg"),
        "webp": save(rgb, "webp", icc_profile=icc, exif=exif),
        "webp_lossless": save(rgba, "webp", lossless=True),
        "webp_animated": save(rgb, "webp", save_all=True, append_images=frames),
        "avif": save(rgba, "avif", exif=exif, icc_profile=icc),
        "avif_10": bytes(imagecodecs.avif_encode(rgb.astype(np.uint16) * 4, level=90, bitspersample=10)),
        "avif_animated": save(rgb, "avif", save_all=True, append_images=frames),
        "heic": HEIC_RGB,
        "heic_alpha": HEIC_RGBA,
        "heic_10": HEIC_10BIT,
    }


def save_cmyk_jpeg(rgb: NDArray[np.uint8], **options: Any) -> bytes:
    """Pillow writes CMYK JPEGs as Adobe does: inverted, with the APP14 marker."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()
