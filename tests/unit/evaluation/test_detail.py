"""Noise left and detail kept, with known amounts of both put in and taken out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.codecs.color import linear_to_network, linear_to_srgb, network_to_linear
from pipeline.evaluation import evaluate_pair
from pipeline.evaluation.baselines import srgb_blur, srgb_decode

FloatArray = npt.NDArray[np.float32]
SIZE = 128


def make_truth() -> FloatArray:
    """The left half a slope without detail, the right half texture of all frequencies; encoded 0.35 to 0.65."""
    encoded = np.broadcast_to(np.linspace(0.4, 0.6, SIZE)[:, None], (SIZE, SIZE)).copy()
    encoded[:, SIZE // 2 :] += np.random.default_rng(1).normal(0, 0.025, (SIZE, SIZE // 2))
    return network_to_linear(np.repeat(encoded[..., None], 3, axis=2).astype(np.float32))


def noise(sigma: float, seed: int = 2) -> FloatArray:
    return np.random.default_rng(seed).normal(0, sigma, (SIZE, SIZE, 3)).astype(np.float32)


TRUTH = make_truth()
ENCODED = linear_to_network(TRUTH)


def take_picture(sigma: float) -> npt.NDArray[np.uint8]:
    noisy = linear_to_srgb(network_to_linear(np.clip(ENCODED + noise(sigma), 0, 1)))
    return np.rint(noisy * 255).astype(np.uint8)


NOISY, CLEAN = take_picture(0.02), take_picture(0.0)


def measure(output: FloatArray, picture: npt.NDArray[np.uint8] = NOISY) -> tuple[float, float]:
    values = evaluate_pair(picture, output, TRUTH, ["flat_noise_left", "detail_kept"])
    return values["flat_noise_left"], values["detail_kept"]


def encoded_blur(sigma_px: float) -> FloatArray:
    return network_to_linear(gaussian_filter(ENCODED, (sigma_px, sigma_px, 0)))


def test_the_truth_has_no_noise_and_all_detail() -> None:
    left, kept = measure(TRUTH)
    assert left == pytest.approx(0, abs=1e-5)
    assert kept == pytest.approx(1, abs=1e-5)


def test_the_decode_has_all_of_its_noise_and_all_detail() -> None:
    left, kept = measure(srgb_decode(NOISY))
    assert left == pytest.approx(1, abs=1e-6)
    assert kept == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.5])
def test_a_share_of_the_noise_is_that_share_and_leaves_the_detail(share: float) -> None:
    left, kept = measure(network_to_linear(np.clip(ENCODED + np.float32(share) * noise(0.02), 0, 1)))
    assert left == pytest.approx(share, rel=0.02)
    assert kept == pytest.approx(1, abs=0.06)


def test_more_noise_of_another_draw_raises_noise_alone() -> None:
    values = [measure(network_to_linear(np.clip(ENCODED + noise(sigma, 3), 0, 1))) for sigma in (0.01, 0.03, 0.06)]
    assert [left for left, _ in values] == pytest.approx([0.5, 1.5, 3.0], rel=0.05)
    assert [kept for _, kept in values] == pytest.approx([1, 1, 1], abs=0.12)


def test_blur_lowers_the_slope_as_its_transfer_function_says() -> None:
    # White texture, detail 1 - G of it, output B of it: the slope is sum(B (1 - G)^2) / sum((1 - G)^2).
    point = np.zeros((64, 64))
    point[32, 32] = 1

    def transfer(sigma_px: float) -> np.ndarray:
        return np.abs(np.fft.fft2(gaussian_filter(point, sigma_px)))

    slopes = []
    for sigma_px in (0.5, 0.8, 1.5):
        passed = (1 - transfer(1.0)) ** 2
        expected = float(np.sum(transfer(sigma_px) * passed) / np.sum(passed))
        left, kept = measure(encoded_blur(sigma_px))
        assert kept == pytest.approx(expected, abs=0.04)
        assert left < 0.05, "the truth is smooth there"
        slopes.append(kept)
    assert slopes == sorted(slopes, reverse=True)


def test_a_blurred_decode_pays_for_its_denoising_with_detail() -> None:
    left, kept = measure(srgb_blur(NOISY))
    assert left < 0.7
    assert kept < 0.8


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.7])
def test_exposure_changes_neither(gain: float) -> None:
    output = srgb_decode(NOISY)
    assert measure(output * np.float32(gain)) == pytest.approx(measure(output), rel=1e-3)


def test_a_wrong_shade_is_no_noise() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    shade = (1 + 0.2 * np.sin(2 * np.pi * (rows + columns)))[..., None].astype(np.float32)
    left, kept = measure(TRUTH * shade)
    assert left < 0.05
    assert kept == pytest.approx(1, abs=0.05)


def test_exaggerated_detail_is_over_one() -> None:
    fine = ENCODED - gaussian_filter(ENCODED, (1, 1, 0))
    assert measure(network_to_linear(ENCODED + np.float32(0.5) * fine))[1] > 1.3


def test_clean_pictures_and_those_without_flat_or_textured_areas_have_no_value() -> None:
    assert math.isnan(measure(srgb_decode(CLEAN), CLEAN)[0]), "rounding is no noise to remove"
    flat = np.broadcast_to(TRUTH[:, :1], TRUTH.shape)
    values = evaluate_pair(NOISY, srgb_decode(NOISY), np.ascontiguousarray(flat), ["detail_kept"])
    assert math.isnan(values["detail_kept"])
    busy = np.ascontiguousarray(TRUTH[:, SIZE // 2 :])
    picture = np.ascontiguousarray(NOISY[:, SIZE // 2 :])
    assert math.isnan(evaluate_pair(picture, srgb_decode(picture), busy, ["flat_noise_left"])["flat_noise_left"])


def test_what_is_clipped_or_near_it_does_not_count() -> None:
    picture, truth = NOISY.copy(), TRUTH.copy()
    picture[40:48, 100:108] = 255
    truth[40:48, 100:108] = 30.0
    picture[80:88, 20:28] = 255
    truth[80:88, 20:28] = 30.0
    values = evaluate_pair(picture, srgb_decode(picture), truth, ["flat_noise_left", "detail_kept"])
    whole = evaluate_pair(NOISY, srgb_decode(NOISY), TRUTH, ["flat_noise_left", "detail_kept"])
    assert values == pytest.approx(whole, abs=0.02)


def test_a_picture_smaller_than_a_block_has_no_value() -> None:
    small = NOISY[:7, :7]
    values = evaluate_pair(small, srgb_decode(small), TRUTH[:7, :7], ["flat_noise_left", "detail_kept"])
    assert all(math.isnan(value) for value in values.values())
