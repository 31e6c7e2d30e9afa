"""How far a run is, and which learning rate that means. No torch here."""

from __future__ import annotations

from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.training.config import TrainingConfig


def progress(config: TrainingConfig, step: int, elapsed_s: float) -> float:
    """Return the share of the run that is done, from 0 to 1: of the steps or of the time budget, whichever is more."""
    of_time = elapsed_s / config.time_budget_s if config.time_budget_s else 0.0
    return min(1.0, max(step / config.steps, of_time))


def learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    """Return the rate of the step after `step` finished ones, with the share `done` of the run behind it.

    Linear warm-up (Goyal et al., arXiv:1706.02677) times a half cosine (Loshchilov and Hutter, "SGDR",
    arXiv:1608.03983) that follows `done`, so that a run which its time budget ends has cooled down as well.
    """
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    low = config.final_learning_rate_share
    return config.learning_rate * warm * (low + (1 - low) * (1 + cos(pi * done)) / 2)


def average_decay(config: TrainingConfig, num_updates: int) -> float:
    """Return the decay of the weight average after `num_updates` updates.

    Early averages forget faster, by (1 + n) / (10 + n), so that a short run is not dominated by its first weights (the
    rule of TensorFlow's ExponentialMovingAverage).
    """
    return min(config.ema_decay, (1 + num_updates) / (10 + num_updates))
