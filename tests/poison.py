"""Images that make the decoder's process die, hang or run out of memory, where `FAULTS` is in its environment."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from photographs import jpeg, picture, png
from PIL import Image

FAULTS = {"HDRFLEET_DECODER_FAULTS": "1"}
CODE_BY_FAULT = {
    "abort": "decoder_crash",
    "segfault": "decoder_crash",
    "exit": "decoder_crash",
    "kill": "decoder_oom",
    "allocate": "decoder_oom",
    "sleep": "decoder_hang",
}


def poison_tiff(fault: str, pixels: NDArray[np.uint8] | None = None) -> bytes:
    """A sound TIFF whose description asks for a fault."""
    buffer = io.BytesIO()
    pixels = picture(24, 32) if pixels is None else pixels
    tifffile.imwrite(buffer, pixels, photometric="rgb", description=f"hdrfleet-fault:{fault}", metadata=None)
    return buffer.getvalue()


def poison_jpeg(fault: str) -> bytes:
    """A sound JPEG whose comment asks for a fault."""
    data, text = jpeg(picture(24, 32)), f"hdrfleet-fault:{fault}".encode()
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


def write_poisoned_library(folder: Path, num_sound: int) -> dict[str, str | None]:
    """Sound images of every format and one poison image of each kind; the expected error code by source."""
    folder.mkdir(parents=True)
    kinds = ("jpg", "tif", "png", "webp", "avif")
    expected: dict[str, str | None] = {}
    for index in range(num_sound):
        kind = kinds[index % len(kinds)]
        name = f"{index:03d}.{kind}"
        (folder / name).write_bytes(encode(picture(24, 32, index), kind))
        expected[name] = None
    for number, (fault, code) in enumerate(CODE_BY_FAULT.items()):
        name = f"{number * num_sound // len(CODE_BY_FAULT):03d}-{fault}.tif"
        (folder / name).write_bytes(poison_tiff(fault))
        expected[name] = code
    return expected


def encode(pixels: NDArray[np.uint8], kind: str) -> bytes:
    if kind == "jpg":
        return jpeg(pixels)
    if kind == "png":
        return png(pixels)
    buffer = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(buffer, pixels, photometric="rgb")
    elif kind == "avif":
        return bytes(imagecodecs.avif_encode(pixels, level=90, speed=10))
    else:
        Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()
