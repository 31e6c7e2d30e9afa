"""HDRUNet in PyTorch, with the parameter names of the published checkpoint.

Source: Chen et al., "HDRUNet: Single Image HDR Reconstruction with Denoising and Dequantization", CVPRW 2021
(arXiv:2105.13084). Spatial feature transform: Wang et al., CVPR 2018 (arXiv:1804.02815).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAKY_SLOPE = 0.1


def _conv3x3(in_nc: int, out_nc: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_nc, out_nc, kernel_size=3, stride=stride, padding=1)


def _conv1x1(in_nc: int, out_nc: int) -> nn.Conv2d:
    return nn.Conv2d(in_nc, out_nc, kernel_size=1)


def _leaky_relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(_LEAKY_SLOPE, inplace=True)


class PixelShuffle2(nn.Module):
    """(N, 4C, H, W) -> (N, C, 2H, 2W), as `nn.PixelShuffle(2)`, but channels_last stays channels_last on every device.

    PyTorch's CUDA kernel returns NCHW, which would cost a second copy of the largest tensors.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Move each group of four channels into a 2x2 block of pixels."""
        batch, channels, height, width = x.shape
        blocks = x.permute(0, 2, 3, 1).reshape(batch, height, width, channels // 4, 2, 2)
        pixels = blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2 * height, 2 * width, channels // 4)
        return pixels.permute(0, 3, 1, 2)


class SFTLayer(nn.Module):
    """Spatial feature transform: features * (scale + 1) + shift, both predicted per pixel from the condition."""

    def __init__(self, cond_nc: int, nf: int) -> None:
        super().__init__()
        self.SFT_scale_conv0 = _conv1x1(cond_nc, cond_nc)
        self.SFT_scale_conv1 = _conv1x1(cond_nc, nf)
        self.SFT_shift_conv0 = _conv1x1(cond_nc, cond_nc)
        self.SFT_shift_conv1 = _conv1x1(cond_nc, nf)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Modulate x (N, nf, H, W) by cond (N, cond_nc, H, W)."""
        scale = self.SFT_scale_conv1(functional.leaky_relu_(self.SFT_scale_conv0(cond), _LEAKY_SLOPE))
        shift = self.SFT_shift_conv1(functional.leaky_relu_(self.SFT_shift_conv0(cond), _LEAKY_SLOPE))
        # In place on the shift: no third tensor of this size; autograd needs only x and scale.
        modulated: Tensor = shift.add_(x).addcmul_(x, scale)
        return modulated


class SFTResidualBlock(nn.Module):
    """Two convolutions, each behind an SFT layer, plus the input."""

    def __init__(self, cond_nc: int, nf: int) -> None:
        super().__init__()
        self.sft1 = SFTLayer(cond_nc, nf)
        self.conv1 = _conv3x3(nf, nf)
        self.sft2 = SFTLayer(cond_nc, nf)
        self.conv2 = _conv3x3(nf, nf)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(N, nf, H, W) -> (N, nf, H, W)."""
        features = functional.relu_(self.conv1(self.sft1(x, cond)))
        residual: Tensor = self.conv2(self.sft2(features, cond))
        return residual.add_(x)


def _run_trunk(blocks: Iterable[nn.Module], x: Tensor, cond: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, cond)
    return x


class HDRUNet(nn.Module):
    """A U-Net with a per-pixel condition network, a learnt mask on the input and a predicted residual.

    Input (N, in_nc, H, W) float32 in [0, 1], gamma-encoded; H and W are multiples of 4 (the caller pads and crops).
    Output (N, out_nc, H, W) float32, gamma-encoded, unclamped. Widths follow `nf`; 64 is the published network, and
    the condition has nf channels with nf // 2 per SFT input.
    """

    # The layers that write the output: rounding them to 8 or 11 significant bits would band smooth gradients.
    FULL_PRECISION_LAYERS = frozenset({"conv_last", "mask_est.6"})

    def __init__(self, in_nc: int = 3, out_nc: int = 3, nf: int = 64) -> None:
        super().__init__()
        if nf < 2 or nf % 2:
            msg = f"nf must be even and at least 2, not {nf}"
            raise ValueError(msg)
        cond_nc = nf // 2
        self.conv_first = _conv3x3(in_nc, nf)
        self.SFT_layer1 = SFTLayer(cond_nc, nf)
        self.HR_conv1 = _conv3x3(nf, nf)
        self.down_conv1 = _conv3x3(nf, nf, stride=2)
        self.down_conv2 = _conv3x3(nf, nf, stride=2)
        self.recon_trunk1 = nn.ModuleList(SFTResidualBlock(cond_nc, nf) for _ in range(2))
        self.recon_trunk2 = nn.ModuleList(SFTResidualBlock(cond_nc, nf) for _ in range(8))
        self.recon_trunk3 = nn.ModuleList(SFTResidualBlock(cond_nc, nf) for _ in range(2))
        self.up_conv1 = nn.Sequential(_conv3x3(nf, 4 * nf), PixelShuffle2())
        self.up_conv2 = nn.Sequential(_conv3x3(nf, 4 * nf), PixelShuffle2())
        self.SFT_layer2 = SFTLayer(cond_nc, nf)
        self.HR_conv2 = _conv3x3(nf, nf)
        self.conv_last = _conv3x3(nf, out_nc)

        first = [_conv3x3(in_nc, nf), _leaky_relu(), _conv1x1(nf, nf), _leaky_relu(), _conv1x1(nf, nf), _leaky_relu()]
        self.cond_first = nn.Sequential(*first)
        self.CondNet1 = nn.Sequential(_conv1x1(nf, nf), _leaky_relu(), _conv1x1(nf, cond_nc))
        self.CondNet2 = nn.Sequential(_conv3x3(nf, nf, stride=2), _leaky_relu(), _conv1x1(nf, cond_nc))
        self.CondNet3 = nn.Sequential(_conv3x3(nf, nf, stride=2), _leaky_relu(), _conv3x3(nf, cond_nc, stride=2))
        self.mask_est = nn.Sequential(
            _conv3x3(in_nc, nf),
            nn.ReLU(inplace=True),
            _conv3x3(nf, nf),
            nn.ReLU(inplace=True),
            _conv1x1(nf, nf),
            nn.ReLU(inplace=True),
            _conv1x1(nf, out_nc),
        )

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the trunk; the layers that write the output are always float32."""
        return self.conv_first.weight.dtype

    def set_compute_dtype(self, dtype: torch.dtype) -> Self:
        """Run the trunk in `dtype` and leave `conv_last`, the last mask layer and `mask * x + y` in float32."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                module.to(torch.float32 if name in self.FULL_PRECISION_LAYERS else dtype)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Predict gamma-encoded HDR from gamma-encoded LDR; see the class for shapes and ranges."""
        encoded = x.to(self.compute_dtype)
        # The mask first: its wide features are gone before the trunk needs the memory.
        mask = self.mask_est[-1](self.mask_est[:-1](encoded).float())
        residual = self.conv_last(self._features(encoded).float())
        return torch.addcmul(residual, mask, x.float())

    def _features(self, x: Tensor) -> Tensor:
        cond = self.cond_first(x)
        cond1, cond2, cond3 = self.CondNet1(cond), self.CondNet2(cond), self.CondNet3(cond)
        del cond
        relu = functional.relu_
        full = relu(self.HR_conv1(self.SFT_layer1(relu(self.conv_first(x)), cond1)))
        half = _run_trunk(self.recon_trunk1, relu(self.down_conv1(full)), cond2)
        quarter = relu(self.down_conv2(half))
        y = _run_trunk(self.recon_trunk2, quarter, cond3) + quarter
        y = _run_trunk(self.recon_trunk3, relu(self.up_conv1(y)) + half, cond2)
        y = relu(self.up_conv2(y)) + full
        del full
        return relu(self.HR_conv2(self.SFT_layer2(y, cond1)))
