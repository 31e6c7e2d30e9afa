"""What a caller must know about HDRUNet to run it: sizes, domain, cost. No torch here.

Source: Chen, Liu, Zhang, Qiao, Dong, "HDRUNet: Single Image HDR Reconstruction with Denoising and Dequantization",
CVPR Workshops 2021 (arXiv:2105.13084).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelDescriptor:
    """The size rules, signal domain and cost of one architecture.

    `size_multiple_px`: height and width must be multiples of it; the caller pads and crops. `halo_px`: context that
    makes a tile on that grid equal the whole image. Input samples lie in [0, 1], gamma-encoded; output samples are
    gamma-encoded and unbounded, and `max(output, 0) ** decode_gamma` is linear, with 1.0 the input's clipping level.
    `num_parameters` and `macs_per_pixel` (multiply-accumulates per output pixel) are those of the published width.
    `released_git_blob` is the git blob id of the checkpoint that the authors published.
    """

    name: str
    width: int
    size_multiple_px: int
    halo_px: int
    decode_gamma: float
    num_parameters: int
    macs_per_pixel: int
    released_git_blob: str


# The halo: strides and convolutions reach 93 px beyond the edge of a 4-aligned tile; 96 is the next multiple of 4.
HDRUNET = ModelDescriptor(
    name="hdrunet",
    width=64,
    size_multiple_px=4,
    halo_px=96,
    decode_gamma=2.24,
    num_parameters=1_651_494,
    macs_per_pixel=355_136,
    released_git_blob="c3eebd40ba4341925a407b7dbac4b8051910a8bd",
)


def macs_per_pixel(width: int) -> int:
    """Multiply-accumulates per output pixel of an HDRUNet of `width` channels: 355,136 at the published 64.

    The sum over its convolutions of kernel x inputs x outputs x their share of the output's pixels, with a condition of
    width / 2 channels: 84.96875 width^2 + 111 width.
    """
    return round(84.96875 * width * width + 111 * width)
