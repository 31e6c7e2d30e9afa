"""How much memory a training run will take, estimated from its configuration before it starts. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.training.config import TrainingConfig

# Live tensors that the backward pass waits for, per pixel of a patch and feature of the network, in float32 and with a
# 16-bit trunk: counted by tests/unit/training/test_training_memory.py.
ACTIVATION_BYTES = {"fp32": 129, "bf16": 74, "fp16": 74}
# What one step grew by over that, at most: 1.9 times at width 64, 1.3 at width 32, two or four patches of 128 px on a
# CPU in either precision (libraries' workspaces and gradients of activations). No GPU has been measured.
_OVERHEAD = 2.0
_PARAMETER_BYTES = 20  # float32: weight, gradient, two moments of Adam, average
_SCENE_BYTES, _PHOTOGRAPH_BYTES, _POOL_BYTES = 12, 15, 9  # per pixel
_KEPT_PHOTOGRAPHS = 64


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes of one worker, beside what Python and PyTorch take: `network_bytes` and `pool_bytes` on its device.

    `scene_bytes` are the scenes, float32; `photograph_bytes` what the processes that prepare patches keep.
    """

    network_bytes: int
    pool_bytes: int
    scene_bytes: int
    photograph_bytes: int

    @property
    def device_bytes(self) -> int:
        """What lies on the device that trains."""
        return self.network_bytes + self.pool_bytes

    @property
    def host_bytes(self) -> int:
        """What lies in the host's memory in any case."""
        return self.scene_bytes + self.photograph_bytes


def estimate_memory(
    config: TrainingConfig,
    *,
    precision: str,
    num_parameters: int,
    num_patches: int,
    num_scene_px: int,
    num_data_processes: int,
) -> TrainingMemory:
    """Estimate what one worker takes.

    `precision` is fp32, bf16 or fp16; `num_patches` is the worker's share of a batch, `num_scene_px` the pixels of all
    scenes. `num_data_processes` prepare patches, 0 for the worker itself; each keeps the photographs it crops.
    """
    activations = ACTIVATION_BYTES[precision] * config.width * num_patches * config.patch_px**2
    view_px = (config.view_px or config.patch_px) ** 2
    num_kept = _KEPT_PHOTOGRAPHS if config.crops_per_view > 1 else 1
    processes = max(1, num_data_processes)
    return TrainingMemory(
        network_bytes=round(_OVERHEAD * activations) + _PARAMETER_BYTES * num_parameters,
        pool_bytes=_POOL_BYTES * config.pool_views * view_px,
        scene_bytes=_SCENE_BYTES * num_scene_px,
        photograph_bytes=0 if config.pool_views else _PHOTOGRAPH_BYTES * view_px * num_kept * processes,
    )
