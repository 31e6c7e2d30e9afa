"""Validation: the training loss of the averaged weights on held-out patches that never change."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.inference.precision import ConcretePrecision
from pipeline.models.hdrunet import HDRUNet
from pipeline.training.batches import Patch
from pipeline.training.loop import Validation
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import training_loss
from pipeline.training.precision import MixedPrecisionNetwork


class HeldOutLoss:
    """A Validator: loss and parts over the first `num_patches` of a dataset, made once and kept (7 bytes a sample)."""

    def __init__(
        self,
        dataset: Dataset[Patch],
        *,
        num_patches: int,
        batch_size: int,
        loss: LossConfig,
        device: torch.device,
        precision: ConcretePrecision,
    ) -> None:
        self._dataset, self._num_patches, self._batch_size = dataset, num_patches, batch_size
        self._loss, self._device, self._precision = loss, device, precision
        self._batches: list[Patch] = []

    @torch.no_grad()
    def __call__(self, network: HDRUNet) -> Validation:
        """Measure the network; the score is the loss."""
        model = MixedPrecisionNetwork(network, self._precision)
        sums: dict[str, float] = {}
        for ldr, truth in self._kept():
            ldr01 = ldr.to(self._device, torch.float32, memory_format=torch.channels_last) / 255
            output: Tensor = model(ldr01)
            loss, parts = training_loss(output, truth.to(self._device), ldr01, self._loss)
            for name, value in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(ldr)
        metrics = {name: value / self._num_patches for name, value in sums.items()}
        return Validation(metrics, score=metrics["loss"])

    def _kept(self) -> Iterator[Patch]:
        if not self._batches:
            numbers = range(self._num_patches)
            chunks = [list(numbers[at : at + self._batch_size]) for at in range(0, self._num_patches, self._batch_size)]
            self._batches = [(ldr, truth) for ldr, truth in DataLoader(self._dataset, batch_sampler=chunks)]
        yield from self._batches
