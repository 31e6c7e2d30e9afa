"""The fine part of an error: what noise and lost detail leave, without errors of tone.

Where a camera's response curve is not known nobody can know the mid-tones, and their errors are ten times those of
noise: in a mean over pixels noise hardly counts. But they are smooth, and a plane over a few pixels takes them away.
`flat_noise_left` (pipeline/evaluation/detail.py) measures noise in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

FINE_BLOCK_PX = 8
"""The side of the blocks that planes are fitted to."""


def fine_error(output: Tensor, truth: Tensor, clipped: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over blocks without clipped pixels of their mean absolute error beside a plane; how many blocks that are.

    `output` and `truth` are (N, 3, H, W) float in the gamma domain, `clipped` is (N, 1, H, W), 1 where the input is
    clipped and else 0. From each block of 8 x 8 px and channel of the error the plane that fits it best is taken out
    (least squares). Both results are scalars, the number int64; 0 and 0 where there is no such block.
    """
    blocks = _blocks(output - truth)
    planes = _plane_basis(blocks)
    fine = (blocks - (blocks @ planes) @ planes.T).abs().mean(dim=(1, 3))
    exposed = 1 - _blocks(clipped).amax(dim=(1, 3))
    return (fine * exposed).sum(), exposed.sum().to(torch.int64)


def _blocks(images: Tensor) -> Tensor:
    """Cut (N, C, H, W) into whole blocks of 8 x 8, (N, C, blocks, 64); what fills none is left out."""
    number, channels, height, width = images.shape
    rows, columns = height // FINE_BLOCK_PX, width // FINE_BLOCK_PX
    whole = images[:, :, : rows * FINE_BLOCK_PX, : columns * FINE_BLOCK_PX]
    parts = whole.reshape(number, channels, rows, FINE_BLOCK_PX, columns, FINE_BLOCK_PX).transpose(3, 4)
    return parts.reshape(number, channels, rows * columns, FINE_BLOCK_PX**2)


def _plane_basis(like: Tensor) -> Tensor:
    """Orthonormal columns, (64, 3), that span the planes over a block: constant, down, across."""
    ramp = torch.arange(FINE_BLOCK_PX, dtype=like.dtype, device=like.device) - (FINE_BLOCK_PX - 1) / 2
    ramp = ramp / (ramp.norm() * FINE_BLOCK_PX**0.5)
    down, across = ramp.repeat_interleave(FINE_BLOCK_PX), ramp.repeat(FINE_BLOCK_PX)
    return torch.stack([torch.full_like(down, 1 / FINE_BLOCK_PX), down, across], dim=1)
