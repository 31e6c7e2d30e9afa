"""One network that learns: its optimiser, its average, and what one step does to them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.inference.precision import ConcretePrecision
from pipeline.models.hdrunet import HDRUNet
from pipeline.training import schedule
from pipeline.training.average import WeightAverage
from pipeline.training.batches import Patch
from pipeline.training.config import TrainingConfig
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import training_loss
from pipeline.training.peers import Peers
from pipeline.training.precision import MixedPrecisionNetwork

LossFunction = Callable[[Tensor, Tensor, Tensor, LossConfig], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """Means over all workers. A step whose loss or gradient is not finite is skipped: the weights stay as they were."""

    loss: float
    grad_norm: float
    parts: dict[str, float]
    is_skipped: bool


class Learner:
    """Takes a network over and moves it to the device. With several peers, gradients are averaged over them (DDP)."""

    def __init__(
        self,
        config: TrainingConfig,
        network: HDRUNet,
        *,
        device: torch.device,
        precision: ConcretePrecision,
        peers: Peers,
        loss: LossFunction | None = None,
    ) -> None:
        self._config, self._device, self._peers = config, device, peers
        self._loss = loss or functools.partial(training_loss, share_counts=peers.share_counts)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # patches have one size: the fastest kernel is worth the search
        self._network = network.to(device).train().requires_grad_(True)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._average = WeightAverage(self._network)
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._model: nn.Module = MixedPrecisionNetwork(self._network, precision)
        if config.compile:
            self._model.compile()
        if peers.share.world_size > 1:
            self._model = DistributedDataParallel(self._model)

    @property
    def averaged_network(self) -> HDRUNet:
        """The network with averaged weights, in evaluation mode, on the training device."""
        return self._average.network

    def learn(self, batch: Patch, learning_rate: float) -> StepResult:
        """Take one step with this worker's share of a batch."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        loss, parts = self._compute_loss(batch)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._config.grad_clip_norm)
        # One transfer from the device a step; gradients, and so their norm, are the same on every worker.
        values = self._peers.mean(torch.stack([loss.detach(), norm, *parts.values()]).float())
        is_skipped = not (math.isfinite(values[0]) and math.isfinite(values[1]))
        if not is_skipped:
            self._scaler.step(self._optimiser)
            self._average.update(self._network, schedule.average_decay(self._config, self._average.num_updates))
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        return StepResult(values[0], values[1], dict(zip(parts, values[2:], strict=True)), is_skipped)

    def _compute_loss(self, batch: Patch) -> tuple[Tensor, dict[str, Tensor]]:
        ldr, truth = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        ldr01 = ldr.to(torch.float32, memory_format=torch.channels_last) / 255
        truth = truth.to(torch.float32, memory_format=torch.channels_last)
        return self._loss(self._model(ldr01), truth, ldr01, self._config.loss)

    def state(self) -> dict[str, Any]:
        """What `restore` takes: the fields of TrainingState that belong to the learner."""
        return {
            "network": self._network.state_dict(),
            "average": self._average.network.state_dict(),
            "num_updates": self._average.num_updates,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "random_state": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` returned, on whatever device that was."""
        self._network.load_state_dict(state["network"])
        self._average.network.load_state_dict(state["average"])
        self._average.num_updates = state["num_updates"]
        # The state may come from another kind of device, whose kernels keep the step counters elsewhere.
        groups = [{**group, "fused": self._device.type == "cuda"} for group in state["optimiser"]["param_groups"]]
        self._optimiser.load_state_dict({**state["optimiser"], "param_groups": groups})
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random_state"])
