"""Noise and banding of an output, with known noise put in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.evaluation_texture import banding, noise_left, noise_sigma
from pipeline.codecs.color import network_to_linear
from pipeline.evaluation.baselines import identity
from pipeline.evaluation.pair import build_pair

SIZE = 256
RAMP = np.repeat(np.linspace(0.3, 0.6, SIZE, dtype=np.float32)[None, :, None], SIZE, axis=0).repeat(3, axis=2)
TRUTH = network_to_linear(RAMP)


def codes(sigma: float, dither: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(0)
    noisy = RAMP * 255 + rng.normal(0, sigma * 255, RAMP.shape) + rng.uniform(-dither, dither, RAMP.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def test_noise_of_an_untouched_picture_is_its_own() -> None:
    picture = codes(0.02)
    pair = build_pair(picture, identity(picture), TRUTH)
    assert noise_sigma(pair) == pytest.approx(0.02, rel=0.05)
    assert noise_left(pair) == pytest.approx(1.0, abs=1e-3)


def test_half_the_noise_is_half() -> None:
    picture = codes(0.02)
    cleaned = network_to_linear((RAMP + picture.astype(np.float32) / 255) / 2)
    assert noise_left(build_pair(picture, cleaned, TRUTH)) == pytest.approx(0.5, abs=0.02)


def test_clean_inputs_and_noisy_truths_do_not_count() -> None:
    clean = codes(0.0)
    assert math.isnan(noise_left(build_pair(clean, identity(clean), TRUTH)))
    noisy = codes(0.02)
    textured = identity(noisy)
    assert math.isnan(noise_left(build_pair(noisy, textured, textured)))


def test_pictures_without_a_well_exposed_block_have_no_noise_value() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert math.isnan(noise_sigma(build_pair(black, identity(black), identity(black))))


def test_banding_is_there_in_a_quantised_gradient_and_gone_in_the_truth() -> None:
    shallow = np.repeat(np.linspace(0.4, 0.45, SIZE, dtype=np.float32)[None, :, None], SIZE, axis=0).repeat(3, axis=2)
    picture, truth = np.rint(shallow * 255).astype(np.uint8), network_to_linear(shallow)
    assert banding(build_pair(picture, identity(picture), truth)) > 0.2
    assert banding(build_pair(picture, truth, truth)) == 0
    tiny = picture[:8, :8]
    assert math.isnan(banding(build_pair(tiny, identity(tiny), truth[:8, :8])))
