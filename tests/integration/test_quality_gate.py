"""The quality gate: weights may not score below what was recorded for them on a fixed set rendered by code.

A new default needs a line in BOUNDS. `python -m quality_scenes NAME` prints the values; record them rounded towards
worse, by a few hundredths, which leaves room for other processors and libraries but not for a change in quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np
import pytest
from quality_scenes import (
    Codes,
    FloatArray,
    GateValues,
    Run,
    measure_method,
    measure_weights,
    white_sky,
    white_tint_stops,
)
from scipy.ndimage import gaussian_filter

from pipeline.codecs.color import luminance
from pipeline.config import ModelConfig
from pipeline.evaluation.areas import clipped_area
from pipeline.evaluation.baselines import identity, srgb_decode

# Of these more is better; of all others less.
AT_LEAST = {
    "mu_psnr_gain_db",
    "worst_mu_psnr_gain_db",
    "pu21_psnr_gain_db",
    "unclipped_pu21_psnr_gain_db",
    "dimmest_highlight",
}
SEAM_STOPS = 0.01  # under one 8-bit code anywhere: tiles are exact up to rounding
MAX_TINT_STOPS = 0.05  # of red or blue: 0.0023 in u'v' at most, where 0.004 is about the smallest visible shift

BOUNDS: Mapping[str, Mapping[str, float]] = {
    "identity": {
        "mu_psnr_gain_db": -4.55,
        "worst_mu_psnr_gain_db": -13.2,
        "pu21_psnr_gain_db": -0.65,
        "unclipped_pu21_psnr_gain_db": -9.3,
        "clipped_error_ratio": 1.0,
        "peak_error_ratio": 1.0,
        "exposure_error_ev": 0.11,
        "hue_shift_deg": 3.6,
        "noise_left": 1.01,
        "banding": 0.77,
        "halo_stops": 0.015,
        "seam_stops": SEAM_STOPS,
        "dimmest_highlight": 1.05,
        "white_tint_stops": 0.001,
    },
    "default": {
        "mu_psnr_gain_db": 2.65,
        "worst_mu_psnr_gain_db": -3.5,
        "pu21_psnr_gain_db": 3.2,
        "unclipped_pu21_psnr_gain_db": -2.4,
        "clipped_error_ratio": 0.63,
        "peak_error_ratio": 0.67,
        "exposure_error_ev": 0.006,
        "hue_shift_deg": 3.5,
        "noise_left": 0.5,
        "banding": 0.21,
        "halo_stops": 0.01,
        "seam_stops": SEAM_STOPS,
        "dimmest_highlight": 2.1,
        "white_tint_stops": 0.012,
    },
}
DEFAULT_WEIGHTS = str(ModelConfig.model_fields["weights"].default)


def broken_bounds(values: GateValues, bounds: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The fields that are worse than their bounds, or no number, with value and bound."""
    found = {}
    for name, value in asdict(values).items():
        within = value >= bounds[name] if name in AT_LEAST else value <= bounds[name]
        if not within:
            found[name] = (value, bounds[name])
    return found


@pytest.mark.parametrize("weights", sorted({"identity", DEFAULT_WEIGHTS}))
def test_weights_keep_their_recorded_quality(weights: str) -> None:
    values = measure_weights(weights)
    assert weights in BOUNDS, f"no bounds are recorded for {weights}; it scores {values}"
    assert not broken_bounds(values, BOUNDS[weights]), values


@pytest.mark.parametrize("weights", BOUNDS)
def test_every_field_has_a_bound(weights: str) -> None:
    assert set(BOUNDS[weights]) == {field.name for field in fields(GateValues)}
    assert BOUNDS[weights]["seam_stops"] <= SEAM_STOPS
    assert BOUNDS[weights]["white_tint_stops"] <= MAX_TINT_STOPS, "no quality makes up for pink clouds"


def brighter(output: FloatArray, _: Codes) -> FloatArray:
    return output * np.float32(1.25)


def overshooting(output: FloatArray, ldr: Codes) -> FloatArray:
    return np.where(clipped_area(ldr)[..., None], output * np.float32(64), output)


def flattened(output: FloatArray, _: Codes) -> FloatArray:
    return np.minimum(output, np.float32(0.5))


def glowing(output: FloatArray, ldr: Codes) -> FloatArray:
    return output + np.float32(0.2) * gaussian_filter(clipped_area(ldr).astype(np.float32), 6)[..., None]


def tinted(output: FloatArray, _: Codes) -> FloatArray:
    return output * np.float32([1.15, 1.0, 0.85])


def pink_where_clipped(output: FloatArray, ldr: Codes) -> FloatArray:
    return np.where(clipped_area(ldr)[..., None], output * np.float32([1.1, 1.0, 1.0]), output)


def noisier(output: FloatArray, _: Codes) -> FloatArray:
    noise = np.random.default_rng(0).standard_normal(output.shape).astype(np.float32)
    return output * np.exp(np.float32(0.03) * noise)


def posterised(output: FloatArray, _: Codes) -> FloatArray:
    encoded = np.power(output, np.float32(1 / 2.24))
    return np.power(np.rint(encoded * 100) / 100, np.float32(2.24))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (brighter, {"exposure_error_ev", "worst_mu_psnr_gain_db"}),
        (overshooting, {"clipped_error_ratio", "peak_error_ratio", "mu_psnr_gain_db", "pu21_psnr_gain_db"}),
        (flattened, {"dimmest_highlight", "clipped_error_ratio"}),
        (glowing, {"halo_stops", "unclipped_pu21_psnr_gain_db"}),
        (tinted, {"hue_shift_deg", "unclipped_pu21_psnr_gain_db", "white_tint_stops"}),
        (pink_where_clipped, {"white_tint_stops"}),
        (noisier, {"noise_left"}),
        (posterised, {"unclipped_pu21_psnr_gain_db"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_gate_sees_harm(harm: object, expected: set[str]) -> None:
    """Damage done to a method that is as good as the sRGB decode breaks the bounds that stand for it."""
    assert callable(harm)
    good = measure_method(srgb_decode, srgb_decode)
    bounds = {**asdict(good), "seam_stops": SEAM_STOPS}

    def run(ldr: Codes) -> FloatArray:
        return harm(srgb_decode(ldr), ldr)

    assert not broken_bounds(good, bounds)
    assert expected <= set(broken_bounds(measure_method(run, run), bounds))


@pytest.mark.parametrize("colour", [(1.06, 1.0, 1.0), (1.0, 1.0, 1.06), (0.94, 1.0, 1.0), (1.0, 1.06, 1.0)])
def test_no_tint_of_clipped_white_is_within_any_bound(colour: tuple[float, float, float]) -> None:
    sky = white_sky()
    neutral = luminance(sky.truth)[..., None].repeat(3, axis=2)
    assert white_tint_stops(sky, neutral) == 0
    assert white_tint_stops(sky, neutral * np.float32(colour)) > MAX_TINT_STOPS


def with_seam(run: Run) -> Run:
    def tiled(ldr: Codes) -> FloatArray:
        output = run(ldr).copy()
        output[:, :64] *= np.float32(1.02)
        return output

    return tiled


def test_the_gate_sees_a_seam_and_a_value_that_is_no_number() -> None:
    values = measure_method(identity, with_seam(identity))
    assert set(broken_bounds(values, BOUNDS["identity"])) == {"seam_stops"}
    lost = {**asdict(values), "seam_stops": 0.0, "noise_left": float("nan")}
    assert set(broken_bounds(GateValues(**lost), BOUNDS["identity"])) == {"noise_left"}
