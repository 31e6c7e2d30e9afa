"""PSNRs against values worked out by hand, and the normalisations that the NTIRE script has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import make_truth

from pipeline.evaluation.psnr import PSNR_CAP_DB, linear_psnr_db, mu_law, mu_psnr_db, ntire_psnr_db, psnr_db


def constant(value: float) -> np.ndarray:
    return np.full((4, 4, 3), value, np.float32)


def test_psnr_of_a_constant_difference() -> None:
    assert psnr_db(constant(0.5), constant(0.6), 1.0) == pytest.approx(20.0, abs=1e-4)
    assert psnr_db(constant(5.0), constant(6.0), 10.0) == pytest.approx(20.0, abs=1e-4)


def test_equal_images_reach_the_cap_and_no_peak_is_no_value() -> None:
    assert psnr_db(constant(0.5), constant(0.5), 1.0) == PSNR_CAP_DB
    assert math.isnan(psnr_db(constant(0.5), constant(0.0), 0.0))
    assert math.isnan(psnr_db(np.empty((0, 3)), np.empty((0, 3)), 1.0))


def test_ntire_psnr_compares_encoded_values_against_the_encoded_maximum() -> None:
    # Encoded: 2 against 1, both over 2: a difference of 0.5, which is 6.02 dB.
    assert ntire_psnr_db(constant(1.0), constant(2.0**2.24)) == pytest.approx(20 * math.log10(2), abs=1e-4)


def test_linear_psnr_takes_the_truths_maximum_as_peak() -> None:
    truth = constant(0.0)
    truth[0, 0] = 8.0
    output = truth + 0.8
    assert linear_psnr_db(output, truth) == pytest.approx(20.0, abs=1e-4)


def test_mu_law_at_known_points() -> None:
    assert mu_law(np.float32([0.0]), 1.0) == pytest.approx([0.0])
    assert mu_law(np.float32([1e6]), 1.0) == pytest.approx([1.0])
    # atanh(0.1) becomes 0.1 behind the tanh: log(501) / log(5001).
    assert mu_law(np.float32([math.atanh(0.1) * 3]), 3.0) == pytest.approx([math.log(501) / math.log(5001)], abs=1e-6)


def test_mu_psnr_is_the_published_formula() -> None:
    rng = np.random.default_rng(3)
    truth, output = (rng.lognormal(-1, 1.5, (16, 16, 3)).astype(np.float32) for _ in range(2))
    # The scoring script, from gamma-encoded images on: linearise, 99th percentile of the truth, tanh, mu-law, PSNR.
    encoded_truth, encoded_output = (np.power(image.astype(np.float64), 1 / 2.24) for image in (truth, output))
    linear_truth, linear_output = encoded_truth**2.24, encoded_output**2.24
    white = np.percentile(linear_truth, 99)
    mapped = [np.log(1 + 5000 * np.tanh(image / white)) / np.log(1 + 5000) for image in (linear_truth, linear_output)]
    assert mu_psnr_db(output, truth) == pytest.approx(-10 * np.log10(np.mean((mapped[0] - mapped[1]) ** 2)), abs=1e-4)


def test_mu_psnr_without_light_is_no_value() -> None:
    assert math.isnan(mu_psnr_db(constant(0.5), constant(0.0)))


@pytest.mark.parametrize("metric", [ntire_psnr_db, linear_psnr_db, mu_psnr_db])
@given(scale=st.floats(0.01, 100))
def test_a_common_unit_does_not_matter(metric: object, scale: float) -> None:
    truth = make_truth(size_px=16)
    output = np.minimum(truth, 1)
    assert callable(metric)
    expected = metric(output, truth)
    assert metric(output * np.float32(scale), truth * np.float32(scale)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("metric", [ntire_psnr_db, linear_psnr_db, mu_psnr_db])
def test_more_noise_scores_lower(metric: object) -> None:
    truth = make_truth()
    noise = np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    assert callable(metric)
    scores = [metric(np.maximum(truth + noise * np.float32(sigma), 0), truth) for sigma in (0.005, 0.02, 0.1, 0.4)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4
