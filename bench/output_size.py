"""Bytes and encoding speed per megapixel of each compression, on photographs: what `hdrfleet plan` reckons with.

    python -m bench.output_size ../shared/photos/photos --images 24

A crop of the middle of each photograph passes the default weights and is encoded as half RGB with each compression, in
one thread. Beside it, the other work of a processor: decoding the whole photograph, and the quality statistics.
Seconds are the thread's own processor time: other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jobs.weights import read_weights
from pipeline.codecs.exr import encode_exr, prepare_hdr
from pipeline.codecs.exr_header import ExrProvenance, OutputIdentity
from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig, EncodeConfig, InferenceConfig
from pipeline.errors import ImageError
from pipeline.inference.engine import InferenceEngine
from pipeline.models.checkpoint import build_network, load_weights
from pipeline.quality.stats import measure
from pipeline.records import CaptureMetadata, InferenceInfo

COMPRESSIONS = ("none", "zip", "piz", "htj2k256", "dwaa:15", "dwaa:45")
IDENTITY = OutputIdentity("a" * 64, "b" * 64, "c" * 64)
PROVENANCE = ExrProvenance("bench", "0", "default", InferenceInfo("cpu", "fp32", 1, 0), 0, CaptureMetadata())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--crop", type=int, default=448)
    args = parser.parse_args()
    engine = InferenceEngine(build_network(load_weights(*read_weights("default"))), InferenceConfig())
    decoded = Clock()
    ldr = list(crops(args.folder, args.images, args.crop, decoded))
    images = [engine.infer(crop).linear for crop in ldr]
    megapixels = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    print(f"{len(images)} crops, {megapixels:.1f} MP; decoding {decoded.megapixels / decoded.seconds:.0f} MP/s")
    print(f"{'compression':<12} {'MB per MP':>10} {'encode MP/s':>12} {'with statistics MP/s':>21}")
    for name in COMPRESSIONS:
        num_bytes, encode_s, all_s = encode_all(ldr, images, EncodeConfig(compression=name))
        size, rate, rate_of_all = num_bytes / 1e6 / megapixels, megapixels / encode_s, megapixels / all_s
        print(f"{name:<12} {size:>10.2f} {rate:>12.1f} {rate_of_all:>21.1f}")


class Clock:
    def __init__(self) -> None:
        self.seconds = self.megapixels = 0.0


def crops(folder: Path, num_images: int, side: int, clock: Clock) -> Iterator[np.ndarray]:
    found = 0
    for path in sorted(folder.rglob("*")):
        if found == num_images or path.suffix.lower() not in {".jpg", ".jpeg"}:
            continue
        began, data = time.thread_time(), path.read_bytes()
        try:
            pixels = decode_ldr(data, DecodeConfig()).pixels
        except ImageError:
            continue
        height, width = pixels.shape[:2]
        if min(height, width) >= side:
            found += 1
            clock.seconds += time.thread_time() - began
            clock.megapixels += height * width / 1e6
            top, left = (height - side) // 2, (width - side) // 2
            yield np.ascontiguousarray(pixels[top : top + side, left : left + side])


def encode_all(ldr: list[np.ndarray], images: list[np.ndarray], options: EncodeConfig) -> tuple[int, float, float]:
    """Bytes, seconds of encoding, and seconds with the statistics that a worker takes in the same thread."""
    num_bytes, encode_s, all_s = 0, 0.0, 0.0
    for pixels, linear in zip(ldr, images, strict=True):
        copy, began = linear.copy(), time.thread_time()
        prepared = prepare_hdr(copy, None, options)
        num_bytes += len(encode_exr(prepared.image, options, IDENTITY, PROVENANCE))
        encode_s += time.thread_time() - began
        measure(pixels, prepared.image, 0.0)
        all_s += time.thread_time() - began
    return num_bytes, encode_s, all_s


if __name__ == "__main__":
    main()
