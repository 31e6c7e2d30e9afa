"""Formats, depth, alpha, orientation, and notes of the LDR decoder, on files made here."""

from __future__ import annotations

import io
import struct
import threading
import zlib

import imagecodecs
import numpy as np
import pytest
from ldr_heic_samples import HEIC_10BIT, HEIC_GRAY, HEIC_RGB, HEIC_RGBA, HEIC_TWO_IMAGES, with_heif_property
from ldr_samples import (
    HEIGHT,
    WIDTH,
    all_formats,
    exif_block,
    insert_jpeg_segment,
    insert_png_chunk,
    picture,
    ramp_alpha,
    save,
    save_cmyk_jpeg,
)
from PIL import Image, ImageOps

from pipeline.codecs.formats import ImageFormat, sniff_format
from pipeline.codecs.ldr import LdrImage, decode_ldr, estimate_decoded_bytes, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import AlreadyHdrTransferError, EmptyImageError, TooLargeError, UnsupportedFormatError

LIMITS = DecodeConfig()
GRADIENT = slice(16, None)  # rows below the red block's edge, where lossy codecs stay close


def decode(data: bytes) -> LdrImage:
    return decode_ldr(data, LIMITS)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())


@pytest.mark.parametrize(("name", "data"), all_formats().items(), ids=all_formats())
def test_every_format_keeps_the_contract(name: str, data: bytes) -> None:
    image = decode(data)
    info = image.info
    assert image.pixels.shape == (info.height, info.width, 3)
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable
    assert image.pixels.dtype == {8: np.uint8, 16: np.uint16}[info.bit_depth]
    assert info.format == name.partition("_")[0]
    assert (image.alpha is not None) == info.has_alpha
    if image.alpha is not None:
        assert image.alpha.shape == (info.height, info.width)
        assert image.alpha.dtype == image.pixels.dtype
    total = image.pixels.nbytes + (0 if image.alpha is None else image.alpha.nbytes)
    assert estimate_decoded_bytes(info) == total
    assert probe_ldr(data, LIMITS) == info


def test_lossless_rgb_is_untouched() -> None:
    rgb = picture()
    for data in (save(rgb, "png"), save(rgb, "webp", lossless=True), save(rgb, "tiff")):
        assert np.array_equal(decode(data).pixels, rgb)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(progressive: bool) -> None:
    data = save(picture(), "jpeg", quality=95, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert difference(decode(data).pixels, expected) <= 1


def test_gray_jpeg_gets_three_equal_channels() -> None:
    gray = picture()[..., 0]
    image = decode(save(gray, "jpeg", quality=100))
    assert image.info.mode == "L"
    assert difference(image.pixels[..., 0], gray) <= 4
    assert np.array_equal(image.pixels[..., 0], image.pixels[..., 1])
    assert np.array_equal(image.pixels[..., 0], image.pixels[..., 2])


def test_cmyk_jpeg_without_profile_is_converted_naively_and_says_so() -> None:
    image = decode(save_cmyk_jpeg(picture()))
    assert image.info.warnings == ("cmyk_without_profile",)
    assert image.info.mode == "CMYK"
    assert np.abs(image.pixels[GRADIENT].astype(int) - picture()[GRADIENT]).mean() < 2


def test_cmyk_jpeg_without_adobe_marker_is_not_inverted() -> None:
    data = save_cmyk_jpeg(picture())
    at = data.index(b"\xff\xee")
    plain = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    adobe = decode(data).pixels
    inks = np.asarray(Image.open(io.BytesIO(data)))  # Pillow undoes Adobe's inversion
    naive = ((inks[..., :3].astype(int)) * inks[..., 3:] + 127) // 255  # of the inverted inks
    assert difference(decode(plain).pixels, naive) <= 1
    assert difference(decode(plain).pixels, adobe) > 100


def test_png_keeps_sixteen_bits() -> None:
    rgb = np.random.default_rng(5).integers(0, 65536, (7, 5, 3), dtype=np.uint16)
    image = decode(bytes(imagecodecs.png_encode(rgb)))
    assert image.info.bit_depth == 16
    assert np.array_equal(image.pixels, rgb)


def test_sixteen_bit_gray_png_with_alpha() -> None:
    both = np.random.default_rng(5).integers(0, 65536, (7, 5, 2), dtype=np.uint16)
    image = decode(bytes(imagecodecs.png_encode(both)))
    assert np.array_equal(image.pixels[..., 2], both[..., 0])
    assert image.alpha is not None
    assert np.array_equal(image.alpha, both[..., 1])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_with_few_bits(bits: int) -> None:
    levels = (np.arange(8 * 8).reshape(8, 8) % 2**bits).astype(np.uint8)
    body = b"".join(b"\0" + np.packbits(_unpack(row, bits)).tobytes() for row in levels)
    data = _png(8, 8, bits, 0, body)
    expected = np.round(levels * (255 / (2**bits - 1))).astype(np.uint8)
    image = decode(data)
    assert image.info.bit_depth == 8
    assert np.array_equal(image.pixels[..., 1], expected)


def test_palette_png_with_and_without_transparency() -> None:
    indexed = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    expected = np.asarray(indexed.convert("RGB"))
    plain, transparent = io.BytesIO(), io.BytesIO()
    indexed.save(plain, "png")
    indexed.save(transparent, "png", transparency=3)
    image = decode(plain.getvalue())
    assert np.array_equal(image.pixels, expected)
    assert (image.info.mode, image.alpha) == ("P", None)
    image = decode(transparent.getvalue())
    assert np.array_equal(image.pixels, expected)
    assert image.alpha is not None
    assert np.array_equal(image.alpha == 0, np.asarray(indexed) == 3)


def test_png_colour_key_becomes_alpha() -> None:
    rgb = picture()
    image = decode(save(rgb, "png", transparency=tuple(int(v) for v in rgb[0, 0])))
    assert image.alpha is not None
    assert np.array_equal(image.alpha == 0, (rgb == rgb[0, 0]).all(axis=2))
    assert np.array_equal(image.pixels, rgb)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_alpha_is_separate_and_straight(kind: str) -> None:
    rgba = np.dstack([picture(), ramp_alpha()])
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    image = decode(save(rgba, kind, **options))
    assert image.alpha is not None
    assert np.array_equal(image.alpha, rgba[..., 3])
    assert np.array_equal(image.pixels, rgba[..., :3])


def test_opaque_alpha_still_counts() -> None:
    image = decode(save(np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, np.uint8)]), "png"))
    assert image.info.has_alpha
    assert image.alpha is not None
    assert (image.alpha == 255).all()


@pytest.mark.parametrize(("bits", "factor"), [(10, 4), (12, 16)])
def test_avif_keeps_its_depth(bits: int, factor: int) -> None:
    codes = picture().astype(np.uint16) * factor
    data = bytes(imagecodecs.avif_encode(codes, level=100, bitspersample=bits, pixelformat="444"))
    image = decode(data)
    assert image.info.bit_depth == 16
    assert difference(image.pixels, np.round(codes * (65535 / (2**bits - 1)))) <= 2 * 65535 // 2**bits


def test_avif_alpha_and_gray() -> None:
    rgba = np.dstack([picture(), ramp_alpha()])
    image = decode(bytes(imagecodecs.avif_encode(rgba, level=100)))
    assert image.alpha is not None
    assert difference(image.alpha, rgba[..., 3]) <= 2
    gray = decode(bytes(imagecodecs.avif_encode(picture()[..., 0], level=100)))
    assert difference(gray.pixels[..., 1], picture()[..., 0]) <= 2


def test_heic_depths_alpha_and_gray() -> None:
    rgb = picture()
    for data, top in ((HEIC_RGB, 255), (HEIC_10BIT, 65535)):
        image = decode(data)
        assert image.info.bit_depth == (8 if top == 255 else 16)
        close = np.abs(image.pixels[GRADIENT] / top - rgb[GRADIENT] / 255)
        assert close.mean() < 0.02
    image = decode(HEIC_RGBA)
    assert image.alpha is not None
    assert difference(image.alpha, ramp_alpha()) < 20
    assert decode(HEIC_GRAY).info.mode == "L"
    assert decode(HEIC_TWO_IMAGES).info.warnings == ("multi_picture",)
    assert decode(HEIC_TWO_IMAGES).info.num_frames == 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_orientation_is_applied_to_pixels(kind: str, orientation: int) -> None:
    rgb = picture()
    upright = ImageOps.exif_transpose(_with_orientation(rgb, orientation))
    options = {"png": {}, "webp": {"lossless": True}, "tiff": {}}.get(kind, {"quality": 95})
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(save(rgb, kind, exif=exif, **options))
    assert image.info.orientation == orientation
    assert (image.info.width, image.info.height) == upright.size
    assert np.abs(image.pixels.astype(int) - np.asarray(upright)).mean() < 4


def raw_profile(name: bytes, body: bytes) -> bytes:
    """As ImageMagick writes profiles into text chunks, behind the keyword and its NUL."""
    digits = body.hex().encode()
    lines = b"\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return b"\n%s\n%8d\n%s\n" % (name, len(body), lines)


@pytest.mark.parametrize("name", [b"exif", b"APP1"])
@pytest.mark.parametrize("is_deflated", [False, True])
def test_exif_in_a_png_text_chunk(name: bytes, is_deflated: bool) -> None:
    plain, keyword = save(picture(), "png"), b"Raw profile type " + name + b"\0"
    text = raw_profile(name, exif_block(6, t010F="ACME"))
    chunk = (b"zTXt", keyword + b"\0" + zlib.compress(text)) if is_deflated else (b"tEXt", keyword + text)
    info = decode(insert_png_chunk(plain, *chunk)).info
    assert (info.orientation, info.capture.camera_make) == (6, "ACME")
    both = insert_png_chunk(insert_png_chunk(plain, *chunk), b"eXIf", exif_block(8).removeprefix(b"Exif\0\0"))
    assert decode(both).info.orientation == 8


@pytest.mark.parametrize(
    "text", [b"", b"\nAPP1\n   20\nzz", b"\nAPP1\n   4\n" + b"http://ns.adobe.com/".hex().encode()]
)
def test_other_profiles_in_png_text_say_nothing(text: bytes) -> None:
    data = insert_png_chunk(save(picture(), "png"), b"tEXt", b"Raw profile type APP1\0" + text)
    assert (decode(data).info.orientation, decode(data).info.warnings) == (1, ())


def test_orientation_turns_alpha_too() -> None:
    rgba = np.dstack([picture(), ramp_alpha()])
    image = decode(save(rgba, "png", exif=exif_block(6)))
    assert image.alpha is not None
    assert np.array_equal(image.alpha, np.rot90(ramp_alpha(), -1))


@pytest.mark.parametrize(
    ("boxes", "orientation"),
    [((b"irot\1",), 8), ((b"irot\2",), 3), ((b"irot\3",), 6), ((b"imir\1",), 2), ((b"irot\3", b"imir\0"), 7)],
)
def test_heic_is_turned_once(boxes: tuple[bytes, ...], orientation: int) -> None:
    data = HEIC_RGB
    for box in boxes:
        data = with_heif_property(data, struct.pack(">I", len(box) + 4) + box)
    image = decode(data)
    upright = np.asarray(ImageOps.exif_transpose(_with_orientation(decode(HEIC_RGB).pixels, orientation)))
    assert image.info.orientation == orientation
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).mean() < 2
    assert probe_ldr(data, LIMITS) == image.info


def test_orientation_from_xmp_only_where_exif_is_silent() -> None:
    rgb = picture()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    chunk = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    assert np.array_equal(decode(insert_png_chunk(save(rgb, "png"), b"iTXt", chunk)).pixels, rgb[::-1, ::-1])
    with_exif = insert_png_chunk(save(rgb, "png", exif=exif_block(1)), b"iTXt", chunk)
    assert np.array_equal(decode(with_exif).pixels, rgb)


def test_bad_exif_is_a_warning() -> None:
    data = insert_jpeg_segment(save(picture(), "jpeg"), 0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data).info.warnings == ("exif_invalid",)


def test_junk_between_jpeg_segments_costs_a_warning_not_the_image() -> None:
    data = save(picture(), "jpeg")
    at = data.index(b"\xff\xdb")
    image = decode(data[:at] + b"junk!" + data[at:])
    assert image.info.warnings == ("junk_in_header",)
    assert np.array_equal(image.pixels, decode(data).pixels)


def test_zeroed_scan_parameters_are_accepted() -> None:
    data = save(picture(), "jpeg")
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    odd = data[: end - 3] + b"\0\0\0" + data[end:]
    assert np.array_equal(decode(odd).pixels, decode(data).pixels)


def test_animated_files_give_their_first_frame() -> None:
    first, second = picture(), picture()[::-1].copy()
    for kind, tolerance in (("png", 0), ("webp", 0), ("avif", 6)):
        options = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "avif" else {}
        data = save(first, kind, save_all=True, append_images=[Image.fromarray(second)], **options)
        image = decode(data)
        assert image.info.num_frames == 2
        assert image.info.warnings == ("animated",)
        assert np.abs(image.pixels.astype(int) - first).mean() <= tolerance


def test_animated_webp_frame_smaller_than_its_canvas() -> None:
    frame = picture(20, 30)
    bitstream = bytes(imagecodecs.webp_encode(frame, lossless=True))[12:]
    u24 = [struct.pack("<I", value)[:3] for value in (4, 6, 29, 19, 100, WIDTH - 1, HEIGHT - 1)]
    body = b"WEBP" + _riff(b"VP8X", b"\x02\0\0\0" + u24[5] + u24[6]) + _riff(b"ANIM", b"\0\0\0\0\0\0")
    body += _riff(b"ANMF", b"".join(u24[:5]) + b"\0" + bitstream)
    image = decode(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert image.pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(image.pixels[12:32, 8:38], frame)  # offsets are stored halved


def test_multi_picture_jpeg_gives_the_primary() -> None:
    buffer = io.BytesIO()
    second = Image.fromarray(picture()[::-1].copy())
    Image.fromarray(picture()).save(buffer, "MPO", save_all=True, append_images=[second, second], quality=95)
    image = decode(buffer.getvalue())
    assert image.info.num_frames == 3
    assert image.info.warnings == ("multi_picture",)
    assert np.abs(image.pixels.astype(int) - picture()).mean() < 4


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"/>'),
        (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"),
    ],
)
def test_gain_map_jpeg_is_noted(marker: int, body: bytes) -> None:
    data = save(picture(), "jpeg")
    assert decode(insert_jpeg_segment(data, marker, body)).info.warnings == ("already_hdr_gain_map",)
    assert decode(data).info.warnings == ()


def test_fill_bytes_before_a_marker_are_no_junk() -> None:
    """ITU-T T.81, B.1.1.2."""
    data = save(picture(), "jpeg")
    table = data.index(b"\xff\xdb")
    image = decode(data[:table] + b"\xff\xff\xff" + data[table:])
    assert image.info.warnings == ()
    assert np.array_equal(image.pixels, decode(data).pixels)


def test_gain_map_heic_is_noted() -> None:
    body = b"auxC\0\0\0\0urn:com:apple:photo:2020:aux:hdrgainmap\0"
    data = with_heif_property(HEIC_RGB, struct.pack(">I", len(body) + 4) + body)
    assert "already_hdr_gain_map" in probe_ldr(data, LIMITS).warnings


def refuse_as_hdr(data: bytes) -> None:
    for read in (decode, lambda data: probe_ldr(data, LIMITS)):
        with pytest.raises(AlreadyHdrTransferError) as caught:
            read(data)
        assert caught.value.warnings == ("already_hdr_transfer",)


def test_pq_and_hlg_are_refused() -> None:
    for png in (save(picture(), "png"), save(picture()[..., 0], "png")):
        refuse_as_hdr(insert_png_chunk(png, b"cICP", bytes([9, 16, 0, 1])))
        assert decode(insert_png_chunk(png, b"cICP", bytes([1, 13, 0, 1]))).info.warnings == ()
    codes = picture().astype(np.uint16) * 4
    avif = bytes(imagecodecs.avif_encode(codes, bitspersample=10, primaries=9, transfer=16, matrix=9))
    refuse_as_hdr(avif)
    heic = HEIC_RGB.replace(b"nclx\0\x01\0\x0d", b"nclx\0\x09\0\x12")
    assert heic != HEIC_RGB
    refuse_as_hdr(heic)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_narrow_range_is_stretched(dtype: type) -> None:
    """ITU-T H.273, 8.3: of 8 bits, 16 is black and 235 is white."""
    unit = (np.iinfo(dtype).max + 1) // 256
    codes = (np.array([[0, 16, 125.5, 235, 255]]) * unit).astype(dtype)
    plain = bytes(imagecodecs.png_encode(np.repeat(codes[..., np.newaxis], 3, axis=2)))
    pixels = decode(insert_png_chunk(plain, b"cICP", bytes([1, 13, 0, 0]))).pixels
    expected = np.array([[0, 0, 0.5, 1, 1]]) * np.iinfo(dtype).max
    assert np.abs(pixels - expected[..., np.newaxis]).max() <= 0.6 * unit
    full = decode(insert_png_chunk(plain, b"cICP", bytes([1, 13, 0, 1]))).pixels
    assert np.array_equal(full[..., 0], codes)


@pytest.mark.parametrize(("transfer", "gamma"), [(4, 2.2), (8, 1.0)])
def test_the_transfer_of_gray_is_applied(transfer: int, gamma: float) -> None:
    gray = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    pixels = decode(insert_png_chunk(save(gray, "png"), b"cICP", bytes([1, transfer, 0, 1]))).pixels
    linear = (gray / 255.0) ** gamma
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(pixels - expected[..., np.newaxis]).max() <= 1.0


def test_size_limits_are_checked_before_decoding() -> None:
    data = save(picture(), "png")
    with pytest.raises(EmptyImageError):
        decode(b"")
    with pytest.raises(TooLargeError, match="bytes"):
        decode_ldr(data, DecodeConfig(max_bytes=len(data) - 1))
    with pytest.raises(TooLargeError, match="64x48"):
        probe_ldr(data, DecodeConfig(max_pixels=WIDTH * HEIGHT - 1))
    assert decode_ldr(data, DecodeConfig(max_pixels=WIDTH * HEIGHT, max_bytes=len(data))).info.width == WIDTH


def test_a_decompression_bomb_is_refused_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    bomb = _png(60_000, 60_000, 8, 2, b"\0" * 100)
    with pytest.raises(TooLargeError, match="3600000000"):
        decode(bomb)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"v/1\x01" + bytes(50), "HDR pixels already"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "HDR pixels already"),
        (b"GIF89a" + bytes(20), "GIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw"),
        (b"hello, this is text", "not an image"),
        (b"\xff", "not an image"),
    ],
)
def test_other_formats_are_named(data: bytes, words: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=words) as caught:
        decode(data)
    assert (caught.value.code == "already_hdr_float") == ("already" in words)


def test_magic_bytes_decide() -> None:
    for name, data in all_formats().items():
        assert sniff_format(data) == name.partition("_")[0]
    assert sniff_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") is ImageFormat.AVIF
    assert sniff_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic") is ImageFormat.HEIC
    assert sniff_format(b"\0\0\0\x18ftypisom\0\0\0\0mp41") is None


def test_threads_get_the_same_pixels() -> None:
    samples = all_formats()
    expected = {name: decode(data).pixels for name, data in samples.items()}
    failures: list[str] = []

    def work() -> None:
        for _ in range(3):
            failures.extend(n for n, d in samples.items() if not np.array_equal(decode(d).pixels, expected[n]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def _with_orientation(rgb: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(rgb)
    image.getexif()[0x0112] = orientation
    return image


def _unpack(row: np.ndarray, bits: int) -> np.ndarray:
    return np.unpackbits(row[:, np.newaxis], axis=1)[:, 8 - bits :].reshape(-1)


def _png(width: int, height: int, bits: int, color_type: int, body: bytes) -> bytes:
    import zlib

    from ldr_samples import png_chunk

    ihdr = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    parts = (png_chunk(b"IHDR", ihdr), png_chunk(b"IDAT", zlib.compress(body)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
