"""Make linear light storable: exposure, alpha, and what the format cannot hold, counted on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config import EncodeConfig

FloatArray = npt.NDArray[np.float32]
HdrArray = npt.NDArray[np.float16] | npt.NDArray[np.float32]
AlphaCodes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

HALF_MAX = 65504.0
# DWAA rings around hard edges and overflows to Inf from the top half stop; one stop of headroom prevents it.
DWAA_MAX = 32768.0

_BAND_PX = 2**18  # bounds temporaries to a few MB, near the size of a core's cache


@dataclass(frozen=True, slots=True)
class HdrImage:
    """Linear Rec.709, scene-referred, as stored.

    `pixels` is (H, W, 3), float16 or float32, RGB multiplied by alpha (associated). `alpha` is (H, W) in [0, 1] of
    the same dtype, or None. Both are C-contiguous: OpenEXR ignores strides. Raises ValueError otherwise.
    """

    pixels: HdrArray
    alpha: HdrArray | None = None

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"pixels must be (H, W, 3) with at least one pixel, not {pixels.shape}")
        if pixels.dtype not in (np.float16, np.float32):
            raise ValueError(f"pixels must be float16 or float32, not {pixels.dtype}")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ValueError(f"alpha must be {pixels.shape[:2]} {pixels.dtype}, not {alpha.shape} {alpha.dtype}")
        if not all(array.flags.c_contiguous for array in (pixels, alpha) if array is not None):
            raise ValueError("pixels and alpha must be C-contiguous")


@dataclass(frozen=True, slots=True)
class PreparedHdr:
    """An image ready to encode, and how many samples had to be changed: NaN, infinite, too large for the format."""

    image: HdrImage
    num_half_overflow: int
    num_nan: int
    num_inf: int


def prepare_hdr(linear: FloatArray, straight_alpha: AlphaCodes | None, options: EncodeConfig) -> PreparedHdr:
    """Make linear light storable: apply exposure and alpha, clamp what the format cannot hold, round to its type.

    `linear` is (H, W, 3) float32, C-contiguous, linear Rec.709; it is consumed: its values are overwritten, and with
    `pixel_type="float"` it becomes the result. `straight_alpha` is (H, W), uint8 or uint16, full scale opaque.

    Each sample becomes linear * 2**exposure_ev * alpha. NaN and negatives become 0; +Inf, and what exceeds the
    largest storable value, becomes that value: 65504 for half, float32's maximum for float, 32768 for DWAA, which
    needs headroom. Counted are NaN, infinite (of either sign), and finite samples that were too large.
    Works in bands: beyond `linear` and the result it holds a few MB. Raises ValueError on other shapes or dtypes.
    """
    if linear.dtype != np.float32 or linear.ndim != 3 or linear.shape[2] != 3 or not linear.flags.c_contiguous:
        raise ValueError(f"linear must be C-contiguous float32 (H, W, 3), not {linear.dtype} {linear.shape}")
    if straight_alpha is not None:
        _check_alpha(straight_alpha, linear.shape[:2])
    flat = linear.reshape(-1, 3)
    is_half = options.pixel_type == "half"
    stored: HdrArray = np.empty(flat.shape, np.float16) if is_half else flat
    codes = None if straight_alpha is None else straight_alpha.reshape(-1)
    stored_alpha: HdrArray | None = None if codes is None else np.empty(codes.shape, stored.dtype)
    gain = np.float32(2.0**options.exposure_ev)
    largest = np.float32(_largest_sample(options))
    counts = np.zeros(3, np.int64)
    for start in range(0, len(flat), _BAND_PX):
        band = slice(start, start + _BAND_PX)
        alpha = None
        if codes is not None and stored_alpha is not None:
            alpha = np.divide(codes[band], np.iinfo(codes.dtype).max, dtype=np.float32)
            stored_alpha[band] = alpha
        counts += _condition(flat[band], alpha, gain, largest)
        if is_half:
            stored[band] = flat[band]
    num_nan, num_inf, num_overflow = (int(count) for count in counts)
    image = HdrImage(
        pixels=stored.reshape(linear.shape),
        alpha=None if stored_alpha is None else stored_alpha.reshape(linear.shape[:2]),
    )
    return PreparedHdr(image=image, num_half_overflow=num_overflow, num_nan=num_nan, num_inf=num_inf)


def _check_alpha(codes: AlphaCodes, shape: tuple[int, ...]) -> None:
    if codes.shape != shape or codes.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"alpha must be uint8 or uint16 {shape}, not {codes.dtype} {codes.shape}")


def _largest_sample(options: EncodeConfig) -> float:
    if options.compression_name == "dwaa":
        return DWAA_MAX
    return HALF_MAX if options.pixel_type == "half" else float(np.finfo(np.float32).max)


def _condition(
    band: FloatArray, alpha: FloatArray | None, gain: np.float32, largest: np.float32
) -> tuple[int, int, int]:
    """Clean one band (N, 3) in place; return the numbers of NaN, infinite and overflowing samples."""
    num_nan = num_inf = 0
    infinite: npt.NDArray[np.bool_] | None = None
    lowest, highest = band.min(), band.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        missing = np.isnan(band)
        infinite = np.isinf(band)
        num_nan, num_inf = int(missing.sum()), int(infinite.sum())
        positive = infinite & (band > 0)
        band[missing | infinite] = 0
        infinite = positive if alpha is None else positive & (alpha > 0)[:, np.newaxis]
    with np.errstate(over="ignore"):  # float32 overflow is counted and clamped below
        if alpha is not None:
            band *= (alpha * gain)[:, np.newaxis]
        elif gain != 1:
            band *= gain
    num_overflow = int(np.count_nonzero(band > largest)) if band.max() > largest else 0
    np.clip(band, 0, largest, out=band)
    band += np.float32(0)  # -0.0 becomes 0.0, so that equal images have equal bytes
    if infinite is not None:
        band[infinite] = largest
    return num_nan, num_inf, num_overflow
