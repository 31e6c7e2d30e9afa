"""A simulated camera: turns the demo scene into the files that a photographer would have brought home.

Exposure, sensor noise, clipping, white balance, the sRGB curve, quantisation, file format and EXIF; no lens, no
demosaicing, no tone curve beyond sRGB, so that the true radiances stay comparable with what is converted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from jobs.demo_scene import LAMP_CENTRE, project, render_scene
from pipeline.codecs.color import linear_to_srgb
from pipeline.simulation.sensor import Sensor

_Sample = TypeVar("_Sample", bound=np.generic)
LdrArray = NDArray[np.uint8 | np.uint16]

_BASE_EXPOSURE_TIME_S = Fraction(1, 128)
_APERTURE = Fraction(8)
_FOCAL_LENGTH_MM = Fraction(35)
_ISO_SPEED = 100
_CAPTURED_AT = "2026:06:21 20:41:00"
_UTC_OFFSET = "+02:00"
_PORTRAIT_FRACTION = 4 / 9  # of the width: a 2:3 picture out of a 3:2 one
_DETAIL_FRACTION = 0.19
_BROKEN_FRACTION = 0.6
_BRACKET_EV = (-2.0, 0.0, 2.0)


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """One exposure. Raises ValueError where a value makes no camera.

    `exposure_ev` multiplies the scene by 2**EV; 1.0 then is the level at which all channels clip. `full_well_e`,
    `read_noise_e` and `white_balance` are those of `Sensor`. `bit_depth` is 8 or 16 bits per sample.
    """

    exposure_ev: float = 0.0
    full_well_e: float = 24_000.0
    read_noise_e: float = 4.0
    white_balance: tuple[float, float, float] = (1.9, 1.0, 1.6)
    bit_depth: int = 8
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        _ = self.sensor  # checks its own values
        if self.bit_depth not in (8, 16):
            msg = f"bit_depth must be 8 or 16, not {self.bit_depth}"
            raise ValueError(msg)

    @property
    def sensor(self) -> Sensor:
        """The camera's sensor."""
        return Sensor(self.full_well_e, self.read_noise_e, self.white_balance)

    @property
    def exposure_time_s(self) -> Fraction:
        """The shutter time in seconds; aperture and ISO speed stay the same for all exposures."""
        return (_BASE_EXPOSURE_TIME_S * Fraction(2.0**self.exposure_ev)).limit_denominator(1_000_000)


def photograph(scene: NDArray[np.float32], settings: CameraSettings, rng: np.random.Generator) -> LdrArray:
    """Expose the scene: (H, W, 3) linear Rec.709 to (H, W, 3) sRGB codes, uint8 or uint16 by `bit_depth`."""
    developed = settings.sensor.expose(scene * np.float32(2.0**settings.exposure_ev), rng)
    largest_code = (1 << settings.bit_depth) - 1
    codes = np.rint(linear_to_srgb(developed) * np.float32(largest_code))
    quantised: LdrArray = codes.astype(np.uint8 if settings.bit_depth == 8 else np.uint16)
    return quantised


def save_exposures(folder: Path, seed: int = 7, *, width: int = 768, height: int = 512) -> list[Path]:
    """Render the scene and write the demo's input pictures; return their paths.

    Three bracketed JPEGs, the middle exposure as 8-bit and 16-bit PNG, a portrait crop whose pixels lie on their
    side (EXIF orientation 6), a cut-out with alpha, and `broken.jpg`, which ends in the middle of its pixels on
    purpose. The same seed and size write the same bytes. `render_truths` is what they should have shown.
    Raises OSError where the folder cannot be written.
    """
    scene = render_scene(width, height, seed)
    normal = CameraSettings()
    bracket = [replace(normal, exposure_ev=ev) for ev in _BRACKET_EV]
    shots = [photograph(scene, settings, np.random.default_rng([seed, i])) for i, settings in enumerate(bracket)]
    deep = replace(normal, bit_depth=16)
    files = {
        _bracket_name(settings.exposure_ev): _jpeg(shot, settings)
        for settings, shot in zip(bracket, shots, strict=True)
    }
    middle = shots[1]
    files["scene_0ev.png"] = _png(middle, normal)
    files["scene_0ev_16bit.png"] = bytes(
        imagecodecs.png_encode(photograph(scene, deep, np.random.default_rng([seed, 3])))
    )
    # Orientation 6: the stored picture must be turned clockwise to stand upright, so it is stored turned the other way.
    files["portrait_exif6.jpg"] = _jpeg(np.rot90(_portrait(middle)), normal, orientation=6)
    files["detail_alpha.png"] = _png(_cut_out_lamp(middle), normal)
    whole = files["scene_0ev.jpg"]
    files["broken.jpg"] = whole[: int(len(whole) * _BROKEN_FRACTION)]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        paths.append(path)
    return paths


def render_truths(seed: int = 7, *, width: int = 768, height: int = 512) -> dict[str, NDArray[np.float32]]:
    """Return what the pictures of `save_exposures` should have shown, by file name.

    Each is (H, W, 3) float32, linear Rec.709, upright, 1.0 at the picture's clipping level. The broken file and the
    cut-out, whose edges are transparent, have none.
    """
    scene = render_scene(width, height, seed)
    truths = {_bracket_name(ev): scene * np.float32(2.0**ev) for ev in _BRACKET_EV}
    same = dict.fromkeys(("scene_0ev.png", "scene_0ev_16bit.png"), scene)
    return {**truths, **same, "portrait_exif6.jpg": np.ascontiguousarray(_portrait(scene))}


def _bracket_name(exposure_ev: float) -> str:
    return f"scene_{exposure_ev:+.0f}ev.jpg".replace("+0", "0")


def _portrait(picture: NDArray[_Sample]) -> NDArray[_Sample]:
    return picture[:, round(picture.shape[1] * (1.0 - _PORTRAIT_FRACTION)) :]


def _cut_out_lamp(picture: LdrArray) -> LdrArray:
    """Return a square around the lamp as RGBA with straight alpha that fades out towards a circle."""
    height, width = picture.shape[:2]
    side = max(2, round(width * _DETAIL_FRACTION))
    x, y = project(LAMP_CENTRE, width, height)
    left, top = max(0, round(x - 0.5 * side)), max(0, round(y - 0.5 * side))
    detail = picture[top : top + side, left : left + side]
    rows, columns = np.indices(detail.shape[:2], dtype=np.float32)
    distance = np.hypot(columns + left + 0.5 - x, rows + top + 0.5 - y) / (0.5 * side)
    alpha = np.rint(255.0 * np.clip((0.98 - distance) / 0.30, 0.0, 1.0))
    return np.dstack([detail, alpha.astype(np.uint8)])


def _exif(settings: CameraSettings, orientation: int) -> Image.Exif:
    exif = Image.Exif()
    base, capture = ExifTags.Base, exif.get_ifd(ExifTags.IFD.Exif)
    exif[base.Make] = "hdrfleet"
    exif[base.Model] = "Simulated Camera"
    exif[base.Orientation] = orientation
    exif[base.DateTime] = _CAPTURED_AT
    capture[base.ExposureTime] = IFDRational(settings.exposure_time_s)
    capture[base.FNumber] = IFDRational(_APERTURE)
    capture[base.ISOSpeedRatings] = _ISO_SPEED
    capture[base.DateTimeOriginal] = _CAPTURED_AT
    capture[base.OffsetTimeOriginal] = _UTC_OFFSET
    capture[base.ExposureBiasValue] = IFDRational(Fraction(settings.exposure_ev).limit_denominator(1000))
    capture[base.FocalLength] = IFDRational(_FOCAL_LENGTH_MM)
    capture[base.LensModel] = "Pinhole 35 mm"
    return exif


def _jpeg(picture: LdrArray, settings: CameraSettings, *, orientation: int = 1) -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(data, "JPEG", quality=settings.jpeg_quality, exif=_exif(settings, orientation))
    return data.getvalue()


def _png(picture: LdrArray, settings: CameraSettings) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(data, "PNG", exif=_exif(settings, 1))
    return data.getvalue()
