"""Losses against values computed by hand from their definition; stops are 2.24 log2(y + 0.05), 0.97 is clipped."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from pipeline.codecs.color import network_to_linear
from pipeline.errors import ConfigError
from pipeline.evaluation.psnr import mu_psnr_db
from pipeline.evaluation.pu21 import pu21_psnr_db
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import tanh_l1, training_loss

TANH_ONLY = LossConfig()


def with_log(**values: float) -> LossConfig:
    return LossConfig(**{"log_weight": 0.25, "clipped_weight": 5.0, **values})  # type: ignore[arg-type]


def stops(encoded: float) -> float:
    return 2.24 * math.log2(max(encoded, 0) + 0.05)


def full(value: float, size: int = 16) -> Tensor:
    return torch.full((1, 3, size, size), value)


def parts_of(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> dict[str, float]:
    return {name: float(value) for name, value in training_loss(output, truth, ldr, config)[1].items()}


def test_tanh_l1_is_the_mean_difference_of_tanh() -> None:
    output, truth = torch.tensor([0.0, 0.5, 2.0, -1.0]), torch.tensor([0.0, 1.0, 4.0, 0.5])
    expected = sum(abs(math.tanh(a) - math.tanh(b)) for a, b in ((0, 0), (0.5, 1), (2, 4), (-1, 0.5))) / 4
    assert float(tanh_l1(output, truth)) == pytest.approx(expected, rel=1e-6)


def test_without_other_terms_the_loss_is_tanh_l1() -> None:
    loss, parts = training_loss(full(0.3), full(0.6), full(0.5), TANH_ONLY)
    assert float(loss) == pytest.approx(math.tanh(0.6) - math.tanh(0.3), rel=1e-6)
    assert parts.keys() == {"tanh_l1"}


def test_the_log_term_counts_stops_and_more_of_them_where_the_input_is_clipped() -> None:
    ldr = full(0.5)
    ldr[:, 1, :4] = 0.98  # one clipped channel clips the pixel: a quarter of them
    output, truth = full(0.6), full(0.3)
    config = with_log(log_weight=0.25, clipped_weight=5.0)
    loss, parts = training_loss(output, truth, ldr, config)
    error = stops(0.6) - stops(0.3)
    assert float(parts["log"]) == pytest.approx(error * (0.75 + 0.25 * 5), rel=1e-5)
    assert float(loss) == pytest.approx(math.tanh(0.6) - math.tanh(0.3) + 0.25 * error * 2, rel=1e-5)


@pytest.mark.parametrize(("encoded", "is_clipped"), [(247 / 255, False), (248 / 255, True), (1.0, True)])
def test_codes_from_248_on_count_as_clipped(encoded: float, is_clipped: bool) -> None:
    parts = parts_of(full(0.6), full(0.3), full(encoded), with_log(clipped_weight=5.0))
    assert parts["log"] == pytest.approx((stops(0.6) - stops(0.3)) * (5 if is_clipped else 1), rel=1e-5)


def gradient(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> Tensor:
    output = output.clone().requires_grad_()
    training_loss(output, truth, ldr, config)[0].backward()
    assert output.grad is not None
    return output.grad


def test_the_log_term_pulls_where_tanh_is_flat() -> None:
    # A highlight at 8 (105 times the clipping level) that came out as 4 (22 times).
    flat = gradient(full(4.0), full(8.0), full(1.0), TANH_ONLY)
    pulled = gradient(full(4.0), full(8.0), full(1.0), with_log(log_weight=0.25, clipped_weight=5.0))
    expected = 0.25 * 5 * 2.24 / math.log(2) / 4.05 / flat.numel()
    torch.testing.assert_close(pulled, torch.full_like(pulled, -expected), rtol=5e-3, atol=0)
    assert float(pulled.abs().min()) > 500 * float(flat.abs().max())


def test_the_peak_term_sees_a_single_bright_pixel_that_means_do_not() -> None:
    truth, ldr = full(0.5, 64), full(0.4, 64)
    truth[0, 1, 20, 20], ldr[0, :, 20, 20] = 6.0, 1.0
    config = with_log(log_weight=0.25, clipped_weight=1.0, peak_weight=1.0)
    parts = parts_of(full(0.5, 64), truth, ldr, config)
    error = stops(6.0) - stops(0.5)
    assert parts["peak"] == pytest.approx(error, rel=1e-5)
    assert parts["log"] == pytest.approx(error / (3 * 64 * 64), rel=1e-4)


def test_the_peak_term_compares_the_brightest_of_a_block_wherever_they_are() -> None:
    output, truth, ldr = full(0.5, 16), full(0.5, 16), full(0.4, 16)
    truth[0, 0, 1, 2] = output[0, 2, 6, 5] = 3.0  # the same block of 8 px, another pixel and channel
    ldr[0, 1, 4, 4] = 1.0
    assert parts_of(output, truth, ldr, with_log(peak_weight=1.0))["peak"] == 0


def test_the_peak_term_averages_over_blocks_with_clipped_pixels_only() -> None:
    output, truth, ldr = full(0.5, 16), full(0.5, 16), full(0.4, 16)
    truth[0, 0, 12, 12] = 5.0  # bright, but the input is not clipped in its block
    config = with_log(peak_weight=1.0)
    assert parts_of(output, truth, ldr, config)["peak"] == 0
    ldr[0, 0, 12, 12] = ldr[0, 0, 0, 0] = 1.0  # two blocks, one of them right
    assert parts_of(output, truth, ldr, config)["peak"] == pytest.approx((stops(5) - stops(0.5)) / 2, rel=1e-5)


@pytest.mark.parametrize("size", [4, 12, 20])
def test_the_peak_term_sees_every_pixel_of_patches_that_blocks_do_not_fill(size: int) -> None:
    truth, ldr = full(0.5, size), full(0.4, size)
    truth[0, 0, -1, -1] = ldr[0, 0, -1, -1] = 2.0
    peak = parts_of(full(0.5, size), truth, ldr, with_log(peak_weight=1.0, peak_block_px=8))["peak"]
    assert peak == pytest.approx(stops(2) - stops(0.5), rel=1e-5)


def at_stops(level: float) -> float:
    return 2 ** (level / 2.24) - 0.05


def test_overshoot_of_clipped_pixels_costs_more_and_nothing_else_does() -> None:
    config = with_log(clipped_weight=1.0, overshoot_weight=3.0)
    errors = {
        (ldr, error): parts_of(full(at_stops(2 + error)), full(at_stops(2)), full(ldr), config)["log"]
        for ldr in (0.5, 1.0)
        for error in (-0.7, 0.7)
    }
    assert errors[0.5, -0.7] == pytest.approx(0.7, rel=1e-4)
    assert errors[0.5, 0.7] == pytest.approx(0.7, rel=1e-4)
    assert errors[1.0, -0.7] == pytest.approx(0.7, rel=1e-4)
    assert errors[1.0, 0.7] == pytest.approx(3 * 0.7, rel=1e-4)


def test_overshoot_of_the_clipped_area_costs_more() -> None:
    plain, guarded = (with_log(area_weight=1.0, overshoot_weight=weight) for weight in (1.0, 3.0))
    for factor, ratio in ((0.5, 1.0), (2.0, 3.0)):
        images = (full(factor), full(1.0), full(1.0))
        expected = ratio * parts_of(*images, plain)["area"]
        assert parts_of(*images, guarded)["area"] == pytest.approx(expected, rel=1e-5)
        assert expected > 0


@pytest.mark.parametrize("delta", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("error", [-2.0, -0.2, 0.004, 0.3, 1.5])
def test_huber_is_square_below_its_stops_and_absolute_less_half_of_them_above(delta: float, error: float) -> None:
    config = with_log(huber_stops=delta, clipped_weight=1.0, peak_weight=1.0)
    parts = parts_of(full(at_stops(1 + error)), full(at_stops(1)), full(1.0), config)
    expected = error**2 / (2 * delta) if abs(error) < delta else abs(error) - delta / 2
    assert parts["log"] == pytest.approx(expected, rel=2e-3, abs=1e-6)
    assert parts["peak"] == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.0, -3.0, 1e-30, 1e4, 1e30])
def test_loss_and_gradient_are_finite_for_any_output(value: float) -> None:
    config = with_log(peak_weight=0.1, huber_stops=0.5, overshoot_weight=2.0, area_weight=0.1, relative_weight=0.1)
    config = replace(config, hue_weight=0.1, neutral_prior=0.5, gradient_weight=0.1, fine_weight=0.1)
    for truth in (0.0, 0.5, 141.0):
        loss, _ = training_loss(full(value), full(truth), full(1.0), config)
        assert math.isfinite(float(loss))
        assert gradient(full(value), full(truth), full(1.0), config).isfinite().all()


def test_a_perfect_output_costs_nothing() -> None:
    truth = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 3
    config = with_log(peak_weight=1.0, overshoot_weight=2.0, huber_stops=0.2, area_weight=1.0, relative_weight=1.0)
    config = replace(config, fine_weight=1.0)
    loss, parts = training_loss(truth.clone(), truth, truth.clamp(0, 1), config)
    assert float(loss) == 0
    assert parts.keys() == {"tanh_l1", "log", "peak", "area", "relative", "fine"}


def test_the_loss_is_the_weighted_sum_of_its_detached_terms() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand((2, 3, 16, 16), generator=generator) * 2
    truth[:, :, :8] /= 2.1  # blocks without clipped pixels
    output = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).requires_grad_()
    config = with_log(log_weight=0.3, peak_weight=0.7, area_weight=0.2, relative_weight=0.4, fine_weight=0.6)
    loss, parts = training_loss(output, truth, truth.clamp(0, 1), config)
    expected = parts["tanh_l1"] + 0.3 * parts["log"] + 0.7 * parts["peak"]
    expected += 0.2 * parts["area"] + 0.4 * parts["relative"] + 0.6 * parts["fine"]
    assert float(parts["fine"]) > 0
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert loss.requires_grad
    assert not any(part.requires_grad for part in parts.values())


WEIGHTS = [field.name for field in fields(LossConfig) if field.name != "peak_block_px"]


def luminance_stops(red: float, green: float, blue: float) -> float:
    linear = [max(value, 0) ** 2.24 for value in (red, green, blue)]
    return math.log2(sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 2**-10)


def test_the_area_term_counts_stops_of_luminance_in_the_clipped_area_of_each_patch_alike() -> None:
    output, truth, ldr = (full(value, 8).repeat(3, 1, 1, 1) for value in (0.9, 0.9, 0.4))
    truth[0, 0, 0, 0], ldr[0, 1, 0, 0] = 5.0, 1.0  # one red pixel of the first patch
    ldr[1], truth[1] = 1.0, 2.0  # all of the second, nothing of the third
    errors = [
        luminance_stops(5.0, 0.9, 0.9) - luminance_stops(0.9, 0.9, 0.9),
        luminance_stops(2.0, 2.0, 2.0) - luminance_stops(0.9, 0.9, 0.9),
    ]
    parts = parts_of(output, truth, ldr, with_log(area_weight=1.0))
    assert parts["area"] == pytest.approx(sum(errors) / 2, rel=1e-5)


def test_the_area_term_is_nothing_where_nothing_is_clipped() -> None:
    assert parts_of(full(0.9), full(0.3), full(0.4), with_log(area_weight=1.0))["area"] == 0


def test_the_gradient_term_sees_steps_at_the_rim_of_a_clipped_area_and_no_level() -> None:
    truth, ldr = full(1.5, 8).repeat(2, 1, 1, 1), full(0.5, 8).repeat(2, 1, 1, 1)
    ldr[0, :, :, :4] = 1.0  # the left half of the first patch is clipped; the second patch is not
    config = LossConfig(gradient_weight=1.0)
    step = luminance_stops(3.0, 3.0, 3.0) - luminance_stops(1.5, 1.5, 1.5)
    sticker, level = truth.clone(), truth.clone()
    sticker[0, :, :, :4] = 3.0
    level[0] = 3.0
    level[1, :, :, :4] = 3.0  # a step where nothing is clipped is for other terms to see
    num_pairs = 8 * 4 + 7 * 4  # side by side, the one over the rim among them; one above the other
    assert parts_of(sticker, truth, ldr, config)["gradient"] == pytest.approx(8 * step / num_pairs, rel=1e-4)
    assert parts_of(level, truth, ldr, config)["gradient"] == pytest.approx(0, abs=1e-6)
    assert parts_of(truth, sticker, ldr, config)["gradient"] == pytest.approx(8 * step / num_pairs, rel=1e-4)


def test_every_patch_with_clipped_pixels_has_the_same_say_in_the_gradient_term() -> None:
    truth, ldr = full(1.5, 8).repeat(3, 1, 1, 1), full(0.5, 8).repeat(3, 1, 1, 1)
    output = truth.clone()
    ldr[0, :, 0, 0], output[0, :, 0, 0] = 1.0, 3.0  # one pixel in a corner: two pairs, both with the step
    ldr[1] = 1.0  # all of the second, and right; nothing of the third
    step = luminance_stops(3.0, 3.0, 3.0) - luminance_stops(1.5, 1.5, 1.5)
    gradient_term = parts_of(output, truth, ldr, LossConfig(gradient_weight=1.0))["gradient"]
    assert gradient_term == pytest.approx((step + 0) / 2, rel=1e-4)


def test_the_relative_term_is_that_of_the_metrics_by_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand((2, 3, 16, 16), generator=generator) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    output = truth * (1 + 0.1 * torch.randn(truth.shape, generator=generator))
    parts = parts_of(output, truth, truth.clamp(0, 1), with_log(relative_weight=1.0))
    linear = [[network_to_linear(image.numpy().transpose(1, 2, 0)) for image in images] for images in (output, truth)]
    expected = 0.0
    for ours, true in zip(*linear, strict=True):
        for metric, peak, floor in ((mu_psnr_db, 1.0, 0.003), (pu21_psnr_db, 256.0, 1.0)):
            mean_square = peak**2 * 10 ** (-metric(ours, true) / 10)
            expected += math.log1p(mean_square / floor**2) / 2 / 4
    assert parts["relative"] == pytest.approx(expected, rel=1e-3)


def test_the_relative_term_of_a_black_patch_is_finite() -> None:
    assert math.isfinite(parts_of(full(0.5), full(0.0), full(0.0), with_log(relative_weight=1.0))["relative"])


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_that_are_no_weights_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(LossConfig(), **{name: value})


def test_a_block_needs_a_pixel() -> None:
    with pytest.raises(ConfigError, match="peak_block_px is 0"):
        with_log(peak_block_px=0)


def coloured(red: float, green: float, blue: float, size: int = 16) -> Tensor:
    return torch.tensor([red, green, blue]).reshape(1, 3, 1, 1).expand(1, 3, size, size).clone()


def test_the_hue_term_compares_colours_of_white_pixels_whatever_their_brightness() -> None:
    config = LossConfig(hue_weight=1.0)
    truth = coloured(at_stops(3.0), at_stops(2.0), at_stops(1.5))
    output = coloured(at_stops(5.5), at_stops(5.0), at_stops(5.0))  # half a stop of red short, half one of blue over
    ldr = full(1.0)
    assert parts_of(output, truth, ldr, config)["hue"] == pytest.approx(0.5, rel=1e-4)
    ldr[:, 2] = 0.9  # blue was not clipped: its colour can be seen, and other terms see to it
    assert parts_of(output, truth, ldr, config)["hue"] == 0


def test_every_patch_with_white_has_the_same_say_in_the_hue_term() -> None:
    truth, output = full(1.5).repeat(3, 1, 1, 1), full(1.5).repeat(3, 1, 1, 1)
    output[0, 0, 0, 0] = at_stops(stops(1.5) + 1)
    ldr = full(0.5).repeat(3, 1, 1, 1)
    ldr[0, :, 0, 0] = 1.0  # one white pixel, a stop too red
    ldr[1] = 1.0  # all white, and right; the third patch has no white
    hue = parts_of(output, truth, ldr, LossConfig(hue_weight=1.0))["hue"]
    assert hue == pytest.approx((0.5 + 0) / 2, rel=1e-4)


@pytest.mark.parametrize(("red_stops", "pulls_to_gray"), [([1.0, 1.0, -1.0], True), ([1.0, 1.0, 0.8], False)])
def test_the_neutral_prior_answers_gray_only_where_colour_is_in_doubt(
    red_stops: list[float], pulls_to_gray: bool
) -> None:
    truths = torch.cat([coloured(at_stops(2 + red), at_stops(2), at_stops(2)) for red in red_stops])
    ldr = full(1.0).repeat(len(red_stops), 1, 1, 1)

    def cost(answer: float) -> float:
        output = coloured(at_stops(2 + answer), at_stops(2), at_stops(2)).repeat(len(red_stops), 1, 1, 1)
        return parts_of(output, truths, ldr, LossConfig(hue_weight=1.0, neutral_prior=0.5))["hue"]

    best = min((round(0.1 * step, 1) for step in range(-15, 16)), key=cost)
    assert (best == 0) is pulls_to_gray


ALL_TERMS = LossConfig(
    log_weight=0.1,
    peak_weight=0.1,
    area_weight=0.25,
    gradient_weight=0.2,
    relative_weight=0.15,
    hue_weight=0.1,
    neutral_prior=0.5,
    fine_weight=20.0,
)


def unevenly_clipped_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Four patches as (output, truth, ldr): white in a corner, nowhere, all over, and one channel clipped in spots."""
    generator = torch.Generator().manual_seed(3)
    ldr = 0.2 + 0.6 * torch.rand((4, 3, 32, 32), generator=generator)
    ldr[0, :, :5, :7] = 1.0
    ldr[2] = 1.0
    ldr[3, 0, ::9, ::9] = 1.0
    noise = torch.rand((2, 4, 3, 32, 32), generator=generator)
    is_clipped = ldr >= 0.97
    return torch.where(is_clipped, 1 + noise[0], ldr + 0.05), torch.where(is_clipped, 1 + 3 * noise[1], ldr), ldr


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_that_share_a_batch_have_its_loss_and_gradients_in_the_mean(num_workers: int) -> None:
    output, truth, ldr = unevenly_clipped_batch()
    whole, whole_parts = training_loss(output.requires_grad_(), truth, ldr, ALL_TERMS)
    expected = torch.autograd.grad(whole, output)[0]
    shares = [
        [tensor.detach().chunk(num_workers)[rank] for tensor in (output, truth, ldr)] for rank in range(num_workers)
    ]
    counted: list[Tensor] = []

    def count(counts: Tensor) -> Tensor:
        counted.append(counts)
        return counts

    for share in shares:
        training_loss(*share, ALL_TERMS, count)
    assert len(counted) == num_workers, "each worker makes the same calls, also one with nothing clipped"
    total = torch.stack(counted).sum(dim=0)
    losses, parts, gradients = [], [], []
    for share in shares:
        share[0].requires_grad_()
        loss, worker_parts = training_loss(*share, ALL_TERMS, lambda _: total.clamp_min(1) / num_workers)
        gradients.append(torch.autograd.grad(loss, share[0])[0] / num_workers)
        losses.append(float(loss.detach()))
        parts.append(worker_parts)
    assert sum(losses) / num_workers == pytest.approx(float(whole.detach()), rel=1e-6)
    for name, value in whole_parts.items():
        assert sum(float(part[name]) for part in parts) / num_workers == pytest.approx(float(value), rel=1e-6)
    torch.testing.assert_close(torch.cat(gradients), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_without_clipped_pixels_anywhere_shared_terms_are_nothing_and_finite() -> None:
    output, ldr = full(0.9).requires_grad_(), full(0.4)
    loss, parts = training_loss(output, full(0.3), ldr, ALL_TERMS, lambda counts: counts.clamp_min(1) / 4)
    assert [float(parts[name]) for name in ("peak", "area", "hue")] == [0, 0, 0]
    assert torch.isfinite(torch.autograd.grad(loss, output)[0]).all()
