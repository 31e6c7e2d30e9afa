"""Mixed precision in training: which arithmetic to use, and a forward pass that keeps the output stage in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.config import Precision
from pipeline.inference.precision import DTYPES, ConcretePrecision, resolve_precision
from pipeline.models.hdrunet import HDRUNet


def resolve_training_precision(precision: Precision, device: torch.device) -> ConcretePrecision:
    """Turn `auto` into bf16 where the device multiplies it natively, else fp16 on CUDA and fp32 on a CPU.

    bf16 before fp16, unlike inference: gradients need range more than digits, and no loss scaling. Raises ConfigError
    for fp16 on a CPU.
    """
    if precision == "auto" and device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return resolve_precision(precision, device)


class MixedPrecisionNetwork(nn.Module):
    """HDRUNet with float32 weights and a trunk in the given precision (Micikevicius et al., arXiv:1710.03740).

    As in inference, `conv_last`, the last layer of the mask and `mask * x + residual` stay in float32: 8 or 11
    significant bits would put steps into the output that the loss then sees.
    """

    def __init__(self, network: HDRUNet, precision: ConcretePrecision) -> None:
        super().__init__()
        self.network = network
        self._dtype = DTYPES[precision]

    def forward(self, x: Tensor) -> Tensor:
        """Float32 (N, 3, H, W) in [0, 1] to float32 (N, 3, H, W); in fp32 exactly what HDRUNet computes."""
        network = self.network
        with torch.autocast(x.device.type, self._dtype, enabled=self._dtype is not torch.float32):
            mask = network.mask_est[:-1](x)
            features = network._features(x)
        return torch.addcmul(network.conv_last(features.float()), network.mask_est[-1](mask.float()), x)
