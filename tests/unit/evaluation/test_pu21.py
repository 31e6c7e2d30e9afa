"""PU21 against published values, and SSIM against the formula written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import make_truth
from scipy.ndimage import gaussian_filter

from pipeline.codecs.color import luminance
from pipeline.evaluation.pu21 import CLIPPING_NITS, pu21_decode, pu21_encode, pu21_psnr_db, pu21_ssim


@pytest.mark.parametrize(
    ("nits", "encoded"),
    [(0.005, 0.0), (100.0, 256.3839), (10_000.0, 595.3939)],
    ids=["lowest is 0", "100 cd/m2 is 256", "ceiling is 595.39"],
)
def test_published_fixed_points(nits: float, encoded: float) -> None:
    assert pu21_encode(np.array(nits)) == pytest.approx(encoded, abs=1e-3)


def test_light_outside_the_range_is_clamped() -> None:
    assert pu21_encode(np.array([0.0, 1e-9, 1e9])) == pytest.approx(pu21_encode(np.array([0.005, 0.005, 10_000.0])))


@given(nits=st.floats(0.01, 10_000))
def test_decoding_returns_the_light(nits: float) -> None:
    assert pu21_decode(pu21_encode(np.array(nits))) == pytest.approx(nits, rel=1e-6)


def test_the_encoding_rises_everywhere() -> None:
    encoded = pu21_encode(np.geomspace(0.005, 10_000, 4000))
    assert (np.diff(encoded) > 0).all()


def test_psnr_of_flat_patches() -> None:
    # 1.0 is 203 cd/m2; 100 / 203 is 100 cd/m2. Written out, not through the code under test.
    p = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
    high, low = (
        p[6] * (((p[0] + p[1] * nits ** p[3]) / (1 + p[2] * nits ** p[3])) ** p[4] - p[5]) for nits in (203.0, 100.0)
    )
    output, truth = np.full((8, 8, 3), 100 / 203, np.float32), np.ones((8, 8, 3), np.float32)
    assert pu21_psnr_db(output, truth) == pytest.approx(20 * math.log10(256 / (high - low)), abs=1e-4)


def test_suns_beyond_the_ceiling_count_as_equal() -> None:
    truth = np.full((8, 8, 3), 60.0, np.float32)
    assert pu21_psnr_db(truth * 10, truth) == 99.0


def test_ssim_is_the_formula_of_wang_2004_on_encoded_luminance() -> None:
    truth = make_truth(size_px=48)
    output = np.minimum(truth, 1)
    x, y = (pu21_encode(luminance(image) * CLIPPING_NITS) for image in (output, truth))

    def smooth(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, 1.5, truncate=3.5)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y, cov = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2, smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 256) ** 2, (0.03 * 256) ** 2
    ssim = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert pu21_ssim(output, truth) == pytest.approx(ssim[5:-5, 5:-5].mean(), abs=1e-6)


def test_ssim_of_equal_images_is_one_and_falls_with_noise() -> None:
    truth = make_truth()
    noise = np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    scores = [pu21_ssim(np.maximum(truth + noise * np.float32(sigma), 0), truth) for sigma in (0.0, 0.01, 0.05, 0.2)]
    assert scores[0] == pytest.approx(1.0)
    assert scores == sorted(scores, reverse=True)


def test_ssim_needs_room_for_its_window() -> None:
    assert math.isnan(pu21_ssim(np.ones((10, 40, 3), np.float32), np.ones((10, 40, 3), np.float32)))
