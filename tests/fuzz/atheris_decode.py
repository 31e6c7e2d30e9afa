"""Coverage-guided fuzzing of the decoder's Python part: containers, EXIF, profiles, LZW.

    make fuzz FUZZ_S=3600

installs atheris beside the environment, and keeps the corpus and what it finds in .cache/fuzz. An empty corpus is
filled with one small file of every kind. Anything but an image or an ImageError is a finding: run this file again with
the one that it wrote as its only argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline.codecs", "tifffile"]):
    from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ImageError

LIMITS = DecodeConfig(max_pixels=1_000_000)


def fill(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        from ldr_samples import all_formats

        for name, data in all_formats().items():
            (corpus / name).write_bytes(data)


def decode_one(data: bytes) -> None:
    try:
        image = decode_ldr(data, LIMITS)
    except ImageError as error:
        message = str(error)
    else:
        message = ""
        assert image.pixels.shape == (image.info.height, image.info.width, 3)
    assert "\n" not in message


if __name__ == "__main__":
    first = next(Path(argument) for argument in sys.argv[1:] if not argument.startswith("-"))
    if not first.is_file():
        fill(first)
    atheris.Setup(sys.argv, decode_one)
    atheris.Fuzz()
