"""What a worker is believed to do before any was measured: what the first starts go by. Pure."""

from __future__ import annotations

# A current GPU, assumed, for none has been measured (docs/performance.md), and one CPU core.
_GPU_MEGAPIXELS_PER_S = 20.0
_CORE_MEGAPIXELS_PER_S = 0.3


def believed_megapixels_per_s(*, num_gpus: float, num_cpus: float) -> float:
    """MP/s of one worker with the default network that has `num_gpus` cards, a share of one or none, and cores."""
    return _GPU_MEGAPIXELS_PER_S * num_gpus or _CORE_MEGAPIXELS_PER_S * max(1.0, num_cpus)
