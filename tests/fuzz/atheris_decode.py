"""Coverage-guided fuzzing of what reads untrusted bytes: the decoder's Python part (containers, EXIF, profiles, LZW),
the look at headers before it, that of `plan`, and what reads outputs, for somebody may write to the destination.

    make fuzz FUZZ_S=3600

installs atheris beside the environment, and keeps the corpus and what it finds in .cache/fuzz. An empty corpus is
filled with one small file of every kind. Anything but a result or an ImageError is a finding: run this file again with
the one that it wrote as its only argument.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import OpenEXR

with atheris.instrument_imports(include=["pipeline.codecs", "tifffile"]):
    from pipeline.codecs.dimensions import read_dimensions
    from pipeline.codecs.exr import decode_exr, read_exr_identity
    from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ImageError

LIMITS = DecodeConfig(max_pixels=1_000_000)


def fill(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        from ldr_samples import all_formats

        for name, data in {**all_formats(), **outputs()}.items():
            (corpus / name).write_bytes(data)


def outputs() -> dict[str, bytes]:
    """A small OpenEXR of each compression that there is to choose from."""
    found = {}
    for name in ("NO", "ZIP", "PIZ", "DWAA", "HTJ2K256"):
        header, stream = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION")}, io.BytesIO()
        OpenEXR.File(header, {"RGBA": np.full((5, 7, 4), 0.25, np.float16)}).write(stream)
        found[f"{name}.exr"] = stream.getvalue()
    return found


def look(data: bytes) -> None:
    """Whatever the bytes are: a result, or an ImageError with a message of one line."""
    readers: tuple[Callable[[], object], ...] = (
        lambda: check_pixels(data),
        lambda: probe_ldr(data, LIMITS),
        lambda: read_dimensions(lambda start, num_bytes: data[start : start + num_bytes]),
        lambda: read_exr_identity(data),
        lambda: decode_exr(data),
    )
    for read in readers:
        said = ""
        try:
            read()
        except ImageError as error:
            said = str(error)
        assert "\n" not in said


def check_pixels(data: bytes) -> None:
    image = decode_ldr(data, LIMITS)
    assert image.pixels.shape == (image.info.height, image.info.width, 3)


if __name__ == "__main__":
    first = next(Path(argument) for argument in sys.argv[1:] if not argument.startswith("-"))
    if not first.is_file():
        fill(first)
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
