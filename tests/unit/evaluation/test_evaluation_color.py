"""Oklab and u'v' against colour-science; what counts as a shift of hue."""

from __future__ import annotations

import math

import colour
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import make_truth

from pipeline.codecs.color import REC709_TO_XYZ
from pipeline.evaluation.color import chroma_shift, hue_shift_deg, linear_to_oklab


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape[:2], bool)


def patch(*rgb: float) -> np.ndarray:
    return np.full((4, 4, 3), rgb, np.float32)


def test_oklab_agrees_with_colour_science() -> None:
    rgb = np.random.default_rng(0).uniform(0, 4, (50, 3))
    expected = colour.XYZ_to_Oklab(rgb @ np.array(REC709_TO_XYZ).T)
    assert linear_to_oklab(rgb) == pytest.approx(expected, abs=2e-3)


def test_u_v_prime_agrees_with_colour_science() -> None:
    rng = np.random.default_rng(1)
    output, truth = (rng.uniform(0.01, 3, (8, 8, 3)).astype(np.float32) for _ in range(2))
    both = [
        colour.xy_to_Luv_uv(colour.XYZ_to_xy(image.astype(float) @ np.array(REC709_TO_XYZ).T))
        for image in (output, truth)
    ]
    expected = np.linalg.norm(both[0] - both[1], axis=-1).mean()
    assert chroma_shift(output, truth, everywhere(truth)) == pytest.approx(expected, rel=1e-4)


@given(scale=st.floats(0.001, 1000))
def test_exposure_shifts_no_colour(scale: float) -> None:
    truth = make_truth(size_px=16)
    assert hue_shift_deg(truth * np.float32(scale), truth, everywhere(truth)) == pytest.approx(0, abs=0.05)
    assert chroma_shift(truth * np.float32(scale), truth, everywhere(truth)) == pytest.approx(0, abs=1e-5)


def test_hues_apart_by_a_known_angle() -> None:
    orange, blue = patch(1.0, 0.4, 0.1), patch(0.1, 0.3, 1.0)
    angles = [math.atan2(*linear_to_oklab(image[0, 0])[[2, 1]]) for image in (orange, blue)]
    expected = math.degrees(abs((angles[0] - angles[1] + math.pi) % (2 * math.pi) - math.pi))
    assert hue_shift_deg(orange, blue, everywhere(blue)) == pytest.approx(expected, abs=1e-3)


def test_the_shorter_way_round_the_circle_counts() -> None:
    assert 0 < hue_shift_deg(patch(0.2, 1.0, 0.9), patch(0.2, 0.9, 1.0), everywhere(patch(0, 0, 0))) < 60


def test_grey_output_counts_as_random_and_grey_truth_does_not_count() -> None:
    orange, grey = patch(1.0, 0.4, 0.1), patch(1, 1, 1)
    assert hue_shift_deg(grey, orange, everywhere(grey)) == 90.0
    assert math.isnan(hue_shift_deg(orange, grey, everywhere(grey)))


def test_an_empty_area_has_no_value() -> None:
    orange = patch(1.0, 0.4, 0.1)
    nowhere = np.zeros((4, 4), bool)
    assert math.isnan(hue_shift_deg(orange, orange, nowhere))
    assert math.isnan(chroma_shift(orange, orange, nowhere))


def test_black_output_is_neutral_not_an_error() -> None:
    assert 0 < chroma_shift(patch(0, 0, 0), patch(1.0, 0.4, 0.1), everywhere(patch(0, 0, 0))) < 1
