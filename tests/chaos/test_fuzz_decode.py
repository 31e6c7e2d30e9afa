"""Thousands of damaged files through the decoder: an image or an ImageError, and no child that dies or hangs.

The long tier takes 20,000 seeds from `HDRFLEET_FUZZ_START` (0) on, `HDRFLEET_FUZZ_COUNT` of them: a run that was
stopped goes on from its last line.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from fuzzing import Damaged, damage, needed_bytes

from pipeline.codecs.isolation import ImageDecoder
from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ImageError, QuarantinedError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "codecs"))
from ldr_samples import all_formats

LIMITS = DecodeConfig(isolate=True, max_pixels=4_000_000, timeout_s=30)
LARGEST_PHOTO_BYTES = 300_000
NUM_SHORT, NUM_LONG, BLOCK = 400, 20_000, 1000
NUM_THREADS = 2


def corpus(shared: Path | None) -> dict[str, bytes]:
    """One generated file of every kind, and the real ones that are small enough to be decoded thousands of times."""
    files = all_formats()
    for path in sorted((shared / "photos").rglob("*") if shared else ()):
        if path.is_file() and 0 < path.stat().st_size <= LARGEST_PHOTO_BYTES and path.suffix not in {".csv", ".md"}:
            files[path.name] = path.read_bytes()
    return files


def outcome(decoder: ImageDecoder, damaged: Damaged) -> str:
    try:
        with decoder.open(damaged.data) as image:
            decoded = image.decode()
    except ImageError as error:
        if "\n" in str(error):
            return "many lines"
        return "quarantined " + error.code if isinstance(error, QuarantinedError) else error.code
    if damaged.must_fail:
        return "made up"
    assert decoded.pixels.shape == (decoded.info.height, decoded.info.width, 3)
    assert decoded.pixels.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}
    return "ok"


def run(seeds: range, files: dict[str, bytes]) -> tuple[Counter[str], list[str]]:
    """Count outcomes; describe each seed whose outcome must not be."""
    decoder = ImageDecoder(LIMITS)
    found: list[str] = []

    def one(seed: int) -> str:
        damaged = damage(seed, files)
        result = outcome(decoder, damaged)
        if result.startswith(("made up", "many lines", "quarantined")):
            found.append(f"seed {seed}: {result}, {damaged.base}, {damaged.how}")
        return result

    try:
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            return Counter(threads.map(one, seeds)), found
    finally:
        decoder.close()


@pytest.fixture
def children() -> Iterator[None]:
    """No child is left behind."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("children")
def test_damaged_files_give_an_image_or_an_image_error() -> None:
    counts, found = run(range(NUM_SHORT), corpus(None))
    assert found == []
    assert counts.total() == NUM_SHORT
    assert counts["ok"] > 0
    assert {"decode_truncated", "decode_corrupt", "unsupported_format"} <= set(counts)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.usefixtures("children")
def test_twenty_thousand_damaged_files(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = int(os.environ.get("HDRFLEET_FUZZ_START", "0"))
    end = first + int(os.environ.get("HDRFLEET_FUZZ_COUNT", str(NUM_LONG)))
    files, total, found = corpus(shared_data), Counter[str](), list[str]()
    for start in range(first, end, BLOCK):
        counts, problems = run(range(start, min(start + BLOCK, end)), files)
        total += counts
        found += problems
        with capsys.disabled():
            print(f"seeds {first} to {min(start + BLOCK, end) - 1}: {dict(total)}", *problems, sep="\n  ", flush=True)  # noqa: T201
    assert found == []


def test_the_files_need_what_the_oracle_says() -> None:
    """The last byte that the oracle counts really matters, and one that it does not count does not."""
    for name, data in all_formats().items():
        needed = needed_bytes(data)
        if needed:
            assert 0.5 * len(data) < needed <= len(data), name
            with pytest.raises(ImageError):
                decode_ldr(data[: needed - 1], LIMITS)
    assert sum(needed_bytes(data) > 0 for data in all_formats().values()) >= 15
