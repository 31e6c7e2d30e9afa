"""Where training starts: the network as an exact sRGB decode, with everything else still to be learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.codecs.color import GAMMA
from pipeline.models.hdrunet import HDRUNet

_RESIDUAL_SCALE = 0.1
_FIT_STEPS = 1500
_FIT_BATCH = 128
_FIT_PX = 8
_FIT_RATE = 3e-3


def initialise_hidden_layers(network: HDRUNet) -> None:
    """Draw the hidden layers so that features keep the scale of the input through all of the depth.

    PyTorch's default lets the picture fade with depth and adds random biases: in front of the output layer features
    then vary over a picture by 0.03, with the values here by 0.13 (width 32). Weights are normal with He's variance
    (He et al., ICCV
    2015) and biases 0; the modulation of each SFT layer starts at 0, and each residual block at a tenth, near their
    identity (Wang et al., ESRGAN, ECCVW 2018). The features of the output layer are a tenth as well, or its first
    steps would shake the picture.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
        if name.endswith(("SFT_scale_conv1", "SFT_shift_conv1")):
            nn.init.zeros_(module.weight)
        elif name == "HR_conv2" or (name.startswith("recon_trunk") and name.endswith(".conv2")):
            module.weight.data.mul_(_RESIDUAL_SCALE)


def start_as_identity(network: HDRUNet) -> None:
    """Set the output to 1 * input + 0: a 2.24 decode. The hidden layers keep their random weights, so all learn."""
    with torch.no_grad():
        for layer in (network.mask_est[-1], network.conv_last):
            assert isinstance(layer, nn.Conv2d)
            layer.weight.zero_()
            assert layer.bias is not None
            layer.bias.fill_(1.0 if layer is network.mask_est[-1] else 0.0)


def start_as_srgb(network: HDRUNet, seed: int, num_steps: int = _FIT_STEPS) -> float:
    """Fit the weighting network alone so that mask * input is the sRGB decode in the gamma domain; return the error.

    Most cameras encode with something close to sRGB (IEC 61966-2-1), so the fit saves the first thousand training
    steps at the price of a minute on two CPU cores. The residual stays 0. The error is the mean absolute difference
    from the exact decode in the gamma domain, over random colours with noise. `network` is float32 on the CPU, and is
    left without gradients.
    """
    start_as_identity(network)
    generator = torch.Generator().manual_seed(seed)
    last = network.mask_est[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.normal_(last.weight, std=0.01, generator=generator)
    optimiser = torch.optim.Adam(network.mask_est.parameters(), _FIT_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    error = torch.inf
    for _ in range(num_steps):
        colours = _random_colours(generator)
        optimiser.zero_grad()
        difference = (network.mask_est(colours) * colours - _srgb_in_gamma_domain(colours)).abs().mean()
        difference.backward()
        optimiser.step()
        schedule.step()
        error = float(difference.detach())
    optimiser.zero_grad()  # or the first step of training would add its gradient to the last one of the fit
    return error


def _random_colours(generator: torch.Generator) -> Tensor:
    """Small flat pictures with some noise, (N, 3, H, W); mostly dark, because the curve bends most there."""
    flat = torch.rand((_FIT_BATCH, 3, 1, 1), generator=generator)
    gray = torch.rand((_FIT_BATCH, 1, 1, 1), generator=generator)
    saturation = torch.rand((_FIT_BATCH, 1, 1, 1), generator=generator)
    noise = 0.02 * torch.randn((_FIT_BATCH, 3, _FIT_PX, _FIT_PX), generator=generator)
    return ((saturation * flat + (1 - saturation) * gray) ** 1.5 + noise).clamp(0, 1)


def _srgb_in_gamma_domain(encoded: Tensor) -> Tensor:
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    return linear ** (1 / GAMMA)
