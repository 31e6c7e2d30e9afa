from __future__ import annotations

from collections import Counter
from dataclasses import replace

import colour
import numpy as np
import pytest

from pipeline.simulation.response import (
    CURVE_PROBABILITIES,
    MAX_BRIGHTNESS,
    MAX_CONTRAST,
    MAX_POWER,
    MIN_POWER,
    ResponseCurve,
    draw_curve,
)

GRID = np.linspace(0, 1, 4097, dtype=np.float32)
CURVES = [
    ResponseCurve("srgb"),
    ResponseCurve("rec709"),
    *(ResponseCurve("power", power=power) for power in (1.0, MIN_POWER, MAX_POWER)),
    *(
        ResponseCurve("phone", contrast, brightness)
        for contrast in (-MAX_CONTRAST, 0.0, MAX_CONTRAST, 1.0)
        for brightness in (-MAX_BRIGHTNESS, 0.0, MAX_BRIGHTNESS)
    ),
]


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_every_curve_is_monotone_and_keeps_black_and_the_clipping_level(curve: ResponseCurve) -> None:
    encoded = curve.encode(GRID)
    assert encoded.dtype == np.float32
    assert encoded.shape == GRID.shape
    np.testing.assert_allclose(encoded[[0, -1]], [0, 1], atol=2e-7)
    assert encoded.min() >= 0
    assert encoded.max() <= 1 + 2e-7
    assert np.diff(encoded.astype(float)).min() >= -2e-7
    assert (np.diff(encoded[::64]) > 0).all()


@pytest.mark.parametrize(
    ("curve", "oracle"),
    [
        (ResponseCurve("srgb"), colour.models.eotf_inverse_sRGB),
        (ResponseCurve("rec709"), colour.models.oetf_BT709),
        (ResponseCurve("power", power=2.2), lambda linear: linear ** (1 / 2.2)),
    ],
    ids=["srgb", "rec709", "power"],
)
def test_standard_curves_agree_with_colour_science(curve: ResponseCurve, oracle) -> None:
    np.testing.assert_allclose(curve.encode(GRID), oracle(GRID.astype(float)), atol=1e-6)


def test_a_phone_curve_without_contrast_and_brightness_is_srgb() -> None:
    np.testing.assert_allclose(ResponseCurve("phone").encode(GRID), ResponseCurve("srgb").encode(GRID), atol=1e-7)


@pytest.mark.parametrize("contrast", [-0.1, 0.1, 0.3])
def test_contrast_steepens_the_middle_and_leaves_it_in_place(contrast: float) -> None:
    encoded = ResponseCurve("srgb").encode(GRID)
    bent = ResponseCurve("phone", contrast).encode(GRID)
    slope = np.diff(bent.astype(float)) / np.diff(encoded.astype(float))
    assert slope.min() > 1 - abs(contrast) - 0.02
    assert slope.max() < 1 + abs(contrast) + 0.02
    assert slope[np.abs(encoded[1:] - 0.5).argmin()] == pytest.approx(1 + contrast, abs=0.02)
    assert np.interp(0.5, encoded, bent) == pytest.approx(0.5, abs=1e-4)


def test_positive_brightness_brightens_every_mid_tone() -> None:
    inner = GRID[1:-1]
    normal = ResponseCurve("srgb").encode(inner)
    assert (ResponseCurve("phone", 0.0, 0.05).encode(inner) > normal).all()
    assert (ResponseCurve("phone", 0.0, -0.05).encode(inner) < normal).all()


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "film"}, {"contrast": 1.01}, {"contrast": np.nan}, {"brightness": 1.0}, {"power": 0.0}],
    ids=str,
)
def test_curves_that_are_not_monotone_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResponseCurve(**wrong)


def test_curves_are_drawn_as_often_and_from_where_it_says() -> None:
    rng, num_draws = np.random.default_rng(0), 3000
    curves = [draw_curve(rng) for _ in range(num_draws)]
    drawn = Counter(curve.kind for curve in curves)
    for kind, probability in CURVE_PROBABILITIES.items():
        deviation = (probability * (1 - probability) / num_draws) ** 0.5
        assert drawn[kind] / num_draws == pytest.approx(probability, abs=4 * deviation)
    for name, low, high in (
        ("contrast", -MAX_CONTRAST / 3, MAX_CONTRAST),
        ("brightness", -MAX_BRIGHTNESS, MAX_BRIGHTNESS),
        ("power", MIN_POWER, MAX_POWER),
    ):
        values = np.array([getattr(curve, name) for curve in curves])
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


@pytest.mark.parametrize("srgb_probability", [0.0, 0.9, 1.0])
def test_the_other_kinds_share_what_srgb_leaves(srgb_probability: float) -> None:
    rng, num_draws = np.random.default_rng(0), 3000
    drawn = Counter(draw_curve(rng, srgb_probability).kind for _ in range(num_draws))
    others = 1 - CURVE_PROBABILITIES["srgb"]
    for kind, share in CURVE_PROBABILITIES.items():
        probability = srgb_probability if kind == "srgb" else (1 - srgb_probability) * share / others
        deviation = (probability * (1 - probability) / num_draws) ** 0.5
        assert drawn[kind] / num_draws == pytest.approx(probability, abs=4 * deviation)


def test_how_often_curves_are_srgb_changes_nothing_else_of_a_shot() -> None:
    first, second = (np.random.default_rng(1) for _ in range(2))
    curves = [(draw_curve(first), draw_curve(second, 0.9)) for _ in range(50)]
    assert any(mine.kind != other.kind for mine, other in curves)
    assert [replace(mine, kind="srgb") for mine, _ in curves] == [replace(other, kind="srgb") for _, other in curves]
    assert first.bit_generator.state == second.bit_generator.state
