"""Which device and which arithmetic to use when the user leaves it open. docs/adr/0004-precision.md has the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from pipeline.config import Precision
from pipeline.errors import ConfigError, DeviceLostError

ConcretePrecision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[ConcretePrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# Instructions that multiply bf16 natively: x86 AVX512_BF16 and AMX, and Arm's BF16 extension as Linux spells them.
# Without one, bf16 is emulated and slower than fp32.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bf16 natively; False where the system does not say."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        field, _, value = line.partition(":")
        if field.strip() in {"flags", "Features"}:
            return not _BF16_FLAGS.isdisjoint(value.split())
    return False


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there. Raises ConfigError where it is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise ConfigError(f"device {name}: {reason}; use --device cpu or auto")
    index = int(name.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device {name}: only {torch.cuda.device_count()} CUDA device(s) are visible, from cuda:0")
    return torch.device("cuda", index)


def require_gpu(name: str) -> None:
    """For a process that was given a GPU of its own: raise DeviceLostError where PyTorch sees none.

    `auto` would take the CPU there, for hours, and `cuda` would be called a bad option. Says nothing of a PyTorch
    without CUDA, nor where `name` is `cpu`.
    """
    if name != "cpu" and torch.version.cuda is not None and not torch.cuda.is_available():
        raise DeviceLostError("cuda: a GPU was given to this process, but none answers: its driver or the card is gone")


def resolve_precision(precision: Precision, device: torch.device) -> ConcretePrecision:
    """Turn `auto` into fp16 on CUDA, bf16 on a CPU that has it, else fp32. Raises ConfigError for fp16 on a CPU."""
    if precision == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if cpu_has_bf16() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on a CPU use fp32, bf16 or auto")
    return precision
