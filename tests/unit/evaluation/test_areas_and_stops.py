"""Clipped and well-exposed areas, highlights, and errors in stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import make_truth, take_picture

from pipeline.codecs.color import luminance
from pipeline.evaluation.areas import clipped_area, find_highlights, robust_peak, well_exposed_area
from pipeline.evaluation.stops import FLOOR, exposure_bias_ev, log_ratio, mean_error_stops, peak_error_stops


@pytest.mark.parametrize(("dtype", "threshold"), [(np.uint8, 250), (np.uint16, 64250)])
def test_one_channel_at_the_threshold_is_enough_to_be_clipped(dtype: type, threshold: int) -> None:
    picture = np.zeros((1, 3, 3), dtype)
    picture[0, 1, 2] = threshold - 1
    picture[0, 2, 2] = threshold
    assert clipped_area(picture).tolist() == [[False, False, True]]


def test_well_exposed_needs_every_channel() -> None:
    picture = np.full((1, 4, 3), 128, np.uint8)
    picture[0, 1, 0], picture[0, 2, 1], picture[0, 3] = 25, 230, (26, 100, 229)
    assert well_exposed_area(picture).tolist() == [[True, False, False, True]]


def test_highlights_are_connected_over_corners_and_have_four_pixels() -> None:
    clipped = np.zeros((8, 8), bool)
    clipped[[0, 1, 2, 3], [0, 1, 2, 3]] = True  # a diagonal of four: one highlight
    clipped[6, 0:3] = True  # three pixels: too small
    clipped[5:7, 5:7] = True
    found = find_highlights(clipped)
    assert [sorted(pixels.tolist()) for pixels in found] == [[0, 9, 18, 27], [45, 46, 53, 54]]


def test_no_highlights_without_clipping() -> None:
    assert find_highlights(np.zeros((5, 5), bool)) == []


def test_a_peak_is_a_mean_of_the_brightest() -> None:
    assert robust_peak(np.float32([1, 2, 3, 4, 5, 6])) == pytest.approx((3 + 4 + 5 + 6) / 4)
    values = np.arange(1000, dtype=np.float32)
    assert robust_peak(values) == pytest.approx(values[-10:].mean())


def test_log_ratio_has_a_floor_on_both_sides() -> None:
    output, truth = np.float32([2, 0, 0, FLOOR]), np.float32([1, 0, 1, 0])
    assert log_ratio(output, truth).tolist() == [1.0, 0.0, -10.0, 0.0]


def test_mean_error_counts_both_directions_and_only_its_area() -> None:
    truth = np.float32([[1, 1, 1, 1]])
    output = np.float32([[2, 0.25, 1, 16]])
    area = np.array([[True, True, True, False]])
    assert mean_error_stops(output, truth, area) == pytest.approx((1 + 2 + 0) / 3)
    assert math.isnan(mean_error_stops(output, truth, np.zeros((1, 4), bool)))


def test_peak_error_ignores_where_the_peak_lies_and_averages_highlights() -> None:
    truth, output = np.zeros((1, 12), np.float32), np.zeros((1, 12), np.float32)
    truth[0, :6] = [8, 8, 8, 8, 1, 1]
    output[0, :6] = [1, 1, 2, 2, 2, 2]  # two stops under, elsewhere
    truth[0, 6:] = output[0, 6:] = 4  # exact
    assert peak_error_stops(output, truth, [np.arange(6), np.arange(6, 12)]) == pytest.approx(1.0)
    assert math.isnan(peak_error_stops(output, truth, []))


@given(ev=st.floats(-6, 6))
def test_exposure_bias_is_the_exposure(ev: float) -> None:
    truth = luminance(make_truth(size_px=32))
    area = well_exposed_area(take_picture(make_truth(size_px=32)))
    assert exposure_bias_ev(truth * np.float32(2**ev), truth, area) == pytest.approx(ev, abs=1e-4)


def test_exposure_bias_resists_outliers_and_skips_black_truth() -> None:
    truth = np.float32([[1, 1, 1, 0, 1]])
    output = np.float32([[2, 2, 2, 5, 4096]])
    assert exposure_bias_ev(output, truth, np.ones((1, 5), bool)) == pytest.approx(1.0)
    assert math.isnan(exposure_bias_ev(output, truth, np.zeros((1, 5), bool)))


def test_the_bias_minimises_the_mean_absolute_log_error() -> None:
    rng = np.random.default_rng(5)
    truth, output = (rng.lognormal(-1.5, 0.5, (9, 11)).astype(np.float32) for _ in range(2))
    area = np.ones((9, 11), bool)
    bias = exposure_bias_ev(output, truth, area)

    def cost(ev: float) -> float:
        return float(np.abs(np.log2(output.astype(np.float64) * 2.0**-ev / truth)).mean())

    assert all(cost(bias) <= cost(bias + step) + 1e-9 for step in np.linspace(-1, 1, 81))
