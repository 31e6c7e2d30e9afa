"""Time decoding in a child process beside decoding in this one, and the start of a child.

    python -m bench.isolation --size 1152x1728

Prints, per kind of file: median milliseconds in this process, in a child, their difference and ratio. The two are
measured in turn, image by image. The picture is noise over a gradient: what entropy decoders find hard.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pipeline.codecs.decoder_process import DecoderProcess
from pipeline.codecs.isolation import ImageDecoder
from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig

CONFIG = DecodeConfig(isolate=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1152x1728", help="height x width of the image in pixels")
    parser.add_argument("--repeats", type=int, default=41)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    starts = [timed(start_and_end) for _ in range(5)]
    print(f"start of a child: {statistics.median(starts):.0f} ms (median of {len(starts)})")
    print(f"{height * width / 1e6:.1f} megapixels, median of {args.repeats}")
    decoder = ImageDecoder(CONFIG)
    for name, data in files(height, width).items():
        here, there = measure(decoder, data, args.repeats)
        print(
            f"{name:<14} {len(data) / 1e6:5.1f} MB  here {here:6.1f} ms  child {there:6.1f} ms  "
            f"+{there - here:5.1f} ms  x{there / here:.2f}"
        )
    decoder.close()


def measure(decoder: ImageDecoder, data: bytes, repeats: int) -> tuple[float, float]:
    def here() -> None:
        probe_ldr(data, CONFIG)
        decode_ldr(data, CONFIG)

    def there() -> None:
        with decoder.open(data) as image:
            image.decode()

    pairs = [(timed(here), timed(there)) for _ in range(repeats + 3)][3:]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def start_and_end() -> None:
    child = DecoderProcess()
    child.wait_until_ready()
    child.end()


def files(height: int, width: int) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    gradient = np.stack([x * 200 // width, y * 200 // height, (x + y) * 200 // (height + width)], -1)
    pixels = np.clip(gradient + rng.normal(25, 4, gradient.shape), 0, 255).astype(np.uint8)
    return {
        "jpeg": encode(pixels, "jpeg", quality=92),
        "tiff": tiff(pixels, compression=None),
        "tiff, deflate": tiff(pixels, compression="deflate", predictor=True),
        "webp": encode(pixels, "webp", quality=90, method=2),
    }


def encode(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", rowsperstrip=64, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
