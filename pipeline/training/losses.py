"""The training loss: the paper's Tanh_L1 in the gamma domain, and terms for what it cannot see.

tanh(y) is flat above y = 2: a lamp at twice the clipping level and a sun at a thousand times cost the same. The log
term gives each stop of error the same cost at any level; the peak term does so for the brightest point of each block
of a highlight, which a mean over pixels hardly notices. The area term gives every patch's highlights the same say,
however small, and the relative term every patch: what nobody can know, such as the exact response curve of a camera,
would else drown what can be learnt. The hue term keeps white paper white: lights are mostly warm, and the median of
what a white pixel may have been, channel by channel, is a faint pink. The fine term is what teaches denoising: the
others are about tones, whose errors are ten times those of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.codecs.color import GAMMA, REC709_LUMINANCE
from pipeline.evaluation.psnr import MU
from pipeline.evaluation.pu21 import CLIPPING_NITS, MAX_NITS, MIN_NITS, PU21_PARAMETERS
from pipeline.training.fine_error import fine_error
from pipeline.training.loss_config import LossConfig

CLIPPED_LEVEL = 0.97
"""Encoded value, 0 to 1, from which a channel of the input is clipped: just under 250 / 255, for JPEG's ringing."""
_LOG_OFFSET = 0.05  # in the gamma domain: 0.0012 linear, about the noise floor of 8 bits; keeps black from dominating
_LARGEST = 65504 ** (1 / GAMMA)
# RMS errors below these are no longer worth having: 50 dB of mu-PSNR, 48 dB of PU21-PSNR.
_MU_LAW_FLOOR, _PU21_FLOOR = 0.003, 1.0
_MIN_WHITE = 1e-4
_LUMINANCE_FLOOR = 2.0**-10


def tanh_l1(output: Tensor, truth: Tensor) -> Tensor:
    """Mean |tanh(output) - tanh(truth)| of gamma-domain values (Chen et al., HDRUNet, CVPRW 2021: Tanh_L1)."""
    return (torch.tanh(output) - torch.tanh(truth)).abs().mean()


def at_least_one(counts: Tensor) -> Tensor:
    """Return what sums are divided by where one process has the whole batch."""
    return counts.clamp_min(1)


def training_loss(
    output: Tensor,
    truth: Tensor,
    ldr: Tensor,
    config: LossConfig,
    share_counts: Callable[[Tensor], Tensor] = at_least_one,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, a scalar, and its unweighted terms by name, detached.

    All three are (N, 3, H, W) float: network output and truth in the gamma domain, the input in [0, 1]. The peak, area,
    gradient, hue and fine terms are means over what not every worker has equally many of. `share_counts` takes these
    numbers, int64, of which `config` alone decides how many there are, and returns what to divide by: where workers
    share a batch, such that the mean over the workers is the whole batch's term (`Peers.share_counts`).
    """
    total = tanh_l1(output, truth)
    parts = {"tanh_l1": total.detach()}
    clipped = (ldr.amax(dim=1, keepdim=True) >= CLIPPED_LEVEL).to(output.dtype)
    terms: dict[str, Tensor] = {}
    if config.log_weight:
        terms["log"] = _log_error(output, truth, clipped, config)
    if config.relative_weight:
        terms["relative"] = _relative_error(output, truth)
    counted: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "peak": lambda: _peak_error(output, truth, clipped, config),
        "area": lambda: _area_error(output, truth, clipped, config),
        "gradient": lambda: _gradient_error(output, truth, clipped),
        "hue": lambda: _hue_error(output, truth, ldr, config.neutral_prior),
        "fine": lambda: fine_error(output, truth, clipped),
    }
    counts: dict[str, Tensor] = {}
    for name, term in counted.items():
        if getattr(config, f"{name}_weight"):
            terms[name], counts[name] = term()
    if counts:
        for name, count in zip(counts, share_counts(torch.stack(list(counts.values()))), strict=True):
            terms[name] = terms[name] / count
    for name, value in terms.items():
        total = total + getattr(config, f"{name}_weight") * value
        parts[name] = value.detach()
    return total, parts


def _log_error(output: Tensor, truth: Tensor, clipped: Tensor, config: LossConfig) -> Tensor:
    """Mean absolute error in stops of all samples, weighted where the input is clipped."""
    error = _stops(output) - _stops(truth)
    weight = 1 + clipped * (config.clipped_weight - 1)
    if config.overshoot_weight != 1:
        weight = weight * (1 + clipped * (error > 0) * (config.overshoot_weight - 1))
    return (_absolute(error, config.huber_stops) * weight).mean()


def _area_error(output: Tensor, truth: Tensor, clipped: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Sum over patches with clipped pixels of the mean absolute error of luminance there, in stops; their number."""
    error = _luminance_stops(output) - _luminance_stops(truth)
    weight = clipped * (1 + (error > 0) * (config.overshoot_weight - 1))
    error = _absolute(error, config.huber_stops) * weight
    num_clipped = clipped.sum(dim=(1, 2, 3))
    by_patch = error.sum(dim=(1, 2, 3)) / num_clipped.clamp_min(1)
    return by_patch.sum(), (num_clipped > 0).sum()


def _gradient_error(output: Tensor, truth: Tensor, clipped: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over patches of the mean absolute difference of the error between neighbours, in stops; how many have any.

    Neighbours are pixels side by side or one above the other, of which one at least is clipped.
    """
    error = _luminance_stops(output) - _luminance_stops(truth)
    total, num_pairs = torch.zeros_like(error[:, 0, 0, 0]), torch.zeros_like(error[:, 0, 0, 0])
    for axis in (2, 3):
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        counted = torch.maximum(clipped[low], clipped[high])
        total = total + ((error[high] - error[low]).abs() * counted).sum(dim=(1, 2, 3))
        num_pairs = num_pairs + counted.sum(dim=(1, 2, 3))
    return (total / num_pairs.clamp_min(1)).sum(), (num_pairs > 0).sum()


def _relative_error(output: Tensor, truth: Tensor) -> Tensor:
    """Mean over patches of ln(1 + MSE / floor^2) / 2, in the domains of mu-PSNR and of PU21-PSNR in equal parts."""
    bright, true = _linear(output), _linear(truth)
    # The 99th percentile of a black patch is 0; there the floor of the error decides.
    white = torch.quantile(true.flatten(1), 0.99, dim=1).clamp_min(_MIN_WHITE).reshape(-1, 1, 1, 1)
    errors = (
        (_mu_law(bright, white) - _mu_law(true, white)) / _MU_LAW_FLOOR,
        (_pu21(bright) - _pu21(true)) / _PU21_FLOOR,
    )
    by_patch = [torch.log1p(error.square().mean(dim=(1, 2, 3))) / 2 for error in errors]
    return torch.stack(by_patch).mean()


def _hue_error(output: Tensor, truth: Tensor, ldr: Tensor, neutral_prior: float) -> tuple[Tensor, Tensor]:
    """Sum over patches with white pixels of their error of colour, in stops, with a pull to gray; their number."""
    white = (ldr.amin(dim=1, keepdim=True) >= CLIPPED_LEVEL).to(output.dtype)
    colour, true = (image[:, 0::2] - image[:, 1:2] for image in (_stops(output), _stops(truth)))
    error = ((colour - true).abs() + neutral_prior * colour.abs()).mean(dim=1, keepdim=True) * white
    num_white = white.sum(dim=(1, 2, 3))
    return (error.sum(dim=(1, 2, 3)) / num_white.clamp_min(1)).sum(), (num_white > 0).sum()


def _mu_law(linear: Tensor, white: Tensor) -> Tensor:
    return torch.log1p(MU * torch.tanh(linear / white)) / math.log1p(MU)


def _pu21(linear: Tensor) -> Tensor:
    p1, p2, p3, p4, p5, p6, p7 = PU21_PARAMETERS
    power = (linear * CLIPPING_NITS).clamp(MIN_NITS, MAX_NITS) ** p4
    return p7 * (((p1 + p2 * power) / (1 + p3 * power)) ** p5 - p6)


def _linear(encoded: Tensor) -> Tensor:
    # Bounded by what a half-float holds, so that a wild output has a finite square.
    return encoded.clamp(0, _LARGEST) ** GAMMA


def _luminance_stops(encoded: Tensor) -> Tensor:
    """(N, 3, H, W) in the gamma domain to log2 of linear luminance, (N, 1, H, W), offset as `_stops` is."""
    linear = _linear(encoded)
    weights = torch.tensor(REC709_LUMINANCE, dtype=linear.dtype, device=linear.device).reshape(1, 3, 1, 1)
    return torch.log2((linear * weights).sum(dim=1, keepdim=True) + _LUMINANCE_FLOOR)


def _peak_error(output: Tensor, truth: Tensor, clipped: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Sum of absolute errors, in stops, of the brightest sample of each block with a clipped pixel; their number."""
    brightest = [_block_maximum(_stops(image).amax(dim=1, keepdim=True), config) for image in (output, truth)]
    is_highlight = _block_maximum(clipped, config)
    error = _absolute(brightest[0] - brightest[1], config.huber_stops) * is_highlight
    return error.sum(), (is_highlight > 0).sum()


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
