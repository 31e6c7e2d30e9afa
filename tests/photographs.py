"""Generated photographs for tests that must not depend on files from elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with texture, shadows and a clipped highlight; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / max(1, height - 1), x / max(1, width - 1)
    base = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.5 - 0.3 * x * y], axis=-1)
    base += 0.05 * np.sin(40 * x + seed)[..., None]
    base += 1.5 * np.exp(-(((x - 0.7) ** 2 + (y - 0.3) ** 2) / 0.01))[..., None]
    base += rng.normal(0, 0.01, base.shape)
    return np.round(np.clip(base, 0, 1) * 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.png_encode(pixels))


def tiff(pixels: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb")
    return buffer.getvalue()


def pq_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG whose cICP chunk declares BT.2020 primaries and the PQ transfer function."""
    buffer, chunks = io.BytesIO(), PngImagePlugin.PngInfo()
    chunks.add(b"cICP", bytes([9, 16, 0, 1]))
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def write_library(folder: Path, num_photos: int = 8, size: tuple[int, int] = (48, 64)) -> dict[str, str | None]:
    """Write `num_photos` JPEGs and a few special files; return the expected error code by source (None: converts)."""
    expected: dict[str, str | None] = {}

    def put(name: str, data: bytes, code: str | None = None) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        expected[name] = code

    for index in range(num_photos):
        put(f"trip {index % 3}/photo_{index:03d}.jpg", jpeg(picture(*size, seed=index)))
    put("deep/16bit.png", png(picture(33, 21, 100).astype(np.uint16) * 257))
    put("deep/alpha.png", png(np.dstack([picture(20, 20, 101), np.full((20, 20), 128, np.uint8)])))
    put("dot.png", png(np.full((1, 1, 3), 200, np.uint8)))
    put("bad/truncated.jpg", jpeg(picture(64, 64, 102))[:900], "decode_truncated")
    put("bad/empty.jpg", b"", "empty")
    put("bad/text.jpg", b"this is a text file, whatever its name says\n" * 9, "unsupported_format")
    (folder / "notes.txt").write_text("not an image by its name")
    return expected
