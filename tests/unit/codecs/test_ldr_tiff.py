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


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_of_few_bits(bits: int) -> None:
    """An index of any depth, colours of 8 bits."""
    num_colors = 2**bits
    colormap = np.random.default_rng(bits).integers(0, 65536, (3, num_colors), dtype=np.uint16)
    indices = (np.arange(16 * 4).reshape(4, 16) % num_colors).astype(np.uint8)
    image = decode(_indexed_tiff(indices[..., None], bits, colormap))
    assert (image.info.bit_depth, image.info.mode, image.alpha) == (8, "P", None)
    assert np.array_equal(image.pixels, (colormap >> 8).T.astype(np.uint8)[indices])


@pytest.mark.parametrize("kind", [1, 2], ids=["associated", "straight"])
def test_palette_with_alpha_of_its_own_depth(kind: int) -> None:
    colormap = np.random.default_rng(5).integers(0, 65536, (3, 16), dtype=np.uint16)
    indices = np.arange(16 * 4, dtype=np.uint8).reshape(4, 16) % 16
    alpha = np.full_like(indices, 15)
    alpha[0] = 5
    image = decode(_indexed_tiff(np.dstack([indices, alpha]), 4, colormap, extra=kind))
    assert image.alpha is not None
    assert np.array_equal(image.alpha, alpha * 17)
    colors = (colormap >> 8).T.astype(np.uint8)[indices]
    assert np.array_equal(image.pixels[1:], colors[1:])
    expected = colors[0] if kind == 2 else np.minimum(colors[0].astype(int) * 3, 255)
    assert np.array_equal(image.pixels[0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_samples_of_undefined_format_are_unsigned(dtype: type[np.unsignedinteger]) -> None:
    """TIFF 6.0, section 19: a reader is to take SampleFormat 4 for unsigned integers."""
    gray = RGB[..., 1].astype(dtype) * (1 if dtype is np.uint8 else 257)
    signed = save_tiff(gray.view(np.dtype(dtype).str.replace("u", "i")), photometric="minisblack")
    entry = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    assert signed.count(entry) == 1
    image = decode(signed.replace(entry, struct.pack("<HHIHH", 339, 3, 1, 4, 0)))
    assert np.array_equal(image.pixels[..., 0], gray)


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
    assert image.info.num_frames == 2
    assert image.info.warnings == ("multi_page",)


@pytest.mark.parametrize("is_first", [False, True])
def test_a_thumbnail_is_no_page(is_first: bool) -> None:
    buffer = io.BytesIO()
    pages = [(RGB[::4, ::4], 1), (RGB, 0)]
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, kind in pages if is_first else pages[::-1]:
            writer.write(pixels, photometric="rgb", subfiletype=kind, metadata=None)
    image = decode(buffer.getvalue())
    assert np.array_equal(image.pixels, RGB)
    assert (image.info.num_frames, image.info.warnings) == (1, ())


def test_metadata_that_is_not_there_costs_a_warning() -> None:
    data = bytearray(save(RGB, "tiff", description="a text that is longer than its entry"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags[270].offset
    data[entry + 8 : entry + 12] = len(data).to_bytes(4, "little")
    image = decode(bytes(data))
    assert np.array_equal(image.pixels, RGB)
    assert image.info.warnings[:1] == ("metadata_damaged",)


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


def _indexed_tiff(samples: np.ndarray, bits: int, colormap: np.ndarray, extra: int | None = None) -> bytes:
    """Samples (H, W, 1 or 2) of an index and perhaps alpha, and a palette (3, 2**bits) of 16 bits."""
    height, width, channels = samples.shape
    unpacked = samples.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1, dtype=np.uint8) & 1
    strip = np.packbits(unpacked.reshape(height, -1), axis=1).tobytes()
    colors = colormap.astype("<u2").tobytes()
    short, long = 3, 4
    entries = [(256, short, 1, width), (257, short, 1, height)]
    entries += [(258, short, channels, bits | (bits << 16 if channels == 2 else 0)), (259, short, 1, 1)]
    entries += [(262, short, 1, 3), (273, long, 1, -1), (277, short, 1, channels), (278, short, 1, height)]
    entries += [(279, long, 1, len(strip)), (320, short, colormap.size, -2)]
    entries += [] if extra is None else [(338, short, 1, extra)]
    end = 8 + 2 + 12 * len(entries) + 4
    places = {-2: end, -1: end + len(colors)}
    table = b"".join(struct.pack("<HHII", *entry[:3], places.get(entry[3], entry[3])) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + colors + strip
