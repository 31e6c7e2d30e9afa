"""The training loss: the paper's Tanh_L1 in the gamma domain, and terms for what it cannot see.

tanh(y) is flat above y = 2: a lamp at twice the clipping level and a sun at a thousand times cost the same. The log
term gives each stop of error the same cost at any level; the peak term does so for the brightest point of each block
of a highlight, which a mean over pixels hardly notices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ConfigError

CLIPPED_LEVEL = 0.97
"""Encoded value, 0 to 1, from which a channel of the input is clipped: just under 250 / 255, for JPEG's ringing."""
_LOG_OFFSET = 0.05  # in the gamma domain: 0.0012 linear, about the noise floor of 8 bits; keeps black from dominating


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the loss's terms, none negative; Tanh_L1 has the weight 1.

    `log_weight` is the log term's, `clipped_weight` multiplies it where the input is clipped, `peak_weight` is the
    peak term's over blocks of `peak_block_px`. `huber_stops` rounds off the absolute value of the log terms below that
    many stops of linear light: larger values lean from the median of what is plausible towards its mean.
    `overshoot_weight` multiplies log errors of clipped pixels that came out too bright; 1 is symmetric.
    """

    log_weight: float = 0.25
    clipped_weight: float = 5.0
    peak_weight: float = 0.0
    peak_block_px: int = 8
    huber_stops: float = 0.0
    overshoot_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("log_weight", "clipped_weight", "peak_weight", "huber_stops", "overshoot_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")
        if self.peak_block_px < 1:
            raise ConfigError(f"peak_block_px is {self.peak_block_px}; give 1 or more")


def tanh_l1(output: Tensor, truth: Tensor) -> Tensor:
    """Mean |tanh(output) - tanh(truth)| of gamma-domain values (Chen et al., HDRUNet, CVPRW 2021: Tanh_L1)."""
    return (torch.tanh(output) - torch.tanh(truth)).abs().mean()


def training_loss(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, a scalar, and its unweighted terms by name, detached.

    All three are (N, 3, H, W) float: network output and truth in the gamma domain, the input in [0, 1].
    """
    reference = tanh_l1(output, truth)
    total, parts = reference, {"tanh_l1": reference.detach()}
    clipped = (ldr.amax(dim=1, keepdim=True) >= CLIPPED_LEVEL).to(output.dtype)
    if config.log_weight:
        error = _stops(output) - _stops(truth)
        weight = 1 + clipped * (config.clipped_weight - 1)
        if config.overshoot_weight != 1:
            weight = weight * (1 + clipped * (error > 0) * (config.overshoot_weight - 1))
        log_l1 = (_absolute(error, config.huber_stops) * weight).mean()
        total, parts["log"] = total + config.log_weight * log_l1, log_l1.detach()
    if config.peak_weight:
        peak = _peak_error(output, truth, clipped, config)
        total, parts["peak"] = total + config.peak_weight * peak, peak.detach()
    return total, parts


def _peak_error(output: Tensor, truth: Tensor, clipped: Tensor, config: LossConfig) -> Tensor:
    """Mean absolute error, in stops, between the brightest samples of each block that holds a clipped pixel."""
    brightest = [_block_maximum(_stops(image).amax(dim=1, keepdim=True), config) for image in (output, truth)]
    is_highlight = _block_maximum(clipped, config)
    error = _absolute(brightest[0] - brightest[1], config.huber_stops) * is_highlight
    return error.sum() / is_highlight.sum().clamp_min(1)


def _block_maximum(plane: Tensor, config: LossConfig) -> Tensor:
    # Ceiling mode: blocks at the right and lower edge may be smaller, but no pixel is left out.
    return functional.max_pool2d(plane, config.peak_block_px, ceil_mode=True)


def _stops(encoded: Tensor) -> Tensor:
    """Gamma-domain values as stops of linear light, offset so that 0 is finite."""
    return 2.24 * torch.log2(encoded.clamp_min(0) + _LOG_OFFSET)


def _absolute(error: Tensor, huber_stops: float) -> Tensor:
    if not huber_stops:
        return error.abs()
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber_stops) / huber_stops
