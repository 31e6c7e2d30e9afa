from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hdr_scenes import make_panorama
from numpy.typing import NDArray

from pipeline.codecs.color import linear_to_srgb, luminance, srgb_to_linear
from pipeline.simulation import camera
from pipeline.simulation.camera import (
    CameraRanges,
    CameraSettings,
    Photograph,
    draw_settings,
    photograph_scene,
    photograph_view,
)
from pipeline.simulation.response import ResponseCurve
from pipeline.simulation.scenes import HdrScene
from pipeline.simulation.views import box_downscale, sample_view

FloatArray = NDArray[np.float32]

PLAIN = CameraSettings(
    clipped_fraction=0.0,
    max_clipped_fraction=0.2,
    min_median=0.005,
    full_well_e=1e12,
    read_noise_e=0.0,
    white_balance=(1.0, 1.0, 1.0),
    cast=(1.0, 1.0, 1.0),
    curve=ResponseCurve("srgb"),
    has_correlated_noise=False,
    is_resampled=False,
    jpeg_quality=0,
    subsampling="444",
)
"""Noiseless, lossless, at the view's own size, in sRGB, with nothing clipped."""


def shoot(view: FloatArray, seed: int = 0, **changes: object) -> Photograph:
    return photograph_view(view, replace(PLAIN, **changes), np.random.default_rng(seed))


def uneven_view(size: int = 120, stops: float = 1.5) -> FloatArray:
    """Log-normal light around 30 of some unit, every channel for itself."""
    light = np.exp2(np.random.default_rng(5).normal(0, stops, (size, size, 3)))
    return (30 * light).astype(np.float32)


def smooth_view(size: int = 128) -> FloatArray:
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    return (0.1 + 0.8 * np.dstack([rows, columns, (rows + columns) / 2])).astype(np.float32)


@pytest.mark.parametrize("white_balance", [(1.0, 1.0, 1.0), (2.1, 1.0, 1.3)])
def test_the_picture_is_its_truth_to_half_a_code(white_balance: tuple[float, float, float]) -> None:
    view = uneven_view()
    shot = shoot(view, white_balance=white_balance)
    assert shot.truth.max() == 1
    np.testing.assert_allclose(shot.truth, view / view.max(), rtol=1e-6)
    np.testing.assert_allclose(linear_to_srgb(shot.truth) * 255, shot.ldr, atol=0.5 + 1e-3)


def test_noise_is_all_that_separates_the_picture_from_its_truth() -> None:
    view = np.concatenate([smooth_view(), np.full((8, 128, 3), 3.0, np.float32)])  # no channel of the rest over 0.3
    settings = {"full_well_e": 1500.0, "read_noise_e": 5.0, "white_balance": (1.9, 1.0, 1.5)}
    shot = shoot(view, **settings)
    truth, seen = shot.truth[:128], srgb_to_linear(shot.ldr[:128] / np.float32(255))
    gains = np.array(settings["white_balance"])
    variance = gains * truth / 1500 + (gains * 5 / 1500) ** 2
    # Quantisation adds a twelfth of a squared code, in linear light.
    slope = srgb_to_linear((shot.ldr[:128] + 0.5).astype(np.float32) / 255) - srgb_to_linear(
        np.maximum(shot.ldr[:128] - np.float32(0.5), 0) / np.float32(255)
    )
    residual = ((seen - truth) / np.sqrt(variance + slope**2 / 12)).astype(float)
    usable = residual[truth > 0.1]
    assert usable.mean() == pytest.approx(0, abs=0.03)
    assert usable.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("fraction", [0.0005, 0.01, 0.1, 0.2])
def test_the_wanted_fraction_of_pixels_is_clipped(fraction: float) -> None:
    shot = shoot(uneven_view(200), clipped_fraction=fraction)
    is_above = shot.truth.max(axis=2) > 1
    assert is_above.mean() == pytest.approx(fraction, abs=2 / is_above.size)
    assert (shot.ldr.max(axis=2)[is_above] == 255).all()
    assert (shot.ldr[shot.truth < 0.99] < 255).all()


def test_channels_clip_each_for_itself() -> None:
    view = np.full((32, 32, 3), 0.5, np.float32)
    view[:8] = [40.0, 1.0, 0.3]
    shot = shoot(view, clipped_fraction=0.3, max_clipped_fraction=0.3, white_balance=(1.5, 1.0, 1.5))
    assert shot.truth[20, 20].tolist() == [1, 1, 1]
    np.testing.assert_allclose(shot.truth[0, 0], [80, 2, 0.6], rtol=1e-6)
    assert shot.ldr[0, 0].tolist() == [255, 255, round(float(linear_to_srgb(np.float32(0.6))) * 255)]


def sun_in_the_dark(sun_rows: int) -> FloatArray:
    """100 x 100 px: light from 0.9 to 1.1, and above it that many rows of a sun 10,000 times as bright."""
    view = np.random.default_rng(0).uniform(0.9, 1.1, (100, 100, 1)).astype(np.float32).repeat(3, axis=2)
    view[:sun_rows] *= 10_000
    return view


def test_a_view_that_would_be_too_dark_is_exposed_for_its_median() -> None:
    view = sun_in_the_dark(3)
    dark = shoot(view, clipped_fraction=0.01, min_median=1e-6)
    assert np.median(luminance(dark.truth)) < 2e-4
    raised = shoot(view, clipped_fraction=0.01, min_median=0.02)
    assert np.median(luminance(raised.truth)) == pytest.approx(0.02, rel=1e-3)
    assert (raised.truth.max(axis=2) > 1).mean() == pytest.approx(0.03)


def test_a_dark_view_is_never_clipped_beyond_the_maximum() -> None:
    shot = shoot(sun_in_the_dark(3), clipped_fraction=0.01, max_clipped_fraction=0.02, min_median=0.02)
    assert (shot.truth.max(axis=2) > 1).mean() == pytest.approx(0.02, abs=2e-4)
    assert np.median(luminance(shot.truth)) < 2e-4


def test_a_view_that_is_bright_enough_keeps_its_clipped_fraction() -> None:
    view = uneven_view()
    fractions = [
        (shoot(view, clipped_fraction=0.01, min_median=median).truth.max(axis=2) > 1).mean() for median in (1e-6, 0.01)
    ]
    assert fractions[0] == fractions[1] == pytest.approx(0.01, abs=2e-4)


@pytest.mark.parametrize("unit", [2.0**-80, 2.0**-30, 2.0**30])
def test_the_unit_of_the_view_does_not_matter(unit: float) -> None:
    view = uneven_view(64)
    changes = {"clipped_fraction": 0.05, "full_well_e": 2000.0, "read_noise_e": 3.0}
    one, other = shoot(view, **changes), shoot(view * np.float32(unit), **changes)
    np.testing.assert_array_equal(one.ldr, other.ldr)
    np.testing.assert_array_equal(one.truth, other.truth)


def test_black_stays_black() -> None:
    shot = shoot(np.zeros((64, 64, 3), np.float32), clipped_fraction=0.1)
    assert not shot.truth.any()
    assert not shot.ldr.any()


def test_a_sun_in_black_stays_finite() -> None:
    view = np.zeros((64, 64, 3), np.float32)
    view[0, 0] = 65504
    shot = shoot(view, clipped_fraction=0.1)
    assert np.isfinite(shot.truth).all()
    assert shot.truth.max() > 1e6
    assert shot.ldr[0, 0].tolist() == [255, 255, 255]


def test_the_cast_is_in_the_picture_and_in_its_truth() -> None:
    grey = uneven_view().mean(axis=2, keepdims=True) + np.zeros(3, np.float32)
    shot = shoot(grey, cast=(1.1, 1.0, 0.9), white_balance=(1.7, 1.0, 1.2))
    np.testing.assert_allclose(shot.truth / shot.truth[..., 1:2], np.broadcast_to([1.1, 1, 0.9], grey.shape), rtol=1e-5)
    np.testing.assert_allclose(linear_to_srgb(shot.truth) * 255, shot.ldr, atol=0.5 + 1e-3)


@pytest.mark.parametrize("curve", [ResponseCurve("power", power=2.4), ResponseCurve("phone", 0.3, -0.05)])
def test_the_curve_changes_the_picture_and_not_its_truth(curve: ResponseCurve) -> None:
    view = uneven_view()
    srgb, other = shoot(view), shoot(view, curve=curve)
    np.testing.assert_array_equal(other.truth, srgb.truth)
    np.testing.assert_allclose(other.ldr, curve.encode(srgb.truth) * 255, atol=0.5 + 1e-3)
    assert np.abs(other.ldr.astype(int) - srgb.ldr).max() > 5


def test_a_resampled_truth_averages_light_and_its_picture_codes() -> None:
    view = uneven_view(128)
    shot, full = shoot(view, is_resampled=True), shoot(view)
    assert shot.ldr.shape == shot.truth.shape == (64, 64, 3)
    np.testing.assert_array_equal(shot.truth, box_downscale(full.truth, 2))
    np.testing.assert_allclose(shot.ldr, 255 * box_downscale(linear_to_srgb(full.truth), 2), atol=0.5 + 1e-3)


def test_jpeg_errs_more_at_lower_quality_and_only_if_asked() -> None:
    view = smooth_view() * np.exp2(np.random.default_rng(0).normal(0, 0.2, (128, 128, 1))).astype(np.float32)
    lossless = shoot(view).ldr.astype(float)
    errors = [np.square(shoot(view, jpeg_quality=quality).ldr - lossless).mean() for quality in (98, 85, 70)]
    assert 0 < errors[0] < errors[1] < errors[2] < 100


def test_chroma_subsampling_blurs_colour_and_not_light() -> None:
    view = np.full((64, 64, 3), 0.2, np.float32)
    view[:, 31:] = [0.9, 0.1, 0.1]  # an edge of colour in the middle of a block of 2 x 2
    seen = {kind: shoot(view, jpeg_quality=95, subsampling=kind).ldr.astype(float) for kind in ("444", "422", "420")}
    blue_minus_red = {kind: picture[:, 24:40, 2] - picture[:, 24:40, 0] for kind, picture in seen.items()}
    sharp = shoot(view).ldr.astype(float)
    exact = sharp[:, 24:40, 2] - sharp[:, 24:40, 0]
    errors = {kind: np.abs(difference - exact).mean() for kind, difference in blue_minus_red.items()}
    assert errors["422"] > 3 * errors["444"]
    assert errors["420"] > 3 * errors["444"]


def test_every_shot_of_a_scene_has_the_stated_form() -> None:
    scene = HdrScene("place", make_panorama(width=256), is_panorama=True)
    for seed in range(30):
        shot = photograph_scene(scene, 48, np.random.default_rng(seed), CameraRanges())
        assert shot.ldr.shape == shot.truth.shape == (48, 48, 3)
        assert shot.ldr.dtype == np.uint8
        assert shot.truth.dtype == np.float32
        assert shot.ldr.flags.c_contiguous
        assert shot.truth.flags.c_contiguous
        assert np.isfinite(shot.truth).all()
        assert shot.truth.min() >= 0


def test_resampled_shots_have_an_enlargement_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(scene: HdrScene, size_px: int, rng: np.random.Generator, max_enlargement: float) -> FloatArray:
        seen.append((size_px, max_enlargement))
        return sample_view(scene, size_px, rng, max_enlargement)

    monkeypatch.setattr(camera, "sample_view", spy)
    scene = HdrScene("place", make_panorama(width=256), is_panorama=True)
    for share in (0.0, 1.0):
        for ranges in (CameraRanges(), CameraRanges(max_enlargement=1.5, max_resampled_enlargement=3.0)):
            photograph_scene(scene, 48, np.random.default_rng(0), replace(ranges, resample_probability=share))
    assert seen == [(48, 2.0), (48, 1.5), (96, 2.0), (96, 3.0)]


def test_a_shot_depends_on_the_generator_alone() -> None:
    scene = HdrScene("place", make_panorama(width=256), is_panorama=True)
    one, same, other = (photograph_scene(scene, 48, np.random.default_rng(seed), CameraRanges()) for seed in (1, 1, 2))
    assert one.settings == same.settings
    np.testing.assert_array_equal(one.ldr, same.ldr)
    np.testing.assert_array_equal(one.truth, same.truth)
    assert one.settings != other.settings
    assert not np.array_equal(one.truth, other.truth)


def draws(ranges: CameraRanges, num: int = 1500) -> list[CameraSettings]:
    rng = np.random.default_rng(0)
    return [draw_settings(ranges, rng) for _ in range(num)]


def test_settings_are_drawn_from_the_stated_ranges_as_often_as_stated() -> None:
    ranges = CameraRanges(
        max_clipped_fraction=0.3, min_median=(0.01, 0.2), jpeg_quality=(80, 90), read_noise_e=(2.0, 5.0)
    )
    drawn = draws(ranges)
    for name in ("min_median", "full_well_e", "read_noise_e"):
        low, high = getattr(ranges, name)
        values = np.array([getattr(settings, name) for settings in drawn])
        assert low <= values.min() < low * 1.1
        assert high / 1.1 < values.max() <= high
    gains = np.array([settings.white_balance for settings in drawn])
    assert (gains[:, 1] == 1).all()
    assert (gains[:, [0, 2]] >= 1.2).all()
    assert (gains[:, [0, 2]] <= 2.2).all()
    casts = np.log([settings.cast for settings in drawn])
    assert (casts[:, 1] == 0).all()
    np.testing.assert_allclose(casts[:, [0, 2]].std(axis=0), 0.03, rtol=4 / (2 * len(drawn)) ** 0.5)
    assert {settings.jpeg_quality for settings in drawn} == {0, *range(80, 91)}
    assert {settings.subsampling for settings in drawn} == {"444", "422", "420"}
    shares = {
        "unclipped_probability": [settings.clipped_fraction <= 5e-4 for settings in drawn],
        "correlated_noise_probability": [settings.has_correlated_noise for settings in drawn],
        "resample_probability": [settings.is_resampled for settings in drawn],
        "jpeg_probability": [settings.jpeg_quality > 0 for settings in drawn],
    }
    for name, chosen in shares.items():
        probability = getattr(ranges, name)
        tolerance = 4 * (probability * (1 - probability) / len(drawn)) ** 0.5
        assert np.mean(chosen) == pytest.approx(probability, abs=tolerance), name


@pytest.mark.parametrize("maximum", [0.0, 1e-4, 5e-4, 0.4])
def test_clipped_fractions_stay_within_their_maximum(maximum: float) -> None:
    fractions = np.array([settings.clipped_fraction for settings in draws(CameraRanges(max_clipped_fraction=maximum))])
    assert fractions.min() >= 0
    assert fractions.max() <= maximum
    assert fractions.max() >= 0.95 * maximum


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_clipped_fraction": 1.1},
        {"unclipped_probability": -0.1},
        {"jpeg_probability": np.nan},
        {"srgb_probability": 1.01},
        {"min_median": (0.0, 0.1)},
        {"full_well_e": (1000.0, 800.0)},
        {"read_noise_e": (-1.0, 2.0)},
        {"read_noise_e": (1.0, np.inf)},
        {"white_balance_gain": (0.8, 2.0)},
        {"max_enlargement": 0},
        {"max_resampled_enlargement": np.inf},
        {"cast_sigma": -0.1},
        {"cast_sigma": np.nan},
        {"jpeg_quality": (0, 90)},
        {"jpeg_quality": (70, 101)},
    ],
    ids=str,
)
def test_impossible_ranges_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CameraRanges(**wrong)
