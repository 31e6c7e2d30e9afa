"""TIFF as photographers and scanners write it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from ldr_samples import exif_block, picture, ramp_alpha, save, save_tiff
from PIL import Image

from pipeline.codecs.ldr import LdrImage, decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import AlreadyHdrError, UnsupportedFormatError

LIMITS = DecodeConfig()
RGB = picture()
RGB_16 = np.random.default_rng(9).integers(0, 65536, (20, 30, 3), dtype=np.uint16)


def decode(data: bytes) -> LdrImage:
    return decode_ldr(data, LIMITS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 7},
        {"tile": (16, 16)},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate", "tile": (16, 32)},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [8, 16])
def test_layouts_and_compressions(bits: int, options: dict[str, object]) -> None:
    rgb = RGB if bits == 8 else RGB_16
    image = decode(save_tiff(rgb, **options))
    assert image.pixels.dtype == rgb.dtype
    assert np.array_equal(image.pixels, rgb)
    assert image.info.warnings == ()


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "lzw"}], ids=str)
def test_planar_configuration_separate(options: dict[str, object]) -> None:
    data = save_tiff(RGB.transpose(2, 0, 1), planarconfig="separate", **options)
    assert np.array_equal(decode(data).pixels, RGB)


def test_jpeg_compression() -> None:
    data = save(RGB, "tiff", compression="jpeg", quality=95)
    assert np.abs(decode(data).pixels.astype(int) - RGB).mean() < 4


def test_gray_and_inverted_gray() -> None:
    gray = RGB[..., 1]
    black = decode(save_tiff(gray, photometric="minisblack"))
    white = decode(save_tiff(gray, photometric="miniswhite"))
    assert np.array_equal(black.pixels, np.repeat(gray[..., None], 3, axis=2))
    assert np.array_equal(white.pixels, 255 - black.pixels)
    assert black.info.mode == "L"


def test_bilevel() -> None:
    bits = RGB[..., 0] > 99
    data = save(bits, "tiff", compression="group4")
    assert np.array_equal(decode(data).pixels[..., 0], bits * np.uint8(255))


def test_twelve_bits_reach_full_range() -> None:
    codes = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    data = save_tiff(np.repeat(codes[..., None], 3, axis=2), bitspersample=12)
    image = decode(data)
    assert image.info.bit_depth == 16
    assert np.array_equal(image.pixels[..., 0], np.round(codes * (65535 / 4095)))


def test_palette() -> None:
    indexed = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    buffer = io.BytesIO()
    indexed.save(buffer, "tiff")
    assert np.array_equal(decode(buffer.getvalue()).pixels, np.asarray(indexed.convert("RGB")))


def test_straight_and_associated_alpha() -> None:
    alpha = np.maximum(ramp_alpha(), 1)
    straight = decode(save_tiff(np.dstack([RGB, alpha]), extrasamples=["unassalpha"]))
    assert straight.alpha is not None
    assert np.array_equal(straight.alpha, alpha)
    assert np.array_equal(straight.pixels, RGB)
    premultiplied = np.round(RGB * (alpha[..., None] / 255)).astype(np.uint8)
    associated = decode(save_tiff(np.dstack([premultiplied, alpha]), extrasamples=["assocalpha"]))
    opaque = alpha > 200
    assert np.abs(associated.pixels.astype(int) - RGB)[opaque].max() <= 1
    assert associated.info.mode == "RGBA"


def test_unspecified_extra_channel_is_not_alpha() -> None:
    image = decode(save_tiff(np.dstack([RGB, ramp_alpha()]), extrasamples=["unspecified"]))
    assert image.alpha is None
    assert image.info.warnings == ("extra_channel_ignored",)
    assert np.array_equal(image.pixels, RGB)


def test_cmyk_without_profile() -> None:
    inks = np.dstack([255 - RGB, np.zeros(RGB.shape[:2], np.uint8)])
    image = decode(save_tiff(inks, photometric="separated"))
    assert np.array_equal(image.pixels, RGB)
    assert image.info.warnings == ("cmyk_without_profile",)


def test_first_page_and_reduced_pages() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(RGB[::4, ::4], photometric="rgb", subfiletype=1, metadata=None)
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::-1], photometric="rgb", metadata=None)
    image = decode(buffer.getvalue())
    assert np.array_equal(image.pixels, RGB)
    assert image.info.num_frames == 3
    assert image.info.warnings == ("multi_page",)


def test_capture_metadata_comes_from_the_directory() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif.load(exif_block(3, t010F="ACME", t0110="Model 1"))
    Image.fromarray(RGB).save(buffer, "tiff", exif=exif)
    image = decode(buffer.getvalue())
    assert (image.info.capture.camera_make, image.info.capture.camera_model) == ("ACME", "Model 1")
    assert np.array_equal(image.pixels, RGB[::-1, ::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floating_point_is_already_hdr(dtype: type[np.floating]) -> None:
    with pytest.raises(AlreadyHdrError):
        decode(save_tiff(RGB.astype(dtype)))


@pytest.mark.parametrize(
    "data",
    [
        save_tiff(RGB.astype(np.uint32)),
        save_tiff(RGB.astype(np.int16)),
        save_tiff(RGB, photometric="cielab"),
        save_tiff(RGB, extratags=[(50706, 1, 4, b"\1\4\0\0", True)]),
        save_tiff(RGB[..., 0], photometric="cfa"),
        save_tiff(np.dstack([RGB, RGB]), photometric="separated", extratags=[(332, 3, 1, 2, True)]),
    ],
    ids=["uint32", "int16", "cielab", "dng", "cfa", "inks"],
)
def test_kinds_that_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError):
        decode(data)


def test_canon_raw_is_named() -> None:
    """A CR2 file is a TIFF with `CR` at byte 8; the directory, there in our file, is moved to the end."""
    data = save_tiff(RGB)
    (directory,) = struct.unpack_from("<I", data, 4)
    (num_entries,) = struct.unpack_from("<H", data, directory)
    moved = data[directory : directory + 2 + 12 * num_entries + 4]
    with pytest.raises(UnsupportedFormatError, match="raw"):
        decode(data[:4] + struct.pack("<I", len(data)) + b"CR\2\0" + data[12:] + moved)
