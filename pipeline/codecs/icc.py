"""Colours of a file to sRGB (IEC 61966-2-1), through littlecms.

Relative colorimetric intent with black point compensation, what photo software does by default; colours outside
sRGB are clipped to its gamut. 16-bit and gray samples go through littlecms unoptimised: its precalculated tables raise
code 1000 of 65535 to 2.4 times its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.chromaticities import can_be_display
from pipeline.codecs.header import Cicp, ColorSpace, LdrHeader, PngColor
from pipeline.codecs.icc_profile import describe, is_hdr, is_usable
from pipeline.errors import AlreadyHdrTransferError

_RELATIVE_COLORIMETRIC = 1  # lcms2.h INTENT_RELATIVE_COLORIMETRIC
_BLACK_POINT_COMPENSATION = 0x2000  # cmsFLAGS_BLACKPOINTCOMPENSATION
_NO_OPTIMIZE = 0x0100  # cmsFLAGS_NOOPTIMIZE

_SIGNATURES = {b"GRAY": ColorSpace.GRAY, b"RGB ": ColorSpace.RGB, b"CMYK": ColorSpace.CMYK}
_NUM_CHANNELS = {ColorSpace.GRAY: 1, ColorSpace.RGB: 3, ColorSpace.CMYK: 4}

# A profile counts as sRGB when it moves no colour of a 9x9x9 grid by more than one 8-bit code.
_GRID_STEPS = 9
_SRGB_TOLERANCE = 257

_SRGB_PRIMARIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_D65 = (0.3127, 0.3290)
# ITU-T H.273 table 2. 1, 2 (unspecified), 5 and 6 (BT.601) are taken as sRGB's, as browsers do.
_CICP_PRIMARIES: dict[int, tuple[tuple[float, float], tuple[float, ...]]] = {
    9: (_D65, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: (_D65, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
}
# ITU-T H.273 table 3: pure powers. All others but PQ and HLG are taken as sRGB's curve.
_CICP_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}

_PNG_GAMMA_SRGB = 0.45455
_PNG_GAMMA_TOLERANCE = 0.01
_PNG_CHROMATICITY_TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class ColorPlan:
    """How samples become sRGB: through `profile`, or as they are (CMYK: by the naive formula) where it is None."""

    profile: bytes | None
    description: str | None
    warnings: tuple[str, ...]


def plan_color(header: LdrHeader, *, is_adobe_rgb: bool = False) -> ColorPlan:
    """Choose the conversion for one file and try it on a small grid; a useless profile becomes a warning.

    `is_adobe_rgb` is what EXIF says; it counts for RGB where nothing else tells the colours.

    Warning codes: `icc_invalid` (or of more than 16 MiB), `icc_mismatch` (the profile is for another colour space),
    `cmyk_without_profile`, `exif_adobe_rgb`, `gamma_applied` and `gamma_ignored` (PNG gAMA or cHRM).

    Raises AlreadyHdrTransferError for PQ and HLG, by code points, by the profile's `cicp` tag or by its name.
    """
    if (header.cicp is not None and header.cicp.is_hdr) or (header.icc is not None and is_hdr(header.icc)):
        raise AlreadyHdrTransferError(f"{header.format} in PQ or HLG (ITU-R BT.2100) holds HDR pixels already")
    space, warnings = header.color_space, []
    profile, description = None, None
    if header.is_icc_broken:
        warnings.append("icc_invalid")
    elif header.icc is not None:
        profile, description, warning = _check_icc(header.icc, space)
        warnings += [warning] if warning else []
    elif header.cicp is not None:
        profile = _cicp_profile(header.cicp, space)
    elif header.png_color is not None:
        profile, warning = _png_profile(header.png_color, space)
        warnings += [warning] if warning else []
    elif is_adobe_rgb and header.cicp is None and space is ColorSpace.RGB:
        profile = _adobe_rgb_profile()
        description = describe(profile)
        warnings.append("exif_adobe_rgb")
    if space is ColorSpace.CMYK and profile is None:
        warnings.append("cmyk_without_profile")
    return ColorPlan(profile, description, tuple(warnings))


def to_srgb(color: NDArray[Any], space: ColorSpace, plan: ColorPlan) -> NDArray[Any]:
    """Convert (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16 samples to (H, W, 3) sRGB of the same dtype."""
    if plan.profile is not None:
        return _transform(color, plan.profile, space)
    if space is ColorSpace.GRAY:
        return np.repeat(color[..., np.newaxis], 3, axis=2)
    if space is ColorSpace.CMYK:
        return naive_cmyk_to_rgb(color)
    return color


def naive_cmyk_to_rgb(inks: NDArray[Any]) -> NDArray[Any]:
    """R = (1 - C)(1 - K) and so on, on codes (H, W, 4) with the highest as full ink: PostScript's device formula
    up to its clipping (PLRM3, 7.2.4). A stand-in where no profile says what the inks look like.
    """
    top = np.iinfo(inks.dtype).max
    rgb = np.empty((*inks.shape[:2], 3), inks.dtype)
    for row, line in enumerate(inks):
        paper = top - line.astype(np.uint32)
        rgb[row] = (paper[:, :3] * paper[:, 3:] + top // 2) // top
    return rgb


def _transform(color: NDArray[Any], profile: bytes, space: ColorSpace) -> NDArray[Any]:
    is_optimised = color.dtype == np.uint8 and space is not ColorSpace.GRAY
    flags = _BLACK_POINT_COMPENSATION | (0 if is_optimised else _NO_OPTIMIZE)
    converted: NDArray[Any] = imagecodecs.cms_transform(
        np.ascontiguousarray(color),
        profile,
        _srgb_profile(),
        colorspace=space.value,
        outcolorspace="rgb",
        intent=_RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    return converted


@cache
def _srgb_profile() -> bytes:
    return bytes(imagecodecs.cms_profile("srgb"))


@cache
def _adobe_rgb_profile() -> bytes:
    return bytes(imagecodecs.cms_profile("adobergb"))


def _check_icc(icc: bytes, space: ColorSpace) -> tuple[bytes | None, str | None, str | None]:
    """Return (profile to apply or None, description, warning code or None)."""
    if not is_usable(icc):
        return None, None, "icc_invalid"
    description = describe(icc)
    if _SIGNATURES.get(icc[16:20]) is not space:
        return None, description, "icc_mismatch"
    outcome = _try_profile(icc, space)
    if outcome is None:
        return None, description, "icc_invalid"
    return (None if outcome else icc), description, None


def _try_profile(profile: bytes, space: ColorSpace) -> bool | None:
    """Return whether the profile leaves sRGB samples as they are, or None where littlecms refuses it."""
    axis = np.linspace(0, 65535, _GRID_STEPS).round().astype(np.uint16)
    channels = _NUM_CHANNELS[space]
    grid = np.stack(np.meshgrid(*[axis] * channels), axis=-1).reshape(1, -1, channels)
    if channels == 1:
        grid = grid[..., 0]
    try:
        converted = _transform(grid, profile, space)
    except (imagecodecs.CmsError, ValueError):
        return None
    if space is ColorSpace.CMYK:
        return False
    same = grid if channels == 3 else np.repeat(grid[..., np.newaxis], 3, axis=2)
    return bool(np.abs(converted.astype(np.int32) - same.astype(np.int32)).max() <= _SRGB_TOLERANCE)


def _cicp_profile(cicp: Cicp, space: ColorSpace) -> bytes | None:
    """Build a profile for SDR code points that are not sRGB's own. Of gray, only the transfer means anything."""
    gamma = _CICP_GAMMAS.get(cicp.transfer)
    if space is ColorSpace.GRAY:
        return None if gamma is None else _gray_profile(gamma)
    if cicp.primaries not in _CICP_PRIMARIES and gamma is None:
        return None
    white, primaries = _CICP_PRIMARIES.get(cicp.primaries, (_D65, _SRGB_PRIMARIES))
    return _rgb_profile(white, primaries, gamma)


def _png_profile(color: PngColor, space: ColorSpace) -> tuple[bytes | None, str | None]:
    """Build a profile from gAMA and cHRM; None where they mean sRGB or one of them makes no sense."""
    is_srgb_gamma = color.gamma is None or abs(color.gamma - _PNG_GAMMA_SRGB) <= _PNG_GAMMA_TOLERANCE
    xy = color.chromaticities if space is ColorSpace.RGB else None
    srgb_xy = (*_D65, *_SRGB_PRIMARIES)
    if xy is not None and np.allclose(xy, srgb_xy, rtol=0, atol=_PNG_CHROMATICITY_TOLERANCE):
        xy = None
    if is_srgb_gamma and xy is None:
        return None, None
    if color.gamma is not None and not 0.1 <= color.gamma <= 10:
        return None, "gamma_ignored"
    if xy is not None and not can_be_display(xy):
        return None, "gamma_ignored"
    gamma = None if is_srgb_gamma else 1.0 / (color.gamma or 1.0)
    white, primaries = (xy[:2], xy[2:]) if xy else (_D65, _SRGB_PRIMARIES)
    try:
        profile = _gray_profile(gamma) if space is ColorSpace.GRAY else _rgb_profile(white, primaries, gamma)
    except (imagecodecs.CmsError, ValueError):
        return None, "gamma_ignored"
    return (profile, "gamma_applied") if _try_profile(profile, space) is not None else (None, "gamma_ignored")


def _gray_profile(gamma: float | None) -> bytes:
    return bytes(imagecodecs.cms_profile("gray", whitepoint=_D65, gamma=gamma))


def _rgb_profile(white: tuple[float, ...], primaries: tuple[float, ...], gamma: float | None) -> bytes:
    curve = {"transferfunction": _srgb_decode_table()} if gamma is None else {"gamma": gamma}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, **curve))


@cache
def _srgb_decode_table() -> NDArray[np.float32]:
    # IEC 61966-2-1: the electro-optical transfer function of sRGB.
    code = np.linspace(0.0, 1.0, 4096)
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)
