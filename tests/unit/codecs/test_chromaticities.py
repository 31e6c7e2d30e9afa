"""Chromaticities of a PNG that can be a display's, and those that cannot."""

from __future__ import annotations

import struct

import colour
import numpy as np
import pytest
from ldr_samples import D65, insert_png_chunk, picture, save

from pipeline.codecs.chromaticities import can_be_display
from pipeline.codecs.ldr import LdrImage, decode_ldr
from pipeline.config import DecodeConfig

SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
RGB = picture()
REAL = [
    "sRGB",
    "Display P3",
    "DCI-P3",
    "Adobe RGB (1998)",
    "ProPhoto RGB",
    "ACES2065-1",
    "ACEScg",
    "ITU-R BT.2020",
    "NTSC (1953)",
    "Apple RGB",
    "CIE RGB",
    "Adobe Wide Gamut RGB",
    "Ekta Space PS 5",
    "S-Gamut3",
    "ARRI Wide Gamut 4",
    "DaVinci Wide Gamut",
]
IMPOSSIBLE = {
    "white of no light": (0.3, 0.0, *SRGB),
    "white at the origin": (0.001, 0.001, *SRGB),
    "white beyond red": (0.7, 0.3, *SRGB),
    "white below the axis": (0.3127, -0.2, *SRGB),
    "negative x": (-0.1, 0.3, *SRGB),
    "white beyond the spectrum": (0.6, 0.6, *SRGB),
    "white on an edge": (0.45, 0.465, 0.64, 0.33, 0.26, 0.60, 0.15, 0.06),
    "white on a primary": (0.15, 0.06, *SRGB),
    "one point": (*D65, *D65, *D65, *D65),
    "a line": (*D65, 0.2, 0.2, 0.3127, 0.3290, 0.5, 0.545),
    "a thin triangle": (0.3, 0.305, 0.2, 0.2, 0.3, 0.32, 0.4, 0.4),
    "huge": (0.3, 0.3, 400.0, 0.3, 0.3, 400.0, -400.0, -400.0),
    "zero": (0.0,) * 8,
}


def png(chromaticities: tuple[float, ...], gamma: float | None = None) -> bytes:
    data = save(RGB, "png")
    if gamma is not None:
        data = insert_png_chunk(data, b"gAMA", struct.pack(">I", round(gamma * 1e5)))
    return insert_png_chunk(data, b"cHRM", struct.pack(">8i", *(round(v * 1e5) for v in chromaticities)))


def decode(data: bytes) -> LdrImage:
    return decode_ldr(data, DecodeConfig())


def of_space(name: str) -> tuple[float, ...]:
    space = colour.RGB_COLOURSPACES[name]
    return (*map(float, space.whitepoint), *map(float, space.primaries.ravel()))


@pytest.mark.parametrize("name", REAL)
def test_real_spaces_are_taken(name: str) -> None:
    values = of_space(name)
    assert can_be_display(values)
    white = np.full((4, 4, 3), 255, np.uint8)
    image = decode(png(values))
    assert image.info.warnings == (() if name == "sRGB" else ("gamma_applied",))
    data = insert_png_chunk(save(white, "png"), b"cHRM", png(values)[41:73])
    assert (decode(data).pixels >= 254).all(), "white stays white"


@pytest.mark.parametrize("name", ["ProPhoto RGB", "ACES2065-1", "ACEScg"])
def test_imaginary_primaries_give_the_right_colours(name: str) -> None:
    """Against a matrix with Bradford's adaptation, where colours stay within sRGB."""
    pixels = np.random.default_rng(3).uniform(118, 136, (16, 16, 3)).round().astype(np.uint8)
    values = of_space(name)
    source = colour.RGB_Colourspace("source", np.reshape(values[2:], (3, 2)), np.array(values[:2]))
    target = colour.RGB_Colourspace("sRGB", np.reshape(SRGB, (3, 2)), np.array(D65))
    matrix = colour.matrix_RGB_to_RGB(source, target, chromatic_adaptation_transform="Bradford")
    linear = colour.models.eotf_sRGB(pixels / 255) @ matrix.T
    assert ((linear > 0) & (linear < 1)).all()
    data = insert_png_chunk(save(pixels, "png"), b"cHRM", png(values)[41:73])
    assert np.abs(decode(data).pixels - colour.models.eotf_inverse_sRGB(linear) * 255).max() <= 2


@pytest.mark.parametrize("gamma", [None, 0.45455, 1.0])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_chromaticities_are_ignored(name: str, gamma: float | None) -> None:
    assert not can_be_display(IMPOSSIBLE[name])
    image = decode(png(IMPOSSIBLE[name], gamma))
    assert image.info.warnings == ("gamma_ignored",)
    assert np.array_equal(image.pixels, RGB)


def test_gray_has_no_chromaticities() -> None:
    chunk = png(IMPOSSIBLE["white of no light"])[41:73]
    image = decode(insert_png_chunk(save(RGB[..., 1], "png"), b"cHRM", chunk))
    assert image.info.warnings == ()
