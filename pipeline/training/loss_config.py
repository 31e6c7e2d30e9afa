"""The weights of the training loss's terms, and sets of them that have names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Weights of the loss's terms, none negative; Tanh_L1 has the weight 1, and by default nothing else has any.

    `log_weight` is the log term's, `clipped_weight` multiplies it where the input is clipped, `peak_weight` is the
    peak term's over blocks of `peak_block_px`. `area_weight` is that of the clipped area's mean absolute error of
    luminance in stops, by patch. `relative_weight` is that of ln(1 + MSE / floor^2) / 2 by patch, half of it in the
    domain of mu-PSNR and half in that of PU21-PSNR (docs/evaluation.md): in effect of the mean of both in dB.
    `huber_stops` rounds off the absolute value of the log terms below that many stops of linear light: larger values
    lean from the median of what is plausible towards its mean. `overshoot_weight` multiplies the errors of clipped
    pixels that came out too bright, in the log and area terms; 1 is symmetric. `hue_weight` is that of the colour of
    pixels with all channels clipped, by patch: the mean absolute error of log2(red / green) and log2(blue / green), in
    stops, plus `neutral_prior` times their size. With a prior p the best answer is the median of what is plausible
    after a share p / (1 + p) of it has been replaced by gray: white that nothing in the picture colours stays white.
    `gradient_weight` is that of how the error of luminance, in stops, differs between neighbours of which one at least
    is clipped, by patch (its total variation; compare the gradient difference loss of Mathieu et al., ICLR 2016):
    steps at the rim of a clipped area, or within, that the truth does not have. `fine_weight` is that of the mean
    absolute error over blocks of 8 x 8 px without clipped pixels, after the plane that fits it best was taken out of
    each block and channel: noise that is left and detail that is lost, but no error of tone. It is small, about 0.005.
    """

    log_weight: float = 0.0
    clipped_weight: float = 1.0
    peak_weight: float = 0.0
    peak_block_px: int = 8
    huber_stops: float = 0.0
    overshoot_weight: float = 1.0
    area_weight: float = 0.0
    relative_weight: float = 0.0
    gradient_weight: float = 0.0
    hue_weight: float = 0.0
    neutral_prior: float = 0.0
    fine_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "peak_block_px"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")
        if self.peak_block_px < 1:
            raise ConfigError(f"peak_block_px is {self.peak_block_px}; give 1 or more")


_BALANCED = LossConfig(log_weight=0.1, peak_weight=0.1, area_weight=0.25, relative_weight=0.15)
LOSS_PRESETS = {
    "paper": LossConfig(),
    "balanced": _BALANCED,
    "denoising": replace(
        _BALANCED,
        area_weight=0.4,
        relative_weight=1.0,
        overshoot_weight=1.5,
        hue_weight=0.1,
        neutral_prior=0.5,
        fine_weight=100.0,
    ),
}
"""The paper's loss, and those that the default weights' first and last stage had (docs/training.md)."""


HEEDED_BY = {
    "clipped_weight": ("log_weight",),
    "overshoot_weight": ("log_weight", "area_weight"),
    "huber_stops": ("log_weight", "peak_weight", "area_weight"),
    "peak_block_px": ("peak_weight",),
    "neutral_prior": ("hue_weight",),
}
"""Fields of LossConfig that change terms: which of these has to have a weight."""
