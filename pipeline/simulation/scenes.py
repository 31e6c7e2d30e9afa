"""HDR scenes from files: OpenEXR and Radiance, photographs and equirectangular panoramas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import REC709_CHROMATICITIES, luminance
from pipeline.codecs.exr import decode_exr
from pipeline.errors import ImageError, SceneError

FloatArray = npt.NDArray[np.float32]

HDR_EXTENSIONS = frozenset({".exr", ".hdr", ".pic"})
_MIN_SIDE_PX = 64
_MIN_RANGE_STOPS = 6.0  # 8-bit codes decoded by sRGB span about 11.7 stops from code 1, but in 255 distinct values
_MAX_LDR_VALUES = 256
# A picture that was clipped has a plateau at its maximum, which resampling and a colour matrix leave there and which
# distinct values and stops do not show. A sun or lamp has a single brightest point.
_PLATEAU = 0.998
_MAX_PLATEAU_SHARE = 0.005
_PANORAMA_ASPECT = 2.0
_ASPECT_TOLERANCE = 0.01
_PRIMARIES_TOLERANCE = 0.005  # of CIE xy: roundings of D65 pass, the primaries of other spaces do not
_MAX_SAMPLE = 1e30  # sums of more are no longer finite in float32
_MAX_RADIANCE_HEADER_BYTES = 65536


@dataclass(frozen=True, slots=True)
class HdrScene:
    """One scene. `pixels` is float32 (H, W, 3), linear Rec.709, finite and not negative, in arbitrary units.

    A panorama is equirectangular: columns are longitude over 360 degrees, rows latitude from the zenith to the nadir.
    """

    name: str
    pixels: FloatArray
    is_panorama: bool


def find_scenes(folder: Path) -> dict[str, Path]:
    """Return the HDR files under `folder` by their path without extension, sorted by path.

    Raises SceneError where there is no such folder or file, or two files of one name, such as a.exr and a.hdr.
    """
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder; give a folder of OpenEXR or Radiance files")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in HDR_EXTENSIONS and path.is_file())
    if not found:
        raise SceneError(f"{folder}: no OpenEXR or Radiance files (.exr, .hdr, .pic) in it")
    return name_files(folder, found)


def name_files(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return files under `folder` by their path in it without extension, in their order.

    Raises SceneError where two have one name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise SceneError(f"{path}: {named[name].name} has the same name; rename or remove one of the two")
        named[name] = path
    return named


def load_scene(path: Path, name: str) -> HdrScene:
    """Read one file. An image twice as wide as high is taken as a panorama.

    Raises SceneError, naming the file, for what cannot be read, states other primaries than Rec.709, is smaller than
    64 px, holds NaN, infinity or samples above 1e30, or is LDR in an HDR container (no more than 256 distinct values of
    green, under 6 stops between the 0.1th percentile and the maximum of luminance, or more than 0.5 % of the pixels
    with a channel within 0.2 % of the largest sample: clipped). Alpha is left out. Negative samples, which wide-gamut
    sources leave, count as 0.
    """
    pixels = read_linear(path)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < _MIN_SIDE_PX:
        raise SceneError(f"{path}: shape {pixels.shape}; RGB of at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX} px is needed")
    if not np.isfinite(pixels).all():
        raise SceneError(f"{path}: holds {np.count_nonzero(~np.isfinite(pixels))} NaN or infinite samples")
    if pixels.max() > _MAX_SAMPLE:
        raise SceneError(f"{path}: its largest sample is {pixels.max():.3g}, which no light is; repair the file")
    pixels = np.maximum(pixels, np.float32(0))
    _refuse_ldr(path, pixels)
    height, width = pixels.shape[:2]
    return HdrScene(name, pixels, abs(width / height - _PANORAMA_ASPECT) < _ASPECT_TOLERANCE)


def read_linear(path: Path) -> FloatArray:
    """Read the samples of one OpenEXR or Radiance file, float32, as they are: (H, W, 3), or what else it holds.

    Radiance's EXPOSURE and COLORCORR are undone. Raises SceneError, naming the file, for what cannot be read, and other
    primaries than Rec.709.
    """
    try:
        return _decode(path)
    except (OSError, ImageError, RuntimeError, ValueError) as error:
        raise SceneError(f"{path}: cannot be read as an HDR image: {error}") from error
    except MemoryError as error:
        raise SceneError(f"{path}: cannot be read as an HDR image: it needs more memory than there is") from error


def _decode(path: Path) -> FloatArray:
    data = path.read_bytes()
    if path.suffix.lower() == ".exr":
        decoded = decode_exr(data)
        primaries = decoded.header.get("chromaticities", REC709_CHROMATICITIES)
        _require_rec709(path, np.asarray(primaries, np.float64).ravel())
        return np.ascontiguousarray(decoded.image.pixels, dtype=np.float32)
    return _decode_radiance(path, data)


def _decode_radiance(path: Path, data: bytes) -> FloatArray:
    """Samples divided by what the header says that they were multiplied with.

    Source: G. Ward Larson, "Real Pixels", Graphics Gems II, 1991, and Radiance's file format: EXPOSURE and COLORCORR
    (red, green, blue) may occur more than once, and multiply; PRIMARIES are CIE xy of red, green, blue and white.
    """
    scale = np.ones(3, np.float64)
    for name, value in _radiance_variables(data):
        if name == "FORMAT" and value == "32-bit_rle_xyze":
            raise SceneError(f"{path}: holds CIE XYZ; convert it to linear Rec.709 first")
        if name not in {"PRIMARIES", "EXPOSURE", "COLORCORR"}:
            continue
        numbers = np.array([float(each) for each in value.split()])
        if name == "PRIMARIES":
            _require_rec709(path, numbers)
        elif numbers.size not in {1, 3} or not (np.isfinite(numbers).all() and (numbers > 0).all()):
            raise SceneError(f"{path}: {name}={value} in its header is no factor; repair the file")
        else:
            scale *= numbers
    pixels = np.ascontiguousarray(imagecodecs.rgbe_decode(data), dtype=np.float32)
    return pixels if (scale == 1).all() else (pixels / scale).astype(np.float32)


def _radiance_variables(data: bytes) -> Iterator[tuple[str, str]]:
    """The NAME=VALUE lines of a header, which an empty line ends."""
    header = data[:_MAX_RADIANCE_HEADER_BYTES].partition(b"\n\n")[0].decode("latin-1")
    for line in header.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            yield name.strip(), value.strip()


def _require_rec709(path: Path, primaries: npt.NDArray[np.float64]) -> None:
    if primaries.size != len(REC709_CHROMATICITIES) or not np.allclose(
        primaries, REC709_CHROMATICITIES, atol=_PRIMARIES_TOLERANCE
    ):
        raise SceneError(f"{path}: its primaries are not those of Rec.709; convert it to linear Rec.709 first")


def _refuse_ldr(path: Path, pixels: FloatArray) -> None:
    if np.unique(pixels[..., 1]).size <= _MAX_LDR_VALUES:
        raise SceneError(f"{path}: at most {_MAX_LDR_VALUES} values of green: an LDR image in an HDR container")
    light = luminance(pixels)
    top = float(light.max())
    floor = max(float(np.percentile(light, 0.1)), top * 2.0**-40)
    if top <= 0 or np.log2(top / floor) < _MIN_RANGE_STOPS:
        raise SceneError(f"{path}: under {_MIN_RANGE_STOPS:g} stops of dynamic range: not an HDR scene")
    largest = pixels.max(axis=2)
    share = float((largest >= largest.max() * np.float32(_PLATEAU)).mean())
    if share > _MAX_PLATEAU_SHARE:
        raise SceneError(f"{path}: {share:.1%} of the pixels are as bright as its maximum: clipped, not an HDR scene")
