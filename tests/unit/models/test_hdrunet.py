"""The network against an independent float64 evaluation of the graph, written from its description in the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import tiny_network
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.checkpoint import build_network, load_weights
from pipeline.models.descriptor import HDRUNET, macs_per_pixel
from pipeline.models.hdrunet import HDRUNet, PixelShuffle2

# Largest error relative to the largest output, random weights of unit gain; a trained network's activations are milder.
BOUND_BY_DTYPE = {torch.bfloat16: 3e-2, torch.float16: 4e-3}


class Reference:
    """HDRUNet in float64 numpy: (C, H, W) arrays, im2col and einsum, one line per layer."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def conv(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        size = weight.shape[-1]
        padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2)))
        windows = sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]

    def sft(self, x: np.ndarray, cond: np.ndarray, name: str) -> np.ndarray:
        scale = self.conv(leaky(self.conv(cond, f"{name}.SFT_scale_conv0")), f"{name}.SFT_scale_conv1")
        shift = self.conv(leaky(self.conv(cond, f"{name}.SFT_shift_conv0")), f"{name}.SFT_shift_conv1")
        return x * (scale + 1) + shift

    def block(self, x: np.ndarray, cond: np.ndarray, name: str) -> np.ndarray:
        y = relu(self.conv(self.sft(x, cond, f"{name}.sft1"), f"{name}.conv1"))
        return x + self.conv(self.sft(y, cond, f"{name}.sft2"), f"{name}.conv2")

    def trunk(self, x: np.ndarray, cond: np.ndarray, name: str, num_blocks: int) -> np.ndarray:
        for i in range(num_blocks):
            x = self.block(x, cond, f"{name}.{i}")
        return x

    def up(self, x: np.ndarray, name: str) -> np.ndarray:
        wide = self.conv(x, f"{name}.0")
        out = np.empty((wide.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2]))
        for i in range(2):
            for j in range(2):
                out[:, i::2, j::2] = wide[2 * i + j :: 4]
        return out

    def __call__(self, x: np.ndarray) -> np.ndarray:
        mask = relu(self.conv(x, "mask_est.0"))
        mask = relu(self.conv(mask, "mask_est.2"))
        mask = relu(self.conv(mask, "mask_est.4"))
        mask = self.conv(mask, "mask_est.6")
        cond = leaky(self.conv(x, "cond_first.0"))
        cond = leaky(self.conv(cond, "cond_first.2"))
        cond = leaky(self.conv(cond, "cond_first.4"))
        cond1 = self.conv(leaky(self.conv(cond, "CondNet1.0")), "CondNet1.2")
        cond2 = self.conv(leaky(self.conv(cond, "CondNet2.0", 2)), "CondNet2.2")
        cond3 = self.conv(leaky(self.conv(cond, "CondNet3.0", 2)), "CondNet3.2", 2)
        fea0 = relu(self.conv(self.sft(relu(self.conv(x, "conv_first")), cond1, "SFT_layer1"), "HR_conv1"))
        fea1 = self.trunk(relu(self.conv(fea0, "down_conv1", 2)), cond2, "recon_trunk1", 2)
        fea2 = relu(self.conv(fea1, "down_conv2", 2))
        y = self.trunk(fea2, cond3, "recon_trunk2", 8) + fea2
        y = self.trunk(relu(self.up(y, "up_conv1")) + fea1, cond2, "recon_trunk3", 2)
        y = relu(self.conv(self.sft(relu(self.up(y, "up_conv2")) + fea0, cond1, "SFT_layer2"), "HR_conv2"))
        return mask * x + self.conv(y, "conv_last")


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


def random_image(height: int, width: int, seed: int = 3) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(network: HDRUNet, image: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network(image)[0].numpy()


def test_size_is_the_published_one() -> None:
    network = HDRUNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == HDRUNET.num_parameters == 1_651_494
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(random_image(32, 64))
    assert counter.get_total_flops() == 2 * 355_136 * 32 * 64
    assert HDRUNET.macs_per_pixel == 355_136


@pytest.mark.parametrize(("nf", "shape"), [(64, (24, 40)), (8, (36, 20)), (8, (4, 4))])
def test_fp32_equals_the_float64_reference(nf: int, shape: tuple[int, int]) -> None:
    network, image = tiny_network(seed=nf, nf=nf), random_image(*shape)
    expected = Reference(network.state_dict())(image[0].double().numpy())
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(run(network, image), expected, rtol=1e-5, atol=1e-5)


def test_channels_last_changes_nothing() -> None:
    network, image = tiny_network(), random_image(32, 32)
    expected = run(network, image)
    actual = run(network.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_output_stays_channels_last() -> None:
    network = tiny_network().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        output = network(random_image(32, 32).to(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", BOUND_BY_DTYPE)
def test_low_precision_stays_within_bounds(dtype: torch.dtype) -> None:
    network, image = tiny_network(seed=5, nf=64), random_image(32, 32)
    expected = Reference(network.state_dict())(image[0].double().numpy())
    error = np.abs(run(network.set_compute_dtype(dtype), image) - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < BOUND_BY_DTYPE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, *BOUND_BY_DTYPE])
def test_identity_weights_return_the_input_in_every_precision(dtype: torch.dtype) -> None:
    network, image = build_network(load_weights("identity", None)).set_compute_dtype(dtype), random_image(16, 24)
    np.testing.assert_allclose(run(network, image), image[0].numpy(), rtol=0, atol=1e-7)


def test_compute_dtype_spares_the_layers_that_write_the_output() -> None:
    network = tiny_network().set_compute_dtype(torch.bfloat16)
    full = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.weight.dtype is torch.float32
    }
    assert full == {"conv_last", "mask_est.6"}
    assert network.compute_dtype is torch.bfloat16
    assert network(random_image(8, 8)).dtype is torch.float32
    assert network.set_compute_dtype(torch.float32).compute_dtype is torch.float32


def test_smooth_gradients_keep_more_levels_than_bf16_has() -> None:
    network = build_network(load_weights("identity", None)).set_compute_dtype(torch.bfloat16)
    ramp = torch.linspace(0.5, 0.6, 16 * 16).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert len(np.unique(run(network, ramp)[0])) > 250


def test_pixel_shuffle_is_torchs() -> None:
    x = torch.arange(2 * 8 * 3 * 5, dtype=torch.float32).reshape(2, 8, 3, 5)
    assert torch.equal(PixelShuffle2()(x), nn.PixelShuffle(2)(x))


def test_reach_of_one_pixel_is_what_the_halo_covers() -> None:
    """NaN spreads through every product, so it draws the exact receptive field."""
    network, height = tiny_network(nf=2), 320
    needed_px = []
    for nan_row in range(160, 164):
        image = torch.full((1, 3, height, 8), 0.5)
        image[:, :, nan_row] = torch.nan
        affected = np.flatnonzero(np.isnan(run(network, image)).any(axis=(0, 2)))
        core_above_ends = affected.min() // 4 * 4 + 4
        core_below_starts = affected.max() // 4 * 4
        needed_px += [nan_row + 1 - core_above_ends, core_below_starts - nan_row]
    assert max(needed_px) == 93
    assert HDRUNET.halo_px == 96


def test_gradients_flow_to_every_parameter() -> None:
    network = tiny_network().requires_grad_(True)
    network(random_image(16, 16)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("nf", [0, 1, 7])
def test_odd_widths_are_refused(nf: int) -> None:
    with pytest.raises(ValueError, match="even"):
        HDRUNet(nf=nf)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_the_cost_formula_counts_every_convolution(width: int) -> None:
    counted = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel() * layer.weight.numel() // output.shape[1]  # type: ignore[operator, union-attr]

    with torch.device("meta"):
        network = HDRUNet(nf=width)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        network(torch.zeros(1, 3, 64, 64))
    assert macs_per_pixel(width) == counted / 64**2
    assert macs_per_pixel(HDRUNET.width) == HDRUNET.macs_per_pixel
