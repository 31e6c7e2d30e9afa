"""The moving average of the weights, which is what a run exports."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.models.hdrunet import HDRUNet


class WeightAverage:
    """An exponential moving average of a network's weights (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992).

    `network` is a copy in evaluation mode that holds the averages, always float32.
    """

    def __init__(self, network: HDRUNet) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.num_updates = 0

    @torch.no_grad()
    def update(self, network: HDRUNet, decay: float) -> None:
        """Move every average by 1 - decay towards the network's weights."""
        averages, weights = list(self.network.parameters()), list(network.parameters())
        get_ema_multi_avg_fn(decay)(averages, weights, self.num_updates)  # type: ignore[no-untyped-call]
        self.num_updates += 1
