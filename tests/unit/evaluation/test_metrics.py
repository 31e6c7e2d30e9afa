"""One image, all metrics: which are there, what they are invariant to, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import make_truth, take_picture

from pipeline.errors import ConfigError
from pipeline.evaluation import FAST_METRICS, METRICS, evaluate_pair
from pipeline.evaluation.baselines import srgb_decode
from pipeline.evaluation.extras import load_extra
from pipeline.evaluation.flip import hdr_flip

TRUTH = make_truth()
PICTURE = take_picture(TRUTH)
DECODED = srgb_decode(PICTURE)
# What these measure the picture does not have; test_detail.py has pictures with it, the truth itself among them.
OF_NOISE_AND_TEXTURE = ("flat_noise_left", "detail_kept")
QUICK = [name for name, metric in METRICS.items() if metric.is_fast]


def test_truth_itself_is_perfect_in_every_metric() -> None:
    values = evaluate_pair(PICTURE, TRUTH, TRUTH, METRICS)
    assert list(values) == list(METRICS)
    for name, value in values.items():
        best = {"dB": 99.0}.get(METRICS[name].unit, 1.0 if "ssim" in name else 0.0)
        if name in OF_NOISE_AND_TEXTURE:
            assert math.isnan(value), "the picture has neither"
        else:
            assert value == pytest.approx(best, abs=1e-6), name


def test_a_clipped_picture_is_worse_than_the_truth_where_it_clips() -> None:
    values = evaluate_pair(PICTURE, DECODED, TRUTH, METRICS)
    assert 1 < values["clipped_error_stops"] < 5
    assert 1 < values["peak_error_stops"] < 5
    assert values["unclipped_error_stops"] < 0.02
    assert values["exposure_error_ev"] < 0.01
    assert values["unclipped_pu21_psnr_db"] > values["pu21_psnr_db"] + 10


@pytest.mark.parametrize(
    "name",
    [name for name in QUICK if name not in {"exposure_error_ev", *OF_NOISE_AND_TEXTURE} and "linear" not in name],
)
def test_every_metric_falls_with_distortion(name: str) -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(TRUTH.shape).astype(np.float32)
    sign = 1 if METRICS[name].higher_is_better else -1
    scores = [
        sign * evaluate_pair(PICTURE, TRUTH * np.exp(noise * np.float32(sigma)), TRUTH, [name])[name]
        for sigma in (0.01, 0.05, 0.25)
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


@settings(max_examples=15)
@given(ev=st.floats(-3, 3))
def test_aligned_metrics_do_not_see_exposure(ev: float) -> None:
    names = [name for name in QUICK if name.startswith("aligned_")]
    expected = evaluate_pair(PICTURE, DECODED, TRUTH, names)
    scaled = evaluate_pair(PICTURE, DECODED * np.float32(2**ev), TRUTH, [*names, "exposure_error_ev"])
    assert {name: scaled[name] for name in names} == pytest.approx(expected, rel=1e-3)
    assert scaled["exposure_error_ev"] == pytest.approx(abs(ev), abs=0.02)


def test_alignment_of_slow_metrics() -> None:
    values = evaluate_pair(PICTURE, DECODED * np.float32(2), TRUTH, ["aligned_pu21_ssim", "aligned_hdr_flip"])
    plain = evaluate_pair(PICTURE, DECODED, TRUTH, ["aligned_pu21_ssim", "aligned_hdr_flip"])
    assert values == pytest.approx(plain, rel=1e-3)


def test_a_picture_without_clipping_has_no_clipped_error() -> None:
    truth = TRUTH * np.float32(0.5 / TRUTH.max())
    values = evaluate_pair(take_picture(truth), truth, truth, METRICS)
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {
        *(f"{prefix}{name}" for prefix in ("", "aligned_") for name in ("clipped_error_stops", "peak_error_stops")),
        "clipped_hue_shift_deg",
        "clipped_chroma_shift",
        *OF_NOISE_AND_TEXTURE,
    }


def test_a_white_picture_has_no_exposure_error_and_stays_unaligned() -> None:
    white = np.full((16, 16, 3), 255, np.uint8)
    truth, output = np.full((16, 16, 3), 4.0, np.float32), np.full((16, 16, 3), 1.0, np.float32)
    values = evaluate_pair(white, output, truth, ["exposure_error_ev", "mu_psnr_db", "aligned_mu_psnr_db"])
    assert math.isnan(values["exposure_error_ev"])
    assert values["aligned_mu_psnr_db"] == values["mu_psnr_db"]


def test_outputs_are_cleaned_as_they_would_be_stored() -> None:
    dirty, clean = DECODED.copy(), DECODED.copy()
    dirty[0, 0], clean[0, 0] = (np.nan, -1.0, np.inf), (0.0, 0.0, 65504.0)
    dirty[0, 1], clean[0, 1] = 1e6, 65504.0
    np.testing.assert_equal(evaluate_pair(PICTURE, dirty, TRUTH, QUICK), evaluate_pair(PICTURE, clean, TRUTH, QUICK))
    assert np.isnan(dirty[0, 0, 0]), "the caller's array is left alone"


def test_sixteen_bit_pictures_measure_like_eight_bit_ones() -> None:
    assert evaluate_pair(PICTURE.astype(np.uint16) * 257, DECODED, TRUTH, QUICK) == pytest.approx(
        evaluate_pair(PICTURE, DECODED, TRUTH, QUICK), nan_ok=True
    )


def test_training_asks_for_fast_metrics_only() -> None:
    assert all(METRICS[name].is_fast for name in FAST_METRICS)
    assert list(evaluate_pair(PICTURE, DECODED, TRUTH)) == list(FAST_METRICS)


@pytest.mark.parametrize(
    ("picture", "output", "says"),
    [
        (PICTURE[..., 0], DECODED, "ldr must be"),
        (PICTURE.astype(np.float32), DECODED, "ldr must be"),
        (PICTURE, DECODED[:-1], "output must be"),
        (PICTURE, PICTURE, "output must be"),
    ],
)
def test_other_shapes_and_types_are_refused(picture: np.ndarray, output: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        evaluate_pair(picture, output, TRUTH)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match="unknown metric 'ssim'"):
        evaluate_pair(PICTURE, DECODED, TRUTH, ["ssim"])


def test_a_missing_package_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"needs the package no-such.*pip install 'hdrfleet\[evaluate\]'"):
        load_extra("no_such_module", "no-such")


def test_flip_grows_with_the_difference_and_ignores_the_unit() -> None:
    small, large = hdr_flip(TRUTH * np.float32(1.02), TRUTH), hdr_flip(TRUTH * np.float32(1.5), TRUTH)
    assert hdr_flip(TRUTH, TRUTH) == 0
    assert 0 < small < large < 1
    assert hdr_flip(TRUTH * np.float32(6), TRUTH * np.float32(4)) == pytest.approx(large, rel=0.05)
    assert math.isnan(hdr_flip(TRUTH, np.zeros_like(TRUTH)))
