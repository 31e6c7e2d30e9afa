"""What a failure inside PyTorch means: too little memory, a lost device, or a fault of this one image."""

from __future__ import annotations

from enum import Enum, auto

import torch


class Fault(Enum):
    """Decides what the engine does next: halve the tile, stop the job, or fail the image."""

    OUT_OF_MEMORY = auto()
    DEVICE_LOST = auto()
    OTHER = auto()


# PyTorch has no class for these: the CPU allocator, and libraries that fail to get a workspace on the card.
_MEMORY_TEXTS = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "status_alloc_failed",
    "unable to find an engine to execute this computation",
)
_DEVICE_TEXTS = (
    "cuda error",
    "cudnn error",
    "cudnn_status_",
    "cublas_status_",
    "device-side assert",
    "unspecified launch failure",
    "illegal memory access",
    "nvml",
    "no cuda gpus are available",
    "driver shutting down",
)
# Newer than the oldest PyTorch that is supported.
_ACCELERATOR_ERROR: type[BaseException] | None = getattr(torch, "AcceleratorError", None)


def classify(error: BaseException) -> Fault:
    """Classify an exception that PyTorch raised while the network ran."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return Fault.OUT_OF_MEMORY
    text = str(error).lower()
    if any(known in text for known in _MEMORY_TEXTS):
        return Fault.OUT_OF_MEMORY
    if _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR):
        return Fault.DEVICE_LOST
    return Fault.DEVICE_LOST if any(known in text for known in _DEVICE_TEXTS) else Fault.OTHER
