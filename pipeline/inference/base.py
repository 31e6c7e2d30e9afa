"""What the rest of the pipeline sees of inference. No torch here, so that a driver can import it cheaply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records import InferenceInfo

LdrPixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Inference:
    """One converted image.

    `linear` is (H, W, 3) float32, C-contiguous, linear Rec.709 with 1.0 the input's clipping level:
    `max(output, 0) ** 2.24` of the network's gamma-encoded output. NaN and Inf are kept, for the encoder to count.
    `num_positive_inf` are the samples that were infinite before the power; it makes others so.
    """

    linear: NDArray[np.float32]
    info: InferenceInfo
    num_positive_inf: int = 0


class Engine(Protocol):
    """Turns LDR pixels into linear HDR pixels. `device` and `precision` are what is in use, never `auto`."""

    @property
    def device(self) -> str:
        """For example `cpu` or `cuda:0`."""
        ...

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        ...

    def infer(self, pixels: LdrPixels) -> Inference:
        """Convert (H, W, 3) uint8 or uint16 gamma-encoded RGB, full scale = 1.0, of any size from 1x1.

        Raises InferenceError when this image cannot be converted although the device is sound, DeviceLostError when
        the device is gone, MemoryError where the machine or the device has not the memory, ValueError for an array of
        another shape or dtype.
        """
        ...
