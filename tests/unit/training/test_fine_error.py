"""The fine term: noise and lost detail by blocks of 8 x 8 px, whatever the tones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.training.fine_error import FINE_BLOCK_PX, fine_error


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nowhere(images: Tensor) -> Tensor:
    return torch.zeros_like(images[:, :1])


def fine(output: Tensor, truth: Tensor, clipped: Tensor | None = None) -> tuple[float, int]:
    total, number = fine_error(output, truth, nowhere(truth) if clipped is None else clipped)
    assert number.dtype == torch.int64
    return float(total), int(number)


def test_errors_of_tone_that_are_planes_within_a_block_cost_nothing() -> None:
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij")
    truth = torch.rand((2, 3, 24, 16), generator=torch.Generator().manual_seed(1))
    total, number = fine(truth + 0.3 - 0.01 * rows + 0.02 * columns, truth)
    assert number == 2 * 3 * 2
    assert total == pytest.approx(0, abs=1e-5)


def test_what_is_left_of_a_block_is_that_of_a_least_squares_fit() -> None:
    truth = torch.zeros((1, 3, 8, 8), dtype=torch.float64)
    error = noise(1, 3, 8, 8)
    rows, columns = np.mgrid[:FINE_BLOCK_PX, :FINE_BLOCK_PX].reshape(2, -1)
    design = np.stack([np.ones(64), rows, columns], axis=1)
    expected = []
    for channel in error[0].reshape(3, 64).numpy():
        fit, *_ = np.linalg.lstsq(design, channel, rcond=None)
        expected.append(np.abs(channel - design @ fit).mean())
    total, number = fine(truth + error, truth)
    assert number == 1
    assert total == pytest.approx(np.mean(expected), rel=1e-9)


def test_noise_costs_by_its_size_and_blurred_detail_costs_too() -> None:
    truth = torch.zeros((1, 3, 64, 64), dtype=torch.float64)
    once, twice = (fine(truth + scale * noise(1, 3, 64, 64), truth)[0] for scale in (1, 2))
    assert twice == pytest.approx(2 * once, rel=1e-9)
    assert once / 64 == pytest.approx(0.02 * (2 / np.pi) ** 0.5 * (61 / 64) ** 0.5, rel=0.02)
    detail = noise(1, 3, 64, 64, seed=2)
    blurred = torch.nn.functional.avg_pool2d(detail, 3, stride=1, padding=1)
    assert fine(blurred, detail)[0] > 0.5 * once


def test_blocks_with_a_clipped_pixel_and_what_fills_no_block_are_left_out() -> None:
    truth = torch.zeros((2, 3, 20, 17), dtype=torch.float64)
    clipped = nowhere(truth)
    clipped[0, 0, 7, 8] = clipped[1, 0, 19, 3] = clipped[1, 0, 2, 16] = 1  # only the first lies in a block
    output = truth.clone()
    output[:, :, 16:], output[:, :, :, 16:], output[0, :, :8, 8:16] = 5.0, 5.0, noise(3, 8, 8)
    assert fine(output, truth, clipped) == (pytest.approx(0, abs=1e-12), 2 * 4 - 1)
    assert fine(output, truth)[0] > 0.01


@pytest.mark.parametrize("size", [4, 8])
def test_without_a_block_to_count_it_is_nothing_and_has_finite_gradients(size: int) -> None:
    output = noise(1, 3, size, size).requires_grad_()
    total, number = fine_error(output, torch.zeros_like(output), torch.ones_like(output[:, :1]))
    assert (float(total.detach()), int(number)) == (0, 0)
    assert torch.autograd.grad(total, output)[0].isfinite().all()
