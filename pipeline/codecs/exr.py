"""HDR pixels to OpenEXR bytes and back, with nothing lost silently on the way.

`prepare_hdr` makes linear light storable, `encode_exr` writes it, `verify_exr` proves what was written. OpenEXR runs
single-threaded in the calling thread and releases the GIL: encode one image per thread.

OpenEXR writes its own remarks about damaged files to stderr, and for damage inside a chunk one line to stdout.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import OpenEXR

from pipeline.codecs.color import luminance
from pipeline.codecs.exr_header import (
    ExrProvenance,
    OutputIdentity,
    build_attributes,
    parse_identity,
    parse_provenance,
)
from pipeline.codecs.exr_prepare import HdrArray, HdrImage, PreparedHdr, prepare_hdr
from pipeline.config import EncodeConfig
from pipeline.errors import EncodeError, VerifyError

FloatArray = npt.NDArray[np.float32]

__all__ = [
    "DecodedExr",
    "ExrProvenance",
    "HdrArray",
    "HdrImage",
    "OutputIdentity",
    "PreparedHdr",
    "decode_exr",
    "encode_exr",
    "prepare_hdr",
    "read_exr_identity",
    "verify_exr",
]

_COMPRESSIONS = {
    "none": OpenEXR.NO_COMPRESSION,
    "zip": OpenEXR.ZIP_COMPRESSION,
    "piz": OpenEXR.PIZ_COMPRESSION,
    "dwaa": OpenEXR.DWAA_COMPRESSION,
    "htj2k256": OpenEXR.HTJ2K256_COMPRESSION,
}
_BAND_PX = 2**18  # bounds the temporaries of comparisons
_DECODER_BYTES = 32 * 2**20  # beside the pixels; more than the largest chunk of a file of ours
_MAX_PIXELS = 2**30  # a damaged header must not ask for all memory
# What OpenEXR's binding raises for bad data: C++ exceptions become RuntimeError or ValueError, others come from numpy.
_OPENEXR_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, OSError)


@dataclass(frozen=True, slots=True)
class DecodedExr:
    """A decoded EXR. `identity` and `provenance` are None where hdrfleet did not write the file."""

    image: HdrImage
    identity: OutputIdentity | None
    provenance: ExrProvenance | None
    header: Mapping[str, object]


def encode_exr(image: HdrImage, options: EncodeConfig, identity: OutputIdentity, provenance: ExrProvenance) -> bytes:
    """Return the image as one-part scanline EXR: R, G, B and, where there is alpha, A.

    Deterministic: equal arguments give equal bytes with the same OpenEXR. Raises EncodeError, and MemoryError as it is.
    """
    header = build_attributes(identity, provenance, keep_gps=options.keep_gps)
    header["type"] = OpenEXR.scanlineimage
    header["compression"] = _COMPRESSIONS[options.compression_name]
    if options.compression_name == "dwaa":
        header["dwaCompressionLevel"] = options.dwaa_level
    channels: dict[str, HdrArray] = {"RGB": image.pixels}
    if image.alpha is not None:
        channels["A"] = image.alpha
    stream = io.BytesIO()
    try:
        OpenEXR.File(header, channels, num_threads=0).write(stream)
    except _OPENEXR_ERRORS as error:
        raise EncodeError(f"OpenEXR cannot encode the image: {error}") from error
    return stream.getvalue()


def decode_exr(data: bytes, size: tuple[int, int] | None = None) -> DecodedExr:
    """Decode an EXR with half or float R, G, B and optionally A. Raises VerifyError for anything else.

    A truncated or damaged file, one with other channels, one with fewer pixels than its header promises, and one that
    is not of `size` (width, height) all raise. So does MemoryError, as it is: a damaged header asks for any amount, so
    that without `size`, which the header is held against first, it may be said of a damaged file, too. The result's
    arrays belong to the caller. Holds the pixels twice for a moment.
    """
    header = _read_header(data)
    if size is not None and (promised := _checked_shape(header)[::-1]) != size:
        raise VerifyError(f"the stored EXR is {promised[0]} x {promised[1]} pixels, not {size[0]} x {size[1]}")
    planes = _read_planes(data, header)
    image = HdrImage(pixels=_interleave(planes[:3]), alpha=planes[3] if len(planes) > 3 else None)
    return DecodedExr(image=image, identity=parse_identity(header), provenance=parse_provenance(header), header=header)


def read_exr_identity(data: bytes) -> OutputIdentity | None:
    """Read the identity from the header alone; None where hdrfleet did not write the file. Raises VerifyError.

    `data` may be cut short anywhere behind the chunk offset table.
    """
    return parse_identity(_read_header(data))


def verify_exr(data: bytes, image: HdrImage, options: EncodeConfig, identity: OutputIdentity) -> None:
    """Prove that `data` decodes to `image` and carries `identity`; raise VerifyError where it does not.

    Lossless compressions and alpha: every sample has the same bits. DWAA: every sample is finite, and every pixel's
    luma in DWAA's own domain (see `dwaa_luma_bound`) is within that bound. MemoryError, as it is, says nothing of them.
    """
    header = _read_header(data)
    if parse_identity(header) != identity:
        raise VerifyError("the stored EXR carries another identity")
    planes = _read_planes(data, header)
    expected: list[HdrArray] = [image.pixels[..., channel] for channel in range(3)]
    if image.alpha is not None:
        expected.append(image.alpha)
    described, wanted = ([(plane.shape, plane.dtype.name) for plane in found] for found in (planes, expected))
    if described != wanted:
        raise VerifyError(f"the stored EXR has channels {described}, not {wanted}")
    if options.is_lossy:
        _verify_lossy(planes[:3], expected[:3], dwaa_luma_bound(options.dwaa_level))
    lossless = slice(3, None) if options.is_lossy else slice(None)
    for name, plane, original in list(zip("RGBA", planes, expected, strict=False))[lossless]:
        if not _same_bits(plane, original):
            raise VerifyError(f"the stored {name} samples differ from the encoded ones")


def dwaa_luma_bound(level: float) -> float:
    """Return the largest error of luma that DWAA may make at a compression level, in DWAA's perceptual domain.

    The domain is f(x) = x**(1/2.2) up to 1 and 1 + ln(x)/2.2 above; luma is the Rec.709 sum of f(R), f(G), f(B). DWAA
    quantises each 8x8 DCT coefficient i of luma with an error of at most level / 100000 * q[i] / min(q), q being the
    JPEG luminance table (ITU-T T.81, table K.1), so one pixel errs by at most the sum of these times each basis
    function there: 44.5 * level / 100000. The remaining 0.01 covers rounding to half (0.0045 measured). An
    error e is a relative luminance error of exp(2.2 * e) - 1 above 1.0: 7 % in the worst pixel at level 45.
    """
    return 44.5 * level / 100_000 + 0.01


def _read_header(data: bytes) -> dict[str, object]:
    try:
        header: dict[str, object] = OpenEXR.File(io.BytesIO(data), header_only=True, num_threads=0).header()
    except _OPENEXR_ERRORS as error:
        raise VerifyError(f"the stored EXR does not decode: {error}") from error
    return header


def _read_planes(data: bytes, header: Mapping[str, object]) -> list[HdrArray]:
    """Return R, G, B and, if there, A, each (H, W).

    Read as planes, because OpenEXR would interleave alpha with the colours.
    """
    shape = _checked_shape(header)
    try:
        file = OpenEXR.File(io.BytesIO(data), separate_channels=True, num_threads=0)
        if not file.parts:  # the binding goes on without a part that it could not read, and does not say why
            raise ValueError("its pixels cannot be read")
        channels = file.channels()
        names = "RGBA" if "A" in channels else "RGB"
        planes: list[HdrArray] = [channels[name].pixels for name in names]
    except _OPENEXR_ERRORS as error:
        _require_memory(header, shape)
        raise VerifyError(f"the stored EXR does not decode: {error}") from error
    dtypes = {plane.dtype for plane in planes}
    if len(dtypes) > 1 or dtypes.isdisjoint((np.dtype(np.float16), np.dtype(np.float32))):
        raise VerifyError(f"the stored EXR holds {sorted(dtype.name for dtype in dtypes)}, not half or float alone")
    if any(plane.shape != shape for plane in planes):
        raise VerifyError(f"the stored EXR holds {planes[0].shape} samples, its header promises {shape}")
    return planes


def _require_memory(header: Mapping[str, object], shape: tuple[int, int]) -> None:
    """Raise MemoryError if there is none for what the header promises."""
    channels = header["channels"]
    num_channels = len(channels) if isinstance(channels, Sized) else 1
    np.empty((num_channels, *shape), np.float32)
    np.empty(_DECODER_BYTES, np.uint8)


def _checked_shape(header: Mapping[str, object]) -> tuple[int, int]:
    low, high = np.asarray(header["dataWindow"], np.int64)
    width, height = (int(extent) for extent in high - low + 1)
    if not 0 < width * height <= _MAX_PIXELS:
        raise VerifyError(f"the stored EXR's header promises {width} x {height} pixels")
    return height, width


def _interleave(planes: list[HdrArray]) -> HdrArray:
    pixels: HdrArray = np.empty((*planes[0].shape, len(planes)), planes[0].dtype)
    for channel, plane in enumerate(planes):
        pixels[..., channel] = plane
    return pixels


def _row_bands(plane: HdrArray) -> Iterator[slice]:
    rows = max(1, _BAND_PX // plane.shape[1])
    for start in range(0, plane.shape[0], rows):
        yield slice(start, start + rows)


def _same_bits(left: HdrArray, right: HdrArray) -> bool:
    """Compare by bits, so that NaN equals itself and 0.0 differs from -0.0."""
    bits = np.uint16 if left.dtype == np.float16 else np.uint32
    return all(np.array_equal(left[band].view(bits), right[band].view(bits)) for band in _row_bands(left))


def _verify_lossy(stored: list[HdrArray], encoded: list[HdrArray], bound: float) -> None:
    for band in _row_bands(encoded[0]):
        after, before = (_interleave([plane[band] for plane in planes]) for planes in (stored, encoded))
        if not np.isfinite(after).all():
            raise VerifyError("the stored pixels are not all finite")
        error = float(np.abs(_dwaa_luma(after) - _dwaa_luma(before)).max())
        if not error <= bound:
            raise VerifyError(f"the stored luma errs by {error:.3g}; DWAA at this level stays below {bound:.3g}")


def _dwaa_luma(pixels: HdrArray) -> FloatArray:
    linear = pixels.astype(np.float32)
    magnitude = np.abs(linear)  # DWAA can undershoot below zero; its curve is odd
    one, power = np.float32(1), np.float32(1 / 2.2)
    curve = np.minimum(magnitude, one) ** power + np.log(np.maximum(magnitude, one)) * power
    return luminance(np.copysign(curve, linear))
