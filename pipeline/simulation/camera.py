"""A simulated camera: from a linear view to the 8-bit picture that a photographer would have, and its ground truth.

In order: exposure, white-balance error, sensor noise and saturation, white balance, response curve, resampling,
8-bit quantisation, JPEG. `CameraRanges` says what is drawn from where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.codecs.color import luminance
from pipeline.simulation.response import SRGB_PROBABILITY, ResponseCurve, draw_curve
from pipeline.simulation.scenes import FloatArray, HdrScene
from pipeline.simulation.sensor import Sensor
from pipeline.simulation.views import MAX_ENLARGEMENT, box_downscale, sample_view

Subsampling = Literal["444", "422", "420"]
_SUBSAMPLINGS: tuple[Subsampling, ...] = ("444", "422", "420")
_RESAMPLE_FACTOR = 2
_ALMOST_UNCLIPPED = 5e-4  # eight pixels of a 128 px patch
_MAX_STOPS_ABOVE = 40.0  # of the brightest sample above the clipping level: truth stays finite in float32
_BOUNDS = {
    "min_median": (1e-6, 1.0),
    "full_well_e": (1.0, 1e9),
    "read_noise_e": (0.0, 1e9),
    "white_balance_gain": (1.0, 1e3),  # a gain below 1 would leave clipped white coloured
    "jpeg_quality": (1, 100),
}


@dataclass(frozen=True, slots=True)
class CameraRanges:
    """What the camera's settings are drawn from.

    - `max_clipped_fraction`: the exposure is set so that a drawn fraction of the pixels has a channel above the
      clipping level. A share `unclipped_probability` of all shots has almost none (up to 0.05 %); the others are
      log-uniform between 0.05 % and the maximum. A photographer would not let the sun black out the rest: where the
      median luminance is under `min_median`, drawn log-uniformly, the exposure is raised towards it, at most until
      `max_clipped_fraction` is clipped.
    - `full_well_e`: log-uniform, electrons at clipping. 40,000 is a camera with large pixels at base ISO, 800 a phone
      at high ISO (EMVA 1288 data sheets; gain divides the usable full well). `read_noise_e`: uniform, electrons.
    - `white_balance_gain`: of red and of blue relative to green, uniform; daylight to tungsten on common sensors.
    - `cast_sigma`: log-normal error of the white balance for red and for blue. The cast is part of the truth: the
      intended white is not in the picture, and the network must keep its hands off colours.
    - `correlated_noise_probability`: noise that demosaicing has smoothed; see `Sensor`.
    - `srgb_probability`: the exact sRGB response curve; the other curves share the rest (`draw_curve`). Which one a
      camera has is mostly not to be seen in its picture, so the others teach nothing but doubt about mid-tones.
    - `resample_probability`: taken at twice the size, averaged after the response curve as web scalers do.
    - `jpeg_probability`, `jpeg_quality`: otherwise lossless; quality uniform, chroma subsampling 4:4:4, 4:2:2 or 4:2:0.
    - `max_enlargement`: of the scene in the view, see `sample_view`. `max_resampled_enlargement`: the same where a shot
      is resampled, of the view as it was taken, at twice the size: 4 gives such shots the fields of view that others
      have at 2.

    Raises ValueError, naming the field, where a value makes no camera.
    """

    max_clipped_fraction: float = 0.2
    unclipped_probability: float = 0.25
    min_median: tuple[float, float] = (0.005, 0.15)
    full_well_e: tuple[float, float] = (800.0, 40_000.0)
    read_noise_e: tuple[float, float] = (1.0, 8.0)
    white_balance_gain: tuple[float, float] = (1.2, 2.2)
    cast_sigma: float = 0.03
    correlated_noise_probability: float = 0.5
    srgb_probability: float = SRGB_PROBABILITY
    resample_probability: float = 0.3
    jpeg_probability: float = 0.8
    jpeg_quality: tuple[int, int] = (70, 98)
    max_enlargement: float = MAX_ENLARGEMENT
    max_resampled_enlargement: float = MAX_ENLARGEMENT

    def __post_init__(self) -> None:
        shares = ("max_clipped_fraction", "unclipped_probability", "correlated_noise_probability")
        for name in (*shares, "srgb_probability", "resample_probability", "jpeg_probability"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must be between 0 and 1, not {getattr(self, name)}"
                raise ValueError(msg)
        for name, (lowest, highest) in _BOUNDS.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                msg = f"{name} must be a range within {lowest:g} to {highest:g}, not {(low, high)}"
                raise ValueError(msg)
        for name in ("max_enlargement", "max_resampled_enlargement"):
            if not 0 < getattr(self, name) < np.inf:
                msg = f"{name} must be more than 0, not {getattr(self, name)}"
                raise ValueError(msg)
        if not 0 <= self.cast_sigma < np.inf:
            msg = f"cast_sigma must be 0 or more, not {self.cast_sigma}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """The settings of one shot; `CameraRanges` explains them. `jpeg_quality` 0 means lossless."""

    clipped_fraction: float
    max_clipped_fraction: float
    min_median: float
    full_well_e: float
    read_noise_e: float
    white_balance: tuple[float, float, float]
    cast: tuple[float, float, float]
    curve: ResponseCurve
    has_correlated_noise: bool
    is_resampled: bool
    jpeg_quality: int
    subsampling: Subsampling

    @property
    def sensor(self) -> Sensor:
        """The sensor of this shot. Raises ValueError where the values make none."""
        return Sensor(self.full_well_e, self.read_noise_e, self.white_balance, self.has_correlated_noise)


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture and its truth.

    `ldr` is uint8 (H, W, 3); `truth` is float32 (H, W, 3), linear Rec.709, 1.0 at the picture's clipping level.
    """

    ldr: npt.NDArray[np.uint8]
    truth: FloatArray
    settings: CameraSettings


def draw_settings(ranges: CameraRanges, rng: np.random.Generator) -> CameraSettings:
    """Draw one shot's settings from the ranges."""
    almost_none = min(_ALMOST_UNCLIPPED, ranges.max_clipped_fraction)
    if rng.random() < ranges.unclipped_probability or almost_none == ranges.max_clipped_fraction:
        clipped = rng.uniform(0, almost_none)
    else:
        clipped = _log_uniform(rng, almost_none, ranges.max_clipped_fraction)
    red, blue = rng.uniform(*ranges.white_balance_gain, size=2)
    red_cast, blue_cast = np.exp(rng.normal(0, ranges.cast_sigma, size=2))
    return CameraSettings(
        clipped_fraction=clipped,
        max_clipped_fraction=ranges.max_clipped_fraction,
        min_median=_log_uniform(rng, *ranges.min_median),
        full_well_e=_log_uniform(rng, *ranges.full_well_e),
        read_noise_e=rng.uniform(*ranges.read_noise_e),
        white_balance=(float(red), 1.0, float(blue)),
        cast=(float(red_cast), 1.0, float(blue_cast)),
        curve=draw_curve(rng, ranges.srgb_probability),
        has_correlated_noise=bool(rng.random() < ranges.correlated_noise_probability),
        is_resampled=bool(rng.random() < ranges.resample_probability),
        jpeg_quality=int(rng.integers(ranges.jpeg_quality[0], ranges.jpeg_quality[1] + 1))
        if rng.random() < ranges.jpeg_probability
        else 0,
        subsampling=_SUBSAMPLINGS[int(rng.integers(len(_SUBSAMPLINGS)))],
    )


def photograph_scene(scene: HdrScene, size_px: int, rng: np.random.Generator, ranges: CameraRanges) -> Photograph:
    """Point the camera at a random view of the scene: a picture of `size_px` x `size_px`."""
    settings = draw_settings(ranges, rng)
    taken_px, enlargement = size_px, ranges.max_enlargement
    if settings.is_resampled:
        taken_px, enlargement = size_px * _RESAMPLE_FACTOR, ranges.max_resampled_enlargement
    return photograph_view(sample_view(scene, taken_px, rng, enlargement), settings, rng)


def photograph_view(view: FloatArray, settings: CameraSettings, rng: np.random.Generator) -> Photograph:
    """Expose a linear view, float32 (H, W, 3) in any unit; half the size comes back where the shot is resampled.

    A resampled truth is averaged in linear light, the picture after its response curve, as scalers do: where detail is
    finer than a pixel the picture is darker than its truth. A black view stays black.
    """
    truth = view * np.array(settings.cast, np.float32)
    truth = truth / np.float32(_clipping_level(truth, settings))
    encoded = settings.curve.encode(settings.sensor.expose(truth, rng))
    if settings.is_resampled:
        truth, encoded = box_downscale(truth, _RESAMPLE_FACTOR), box_downscale(encoded, _RESAMPLE_FACTOR)
    ldr = np.rint(np.clip(encoded, 0, 1) * np.float32(255)).astype(np.uint8)
    if settings.jpeg_quality:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(ldr), settings.jpeg_quality, "RGB", settings.subsampling)
        ldr = simplejpeg.decode_jpeg(data, "RGB")
    return Photograph(ldr, np.ascontiguousarray(truth), settings)


def _clipping_level(view: FloatArray, settings: CameraSettings) -> float:
    """Return what becomes 1.0, in the view's unit: a quantile of each pixel's largest channel, or less in the dark."""
    largest = view.max(axis=2)
    wanted, lowest = np.quantile(largest, [1 - settings.clipped_fraction, 1 - settings.max_clipped_fraction])
    bright_enough = float(np.median(luminance(view))) / settings.min_median
    level = max(min(float(wanted), max(bright_enough, float(lowest))), float(largest.max()) * 2.0**-_MAX_STOPS_ABOVE)
    return level or 1.0


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
