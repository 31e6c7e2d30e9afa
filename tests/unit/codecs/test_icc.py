"""Colour profiles to sRGB, against colour-science and plain formulas."""

from __future__ import annotations

import struct
import zlib

import colour
import imagecodecs
import numpy as np
import pytest
from ldr_samples import (
    D65,
    P3_PRIMARIES,
    adobe_rgb_exif,
    cmyk_profile,
    insert_jpeg_segment,
    insert_png_chunk,
    p3_profile,
    picture,
    save,
    save_cmyk_jpeg,
    save_tiff,
)
from PIL import ImageCms

from pipeline.codecs.header import MAX_ICC_BYTES
from pipeline.codecs.icc import naive_cmyk_to_rgb
from pipeline.codecs.ldr import LdrImage, decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import AlreadyHdrTransferError

LIMITS = DecodeConfig()
RGB = picture()
SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_PRIMARIES = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def decode(data: bytes) -> LdrImage:
    return decode_ldr(data, LIMITS)


def rgb_profile(primaries: tuple[float, ...], gamma: float) -> bytes:
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=primaries, gamma=gamma))


LOSSLESS = {"webp": {"lossless": True}}


def png_with_icc(pixels: np.ndarray, icc: bytes) -> bytes:
    data = bytes(imagecodecs.png_encode(pixels))
    return insert_png_chunk(data, b"iCCP", b"p\0\0" + zlib.compress(icc))


def expected_srgb(pixels: np.ndarray, primaries: tuple[float, ...], gamma: float) -> np.ndarray:
    """Decode by the power, change primaries, clip, encode by IEC 61966-2-1; in 0..1."""
    source = colour.RGB_Colourspace("source", np.reshape(primaries, (3, 2)), np.array(D65))
    target = colour.RGB_Colourspace("sRGB", np.reshape(SRGB_PRIMARIES, (3, 2)), np.array(D65))
    matrix = colour.matrix_RGB_to_RGB(source, target, chromatic_adaptation_transform=None)
    linear = (pixels / np.iinfo(pixels.dtype).max) ** gamma @ matrix.T
    return colour.models.eotf_inverse_sRGB(np.clip(linear, 0, 1))


@pytest.mark.parametrize(("dtype", "bound"), [(np.uint8, 1.5), (np.uint16, 40.0)])
@pytest.mark.parametrize(
    ("primaries", "gamma"), [(P3_PRIMARIES, 2.2), (ADOBE_PRIMARIES, 563 / 256), (P3_PRIMARIES, 1.8)]
)
def test_rgb_profiles(primaries: tuple[float, ...], gamma: float, dtype: type[np.integer], bound: float) -> None:
    top = np.iinfo(dtype).max
    # Muted colours stay inside sRGB, where clipping does not matter.
    pixels = (np.random.default_rng(2).uniform(0.35, 0.65, (20, 20, 3)) * top).astype(dtype)
    image = decode(png_with_icc(pixels, rgb_profile(primaries, gamma)))
    difference = np.abs(image.pixels - expected_srgb(pixels, primaries, gamma) * top)
    assert image.pixels.dtype == dtype
    assert difference.max() <= bound
    assert image.info.warnings == ()


def test_sixteen_bit_shadows_are_exact() -> None:
    """littlecms' precalculated tables would give 203 for code 1000 of Adobe RGB where the formula says 86."""
    codes = np.array([[[v] * 3 for v in (0, 300, 1000, 3000, 10000, 65535)]], np.uint16)
    image = decode(png_with_icc(codes, rgb_profile(ADOBE_PRIMARIES, 563 / 256)))
    expected = expected_srgb(codes, ADOBE_PRIMARIES, 563 / 256) * 65535
    assert np.abs(image.pixels - expected).max() <= 8


def test_saturated_p3_is_clipped_to_srgb() -> None:
    green = np.full((4, 4, 3), (0, 255, 0), np.uint8)
    assert (decode(png_with_icc(green, p3_profile())).pixels == (0, 255, 0)).all()


@pytest.mark.parametrize(
    "icc",
    [
        bytes(imagecodecs.cms_profile("srgb")),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_srgb_profiles_leave_pixels_alone(icc: bytes, dtype: type[np.integer]) -> None:
    pixels = np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (9, 9, 3), dtype=dtype)
    image = decode(png_with_icc(pixels, icc))
    assert np.array_equal(image.pixels, pixels)
    assert image.info.icc_profile is not None
    assert "sRGB" in image.info.icc_profile


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "avif"])
def test_profiles_are_found_in_every_container(kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {"quality": 95} if kind in {"jpeg", "avif"} else {}
    plain = decode(save(RGB, kind, **options)).pixels
    image = decode(save(RGB, kind, icc_profile=rgb_profile(SRGB_PRIMARIES, 1.8), **options))
    mean = {"plain": plain[20:].mean(), "tagged": image.pixels[20:].mean()}
    assert mean["tagged"] > mean["plain"] + 10  # a lower exponent means brighter light
    assert image.info.warnings == ()


def test_large_profile_in_several_jpeg_segments() -> None:
    icc = rgb_profile(SRGB_PRIMARIES, 1.8)
    data = save(RGB, "jpeg")
    whole = decode(insert_jpeg_segment(data, 0xE2, b"ICC_PROFILE\0\1\1" + icc)).pixels
    half = len(icc) // 2
    parts = [b"ICC_PROFILE\0\1\2" + icc[:half], b"ICC_PROFILE\0\2\2" + icc[half:]]
    for order in (parts, parts[::-1]):
        split = insert_jpeg_segment(insert_jpeg_segment(data, 0xE2, order[0]), 0xE2, order[1])
        assert np.array_equal(decode(split).pixels, whole)
    incomplete = decode(insert_jpeg_segment(data, 0xE2, parts[0]))
    assert incomplete.info.warnings == ("icc_invalid",)
    assert np.array_equal(incomplete.pixels, decode(data).pixels)


def test_gray_profile(capfd: pytest.CaptureFixture[str]) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    icc = bytes(imagecodecs.cms_profile("gray", whitepoint=D65, gamma=1.8))
    image = decode(png_with_icc(gray, icc))
    assert capfd.readouterr() == ("", ""), "libpng, which warns of profiles in gray files, does not see it"
    expected = colour.models.eotf_inverse_sRGB((gray / 255) ** 1.8) * 255
    assert np.abs(image.pixels[..., 0] - expected).max() <= 1.5
    assert np.ptp(image.pixels, axis=2).max() == 0


def test_cmyk_profile_is_used() -> None:
    cases = {(0, 0, 0, 0): (100, 0, 0), (255, 0, 0, 0): (60, -40, -40), (0, 255, 0, 0): (50, 70, 0)}
    inks = np.array([list(cases)], np.uint8)
    image = decode(save_tiff(inks, photometric="separated", iccprofile=cmyk_profile()))
    lab = np.array(list(cases.values()), float)
    xyz = colour.Lab_to_XYZ(lab, colour.CCS_ILLUMINANTS["CIE 1931 2 Degree Standard Observer"]["D50"])
    expected = np.clip(
        colour.XYZ_to_sRGB(xyz, colour.CCS_ILLUMINANTS["CIE 1931 2 Degree Standard Observer"]["D50"]), 0, 1
    )
    assert np.abs(image.pixels[0] / 255 - expected).max() < 0.03
    assert image.info.icc_profile == "Test inks"
    assert image.info.warnings == ()


def test_cmyk_jpeg_with_profile() -> None:
    image = decode(save_cmyk_jpeg(np.full((16, 16, 3), 255, np.uint8), icc_profile=cmyk_profile()))
    assert (image.pixels >= 250).all()
    assert image.info.icc_profile == "Test inks"


def test_naive_cmyk_formula() -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [51, 102, 153, 128]]], np.uint8)
    rgb = naive_cmyk_to_rgb(inks)
    exact = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255) * 255
    assert np.abs(rgb - exact).max() <= 0.5
    wide = naive_cmyk_to_rgb(inks.astype(np.uint16) * 257)
    assert np.abs(wide - exact * 257).max() <= 0.5


def broken_profiles() -> dict[str, bytes]:
    good = p3_profile()
    return {
        "junk": b"junk" * 100,
        "short": good[:60],
        "cut": good[:200],
        "link": good[:12] + b"link" + good[16:],
        "tags": good[:128] + b"\xff\xff\xff\xff" + good[132:],
    }


@pytest.mark.parametrize("name", broken_profiles())
def test_broken_profiles_warn_and_pixels_count_as_srgb(name: str) -> None:
    image = decode(png_with_icc(RGB, broken_profiles()[name]))
    assert image.info.warnings == ("icc_invalid",)
    assert np.array_equal(image.pixels, RGB)


@pytest.mark.parametrize(("num_bytes", "is_used"), [(MAX_ICC_BYTES, True), (MAX_ICC_BYTES + 4, False)])
@pytest.mark.parametrize("kind", ["tiff", "png", "webp"])
def test_a_profile_that_is_too_large_is_not_parsed(kind: str, num_bytes: int, is_used: bool) -> None:
    profile = rgb_profile(ADOBE_PRIMARIES, 563 / 256)
    large = struct.pack(">I", num_bytes) + profile[4:].ljust(num_bytes - 4, b"\0")
    data = png_with_icc(RGB, large) if kind == "png" else save(RGB, kind, icc_profile=large, **LOSSLESS.get(kind, {}))
    image = decode(data)
    assert image.info.warnings == (() if is_used else ("icc_invalid",))
    assert np.array_equal(image.pixels, decode(png_with_icc(RGB, profile)).pixels if is_used else RGB)


def test_damaged_iccp_stream() -> None:
    image = decode(insert_png_chunk(save(RGB, "png"), b"iCCP", b"p\0\0not zlib"))
    assert image.info.warnings == ("icc_invalid",)


def test_profile_of_another_colour_space() -> None:
    gray = bytes(imagecodecs.cms_profile("gray", whitepoint=D65, gamma=2.2))
    image = decode(png_with_icc(RGB, gray))
    assert image.info.warnings == ("icc_mismatch",)
    assert np.array_equal(image.pixels, RGB)
    cmyk = decode(save_cmyk_jpeg(RGB, icc_profile=p3_profile()))
    assert cmyk.info.warnings == ("icc_mismatch", "cmyk_without_profile")


def test_pq_inside_a_profile_is_refused() -> None:
    icc = bytearray(p3_profile())
    num_tags = int.from_bytes(icc[128:132], "big")
    at = next(i for i in range(132, 132 + 12 * num_tags, 12) if bytes(icc[i : i + 4]) in {b"cprt", b"dmnd"})
    entry = icc[at : at + 12]
    body = int.from_bytes(entry[4:8], "big")
    icc[at : at + 4] = b"cicp"
    icc[body : body + 12] = b"cicp\0\0\0\0" + bytes([9, 16, 0, 1])
    with pytest.raises(AlreadyHdrTransferError):
        decode(png_with_icc(RGB, bytes(icc)))


def test_png_gamma_is_applied_only_where_it_differs_from_srgb() -> None:
    plain = save(RGB, "png")
    for gamma in (45455, 45000, 46000):
        image = decode(insert_png_chunk(plain, b"gAMA", struct.pack(">I", gamma)))
        assert np.array_equal(image.pixels, RGB)
        assert image.info.warnings == ()
    linear = decode(insert_png_chunk(plain, b"gAMA", struct.pack(">I", 100000)))
    assert linear.info.warnings == ("gamma_applied",)
    assert np.abs(linear.pixels - colour.models.eotf_inverse_sRGB(RGB / 255) * 255).max() <= 1.5
    tagged = insert_png_chunk(insert_png_chunk(plain, b"gAMA", struct.pack(">I", 100000)), b"sRGB", b"\0")
    assert decode(tagged).info.warnings == ()
    for nonsense in (1, 2**31):
        ignored = decode(insert_png_chunk(plain, b"gAMA", struct.pack(">I", nonsense)))
        assert ignored.info.warnings == ("gamma_ignored",)
        assert np.array_equal(ignored.pixels, RGB)


def test_png_gamma_of_gray() -> None:
    gray = RGB[..., 0]
    image = decode(insert_png_chunk(save(gray, "png"), b"gAMA", struct.pack(">I", 100000)))
    assert np.abs(image.pixels[..., 0] - colour.models.eotf_inverse_sRGB(gray / 255) * 255).max() <= 1.5


def test_png_chromaticities() -> None:
    plain = save(np.full((4, 4, 3), (120, 150, 110), np.uint8), "png")
    srgb = struct.pack(">8I", *(round(v * 1e5) for v in (*D65, *SRGB_PRIMARIES)))
    wide = struct.pack(">8I", *(round(v * 1e5) for v in (*D65, *P3_PRIMARIES)))
    assert decode(insert_png_chunk(plain, b"cHRM", srgb)).info.warnings == ()
    image = decode(insert_png_chunk(plain, b"cHRM", wide))
    assert image.info.warnings == ("gamma_applied",)
    assert image.pixels[0, 0, 0] < 118
    assert image.pixels[0, 0, 1] > 150
    degenerate = decode(insert_png_chunk(plain, b"cHRM", bytes(32)))
    assert degenerate.info.warnings == ("gamma_ignored",)


def test_code_points_of_display_p3() -> None:
    """cICP 12/13 (Display P3 with sRGB's curve) is converted; 1/13 and 1/1 are sRGB."""
    pixel = np.full((4, 4, 3), (120, 150, 110), np.uint8)
    plain = save(pixel, "png")
    image = decode(insert_png_chunk(plain, b"cICP", bytes([12, 13, 0, 1])))
    source = colour.models.eotf_sRGB(pixel / 255)
    p3 = colour.RGB_Colourspace("P3", np.reshape(P3_PRIMARIES, (3, 2)), np.array(D65))
    srgb = colour.RGB_Colourspace("sRGB", np.reshape(SRGB_PRIMARIES, (3, 2)), np.array(D65))
    matrix = colour.matrix_RGB_to_RGB(p3, srgb, chromatic_adaptation_transform=None)
    expected = colour.models.eotf_inverse_sRGB(source @ matrix.T) * 255
    assert np.abs(image.pixels - expected).max() <= 1.5
    for code_points in ((1, 13), (1, 1), (2, 2)):
        assert np.array_equal(decode(insert_png_chunk(plain, b"cICP", bytes([*code_points, 0, 1]))).pixels, pixel)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_adobe_rgb_by_exif_alone(byte_order: str) -> None:
    """DCF 2.0: an option file has no profile, and the colours of one with Adobe RGB's."""
    image = decode(save(RGB, "jpeg", quality=95, exif=adobe_rgb_exif(byte_order=byte_order)))
    profile = bytes(imagecodecs.cms_profile("adobergb"))
    tagged = decode(save(RGB, "jpeg", quality=95, icc_profile=profile))
    assert np.array_equal(image.pixels, tagged.pixels)
    assert not np.array_equal(image.pixels, decode(save(RGB, "jpeg", quality=95)).pixels)
    assert image.info.icc_profile == tagged.info.icc_profile
    assert image.info.icc_profile is not None
    assert (image.info.warnings, tagged.info.warnings) == (("exif_adobe_rgb",), ())


@pytest.mark.parametrize(
    "exif",
    [
        adobe_rgb_exif(color_space=1),
        adobe_rgb_exif(index=b"R98\0"),
        adobe_rgb_exif(index=b"THM\0"),
        adobe_rgb_exif()[:-12],
        adobe_rgb_exif().replace(struct.pack("<HHII", 0xA005, 4, 1, 56), struct.pack("<HHII", 0xA005, 4, 1, 2**32 - 1)),
    ],
    ids=["srgb", "r98", "thumbnail", "cut", "elsewhere"],
)
def test_other_exif_means_no_adobe_rgb(exif: bytes) -> None:
    assert exif != adobe_rgb_exif()
    image = decode(save(RGB, "jpeg", quality=95, exif=exif))
    assert np.array_equal(image.pixels, decode(save(RGB, "jpeg", quality=95)).pixels)
    assert image.info.icc_profile is None
    assert image.info.warnings == ()


def test_a_profile_and_other_formats_take_precedence_over_exif() -> None:
    srgb = bytes(imagecodecs.cms_profile("srgb"))
    plain = decode(save(RGB, "jpeg", quality=95)).pixels
    image = decode(save(RGB, "jpeg", quality=95, exif=adobe_rgb_exif(), icc_profile=srgb))
    assert np.array_equal(image.pixels, plain)
    assert image.info.warnings == ()
    broken = decode(save(RGB, "jpeg", quality=95, exif=adobe_rgb_exif(), icc_profile=b"x" * 500))
    assert np.array_equal(broken.pixels, plain)
    assert broken.info.warnings == ("icc_invalid",)
    gray = decode(save(RGB[..., 1], "jpeg", quality=95, exif=adobe_rgb_exif()))
    assert gray.info.warnings == ()
    png = decode(save(RGB, "png", exif=adobe_rgb_exif()))
    assert np.array_equal(png.pixels, RGB)
    assert png.info.warnings == ()
