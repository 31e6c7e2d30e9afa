from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from pipeline.quality.banding import CODE_UNITS, count_contours
from pipeline.quality.histogram import LogHistogram
from pipeline.quality.noise import BLOCK_PX, block_residuals, exposed_blocks, sigma_of_blocks


def sigma(plane: np.ndarray) -> float | None:
    plane = plane.astype(np.float32)
    return sigma_of_blocks(block_residuals(plane)[exposed_blocks(plane, None)])


def contours(codes: np.ndarray, visible: np.ndarray | None = None) -> tuple[int, int]:
    return count_contours(np.round(codes * CODE_UNITS).astype(np.int16), visible, codes.shape)


def banding(codes: np.ndarray) -> float:
    return 8 * max(contours(codes)) / codes.size


def test_residuals_agree_with_scipy() -> None:
    plane = np.random.default_rng(0).random((16 * 3 + 5, 16 * 4 + 9)).astype(np.float32)
    mask = np.outer([1, -2, 1], [1, -2, 1])
    residual = np.abs(convolve2d(plane, mask, mode="valid"))[: 3 * BLOCK_PX, : 4 * BLOCK_PX]
    expected = residual.reshape(3, BLOCK_PX, 4, BLOCK_PX).mean(axis=(1, 3))
    np.testing.assert_allclose(block_residuals(plane), expected, rtol=1e-4)


@pytest.mark.parametrize("true_sigma", [0.003, 0.01, 0.03])
@pytest.mark.parametrize("background", ["flat", "ramp", "scene"])
def test_gaussian_noise_is_recovered(true_sigma, background) -> None:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:400, 0:500]
    clean = {
        "flat": np.full(x.shape, 0.5),
        "ramp": 0.2 + 0.6 * x / 500,
        "scene": 0.5 + 0.2 * np.sin(x / 40) * np.cos(y / 30) + 0.2 * ((x // 90 + y // 70) % 2),
    }[background]
    assert sigma(clean + rng.normal(0, true_sigma, x.shape)) == pytest.approx(true_sigma, rel=0.15)


@pytest.mark.parametrize("codes", [0.5, 1.0, 3.0])
def test_gaussian_noise_is_recovered_from_eight_bits(codes) -> None:
    noisy = 128 + np.random.default_rng(1).normal(0, codes, (400, 400))
    with_rounding = np.hypot(codes, 12**-0.5)
    assert sigma(np.round(noisy) / 255) * 255 == pytest.approx(with_rounding, rel=0.15)


def test_a_clean_ramp_has_no_noise_and_a_dark_or_hidden_one_no_estimate() -> None:
    ramp = np.broadcast_to(np.linspace(0.2, 0.8, 100), (50, 100)).astype(np.float32)
    assert sigma(ramp) < 1e-6
    assert sigma(ramp * 0.1) is None
    hidden = np.ones(ramp.shape, bool)
    hidden[20, ::10] = False
    chosen = exposed_blocks(ramp, hidden)
    assert not chosen[1].any()
    assert chosen[[0, 2]].all()


def test_a_step_between_flat_runs_is_one_contour_per_line() -> None:
    codes = np.full((20, 40), 100.0)
    codes[:, 20:] += 1
    assert contours(codes) == (20, 0)
    assert contours(codes.T) == (0, 20)


@pytest.mark.parametrize(
    ("step", "counted"), [(0.1, False), (0.4, False), (0.5, True), (1, True), (2, True), (2.5, True), (3, False)]
)
def test_only_small_steps_are_contours(step, counted) -> None:
    codes = np.full((10, 40), 100.0)
    codes[:, 20:] += step
    assert contours(codes) == ((10 if counted else 0), 0)


@pytest.mark.parametrize(("before", "after", "counted"), [(8, 8, True), (7, 8, False), (8, 7, False)])
def test_runs_must_be_eight_pixels_long(before, after, counted) -> None:
    line = np.concatenate([np.full(before, 100.0), np.full(after, 101.0)])
    assert contours(np.vstack([line, line])) == ((2 if counted else 0), 0)


def test_a_quantised_gradient_scores_above_a_dithered_and_a_continuous_one() -> None:
    rng = np.random.default_rng(2)
    gradient = np.broadcast_to(np.linspace(80, 120, 512), (128, 512))
    quantised = banding(np.round(gradient))
    dithered = banding(np.round(gradient + rng.random(gradient.shape) - 0.5))
    assert banding(gradient) == 0.0
    assert dithered < 0.05
    assert quantised > 0.5
    assert banding(np.round(gradient).T) == pytest.approx(quantised)


def test_hidden_pixels_make_no_contour() -> None:
    codes = np.full((10, 40), 100.0)
    codes[:, 20:] += 1
    visible = np.ones(codes.shape, bool)
    visible[:5, 25] = False
    assert contours(codes, visible) == (5, 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_each_contour_belongs_to_exactly_one_tile(height, width, seed) -> None:
    rng = np.random.default_rng(seed)
    codes = (
        100
        + np.cumsum(rng.random((height, width)) < 0.06, axis=1)
        + np.cumsum(rng.random((height, 1)) < 0.1)[:, np.newaxis]
    )
    plane = (codes * CODE_UNITS).astype(np.int16)
    total = np.zeros(2, int)
    for top in range(0, height, 20):
        for left in range(0, width, 20):
            core = (min(20, height - top), min(20, width - left))
            total += count_contours(plane[top : top + core[0] + 16, left : left + core[1] + 16], None, core)
    assert tuple(total) == count_contours(plane, None, plane.shape)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, np.finfo(np.float32).max, width=32), min_size=1, max_size=200),
    st.sampled_from([0.0, 0.001, 0.01, 0.5, 0.99, 1.0]),
)
def test_histogram_quantiles_are_within_a_bin(values, fraction) -> None:
    array = np.array(values, np.float32)
    histogram = LogHistogram()
    for part in np.array_split(array, 3):
        histogram.add(part)
    expected = float(np.quantile(array, fraction, method="inverted_cdf"))
    assert histogram.quantile(fraction) == pytest.approx(expected, rel=1 / 500, abs=1e-37)
    assert histogram.largest == float(array.max())


def test_an_empty_histogram_answers_zero() -> None:
    assert LogHistogram().quantile(0.5) == LogHistogram().largest == 0.0
