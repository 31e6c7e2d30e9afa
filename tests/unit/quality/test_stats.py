from __future__ import annotations

import dataclasses
import math
import tracemalloc

import colour
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.color import luminance, network_to_linear, srgb_to_linear
from pipeline.codecs.exr import (
    ExrProvenance,
    HdrImage,
    OutputIdentity,
    decode_exr,
    encode_exr,
    prepare_hdr,
)
from pipeline.config import EncodeConfig
from pipeline.quality import measure
from pipeline.quality import stats as stats_module
from pipeline.records import CaptureMetadata, InferenceInfo, QualityStats


def photo(height: int, width: int, *, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """A smooth scene with noise, shadows and clipped areas."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [0.55 + 0.55 * np.sin(5 * x + 3 * y + phase) for phase in (0.0, 0.4, 0.9)]
    encoded = np.clip(np.stack(waves, axis=-1) + rng.normal(0, 0.01, (height, width, 3)), 0, 1)
    return np.round(encoded * np.iinfo(dtype).max).astype(dtype)


def identity_output(ldr: np.ndarray, *, dtype: type = np.float16, gain: float = 1.0) -> HdrImage:
    encoded = ldr / np.float32(np.iinfo(ldr.dtype).max)
    return HdrImage((network_to_linear(encoded) * np.float32(gain)).astype(dtype))


def gray(levels: np.ndarray, dtype: type = np.float32) -> HdrImage:
    return HdrImage(np.repeat(np.asarray(levels, dtype)[..., np.newaxis], 3, axis=-1))


def assert_close(left: QualityStats, right: QualityStats, *, rel: float, skip: tuple[str, ...] = ()) -> None:
    for field in dataclasses.fields(QualityStats):
        if field.name not in skip:
            a, b = getattr(left, field.name), getattr(right, field.name)
            assert (a is None) == (b is None), field.name
            assert a is None or a == pytest.approx(b, rel=rel, abs=1e-4), field.name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_identity_weights_change_nothing_that_can_be_measured(dtype) -> None:
    ldr = photo(200, 300, dtype=dtype)
    stats = measure(ldr, identity_output(ldr), 0.0)
    assert stats.fidelity_psnr_db > 80
    assert stats.chroma_shift < 1e-4
    assert stats.stops_gained_clipped == pytest.approx(0, abs=1e-3)
    assert stats.output_noise_sigma == pytest.approx(stats.input_noise_sigma, rel=0.01)
    assert stats.output_banding == pytest.approx(stats.input_banding, abs=1e-3)


def test_clipped_fraction_counts_pixels_with_any_channel_within_one_code_of_white() -> None:
    ldr = np.full((4, 5, 3), 100, np.uint8)
    ldr[0, 0, 2], ldr[1, 1, 0], ldr[2, 2, 1], ldr[3, 3] = 255, 254, 253, 255
    assert measure(ldr, identity_output(ldr), 0.0).clipped_fraction == 3 / 20
    deep = np.full((2, 2, 3), 254 * 257, np.uint16)
    deep[0] -= 1
    assert measure(deep, identity_output(deep), 0.0).clipped_fraction == 0.5


def test_dynamic_range_spans_the_percentiles_of_luminance() -> None:
    ldr = np.repeat(np.linspace(20, 230, 256 * 256).round().astype(np.uint8).reshape(256, 256, 1), 3, axis=-1)
    output = np.exp2(np.linspace(-4, 8, 256 * 256)).reshape(256, 256)
    stats = measure(ldr, gray(output), 0.0)
    assert stats.output_dynamic_range_stops == pytest.approx(12 * 0.998, abs=0.01)
    low, high = np.percentile(luminance(srgb_to_linear(ldr / np.float32(255))), [0.1, 99.9])
    assert stats.input_dynamic_range_stops == pytest.approx(math.log2(high / low), abs=0.01)


def test_zeros_count_as_half_a_code_on_both_sides() -> None:
    ldr = np.zeros((100, 100, 3), np.uint8)
    ldr[50:] = 255
    stats = measure(ldr, identity_output(ldr), 0.0)
    half_code = 0.5 / 255 / 12.92
    assert stats.input_dynamic_range_stops == pytest.approx(-math.log2(half_code), abs=0.01)
    assert stats.output_dynamic_range_stops == pytest.approx(-math.log2(half_code), abs=0.01)
    assert stats.luminance_p1 == 0.0


def test_luminance_percentiles_agree_with_numpy_within_the_bin_width() -> None:
    rng = np.random.default_rng(4)
    pixels = np.exp(rng.normal(-1, 2, (300, 400, 3))).astype(np.float16)
    ldr = photo(300, 400)
    stats = measure(ldr, HdrImage(pixels), 0.0)
    expected = luminance(pixels.astype(np.float32))
    for value, percent in [
        (stats.luminance_p1, 1),
        (stats.luminance_p50, 50),
        (stats.luminance_p99, 99),
        (stats.luminance_p999, 99.9),
    ]:
        assert value == pytest.approx(np.percentile(expected, percent, method="inverted_cdf"), rel=1 / 500)
    assert stats.luminance_max == pytest.approx(float(expected.max()), rel=1e-6)


def test_stops_gained_is_the_mean_log_ratio_in_the_clipped_area() -> None:
    ldr = np.full((10, 10, 3), 128, np.uint8)
    ldr[:2] = 255
    linear = network_to_linear(ldr / np.float32(255))
    linear[0] *= 4
    linear[1] *= 16
    linear[5] *= 64  # not clipped: does not count
    stats = measure(ldr, HdrImage(linear), 0.0)
    assert stats.stops_gained_clipped == pytest.approx(3, abs=1e-5)
    assert measure(ldr[5:], HdrImage(np.ascontiguousarray(linear[5:])), 0.0).stops_gained_clipped is None


def test_psnr_has_the_analytic_value_and_ignores_badly_exposed_pixels() -> None:
    ldr = np.full((40, 50, 3), 128, np.uint8)
    encoded = ldr / np.float32(255)
    encoded[::2] += np.float32(0.02)
    encoded[1::2] -= np.float32(0.02)
    ldr[:, 25:, 0] = 250  # one channel above 0.9 takes the pixel out
    stats = measure(ldr, HdrImage(network_to_linear(encoded)), 0.0)
    assert stats.fidelity_psnr_db == pytest.approx(-20 * math.log10(0.02), abs=0.01)
    assert measure(ldr[:, 25:], HdrImage(network_to_linear(encoded[:, 25:])), 0.0).fidelity_psnr_db is None


def test_psnr_is_capped_where_nothing_differs() -> None:
    ldr = np.full((2, 2, 3), 51, np.uint16) * 257
    exact = measure(ldr, identity_output(ldr, dtype=np.float32), 0.0).fidelity_psnr_db
    assert exact == stats_module.PSNR_CAP_DB


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(30, 225)] * 3), st.tuples(*[st.floats(0.02, 4)] * 3))
def test_chroma_shift_agrees_with_colour_science(codes, output) -> None:
    ldr = np.array([[codes]], np.uint8)
    pixels = np.array([[output]], np.float32)
    matrix = colour.models.RGB_COLOURSPACE_sRGB.matrix_RGB_to_XYZ
    before, after = (
        colour.Luv_to_uv(colour.XYZ_to_Luv(matrix @ rgb.astype(float)))
        for rgb in (network_to_linear(ldr[0, 0] / np.float32(255)), pixels[0, 0])
    )
    expected = float(np.linalg.norm(before - after))
    assert measure(ldr, HdrImage(pixels), 0.0).chroma_shift == pytest.approx(expected, rel=2e-3, abs=2e-5)


def test_a_neutral_gain_shifts_no_chroma() -> None:
    ldr = photo(64, 64)
    assert measure(ldr, identity_output(ldr, dtype=np.float32, gain=3.0), 0.0).chroma_shift < 1e-6


def test_large_images_are_sampled_without_bias(monkeypatch) -> None:
    ldr = photo(600, 700)
    hdr = identity_output(ldr, gain=1.2)
    every = measure(ldr, hdr, 0.0)
    monkeypatch.setattr(stats_module, "_SAMPLED_ABOVE_PX", 1000)
    sampled = measure(ldr, hdr, 0.0)
    assert sampled.fidelity_psnr_db == pytest.approx(every.fidelity_psnr_db, abs=0.05)
    assert sampled.chroma_shift == pytest.approx(every.chroma_shift, rel=0.05)
    assert dataclasses.replace(sampled, fidelity_psnr_db=0, chroma_shift=0) == dataclasses.replace(
        every, fidelity_psnr_db=0, chroma_shift=0
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(-6, 6), st.sampled_from([np.uint8, np.uint16]), st.sampled_from(["half", "float"]))
def test_exposure_changes_no_statistic(exposure_ev, dtype, pixel_type) -> None:
    ldr = photo(70, 90, dtype=dtype)
    linear = network_to_linear(ldr / np.float32(np.iinfo(dtype).max)) * np.float32(1.5)
    plain, exposed = (
        measure(ldr, prepare_hdr(linear.copy(), None, EncodeConfig(exposure_ev=ev, pixel_type=pixel_type)).image, ev)
        for ev in (0.0, exposure_ev)
    )
    assert_close(plain, exposed, rel=0.01)


def test_partial_alpha_is_taken_out_again() -> None:
    ldr = photo(80, 100)
    linear = network_to_linear(ldr / np.float32(255))
    alpha = np.full((80, 100), 128, np.uint8)
    opaque = measure(ldr, prepare_hdr(linear.copy(), None, EncodeConfig()).image, 0.0)
    translucent = measure(ldr, prepare_hdr(linear, alpha, EncodeConfig()).image, 0.0)
    assert_close(opaque, translucent, rel=0.01, skip=("fidelity_psnr_db", "chroma_shift"))
    assert translucent.fidelity_psnr_db > 70
    assert translucent.chroma_shift < 5e-4


def test_transparent_pixels_do_not_count() -> None:
    ldr = photo(96, 96)
    hidden = np.concatenate([ldr, np.full_like(ldr, 255)], axis=1)
    hdr = identity_output(ldr)
    alpha = np.ones((96, 192), np.float16)
    alpha[:, 96:] = 0
    wide = HdrImage(np.concatenate([hdr.pixels, np.zeros_like(hdr.pixels)], axis=1), alpha)
    assert_close(
        measure(ldr, hdr, 0.0), measure(hidden, wide, 0.0), rel=1e-3, skip=("input_noise_sigma", "output_noise_sigma")
    )
    nothing = measure(ldr, HdrImage(hdr.pixels * 0, alpha[:, 96:].copy()), 0.0)
    assert (nothing.clipped_fraction, nothing.luminance_max, nothing.luminance_p50) == (0.0, 0.0, 0.0)
    assert nothing.fidelity_psnr_db is nothing.input_noise_sigma is nothing.input_banding is None
    assert nothing.input_dynamic_range_stops is None


def test_a_stored_file_measures_the_same_when_it_is_adopted() -> None:
    ldr = photo(90, 120)
    alpha = np.full((90, 120), 255, np.uint8)
    alpha[:9] = 77
    options = EncodeConfig(exposure_ev=1.3)
    prepared = prepare_hdr(network_to_linear(ldr / np.float32(255)), alpha, options)
    provenance = ExrProvenance("a.png", "0", "identity", InferenceInfo("cpu", "fp32", 1, 0), 0, CaptureMetadata())
    data = encode_exr(prepared.image, options, OutputIdentity("1", "2", "3"), provenance)
    assert measure(ldr, prepared.image, 1.3) == measure(ldr, decode_exr(data).image, 1.3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (15, 15), (16, 1), (17, 18), (18, 18)])
def test_tiny_images_measure_what_they_can(shape) -> None:
    ldr = np.full((*shape, 3), 120, np.uint8)
    stats = measure(ldr, identity_output(ldr), 0.0)
    assert stats.luminance_p50 == pytest.approx(stats.luminance_max)
    assert stats.input_dynamic_range_stops == 0.0
    assert (stats.input_noise_sigma is None) == (min(shape) < 18)
    assert (stats.input_banding is None) == (max(shape) < 16)


def test_a_black_image_has_no_range_and_no_fidelity() -> None:
    ldr = np.zeros((20, 20, 3), np.uint8)
    stats = measure(ldr, identity_output(ldr), 0.0)
    assert stats.input_dynamic_range_stops is stats.output_dynamic_range_stops is None
    assert stats.fidelity_psnr_db is stats.chroma_shift is stats.stops_gained_clipped is None
    assert stats.luminance_max == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_samples_that_should_not_be_there_leave_finite_statistics(value, dtype) -> None:
    ldr = photo(40, 40)
    hdr = identity_output(ldr, dtype=dtype)
    hdr.pixels[3, 4] = value
    stats = measure(ldr, hdr, 0.0)
    assert all(found is None or math.isfinite(found) for found in dataclasses.astuple(stats))


def test_statistics_do_not_depend_on_how_the_image_is_tiled() -> None:
    ldr = photo(1040, 530)
    hdr = identity_output(ldr, gain=1.1)
    turned = HdrImage(np.ascontiguousarray(hdr.pixels.transpose(1, 0, 2)))
    assert_close(measure(ldr, hdr, 0.0), measure(np.ascontiguousarray(ldr.transpose(1, 0, 2)), turned, 0.0), rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (1000, 1000)])
def test_extra_memory_is_bounded_for_any_shape(shape) -> None:
    ldr = np.zeros((*shape, 3), np.uint8)
    hdr = HdrImage(np.zeros((*shape, 3), np.float32))
    measure(ldr[:1, :1], HdrImage(hdr.pixels[:1, :1].copy()), 0.0)
    tracemalloc.start()
    measure(ldr, hdr, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_unlike_images_cannot_be_compared() -> None:
    ldr = photo(4, 5)
    with pytest.raises(ValueError, match="cannot compare"):
        measure(ldr[:, :4], identity_output(ldr), 0.0)
    with pytest.raises(ValueError, match="cannot compare"):
        measure(ldr.astype(np.float32), identity_output(ldr), 0.0)
