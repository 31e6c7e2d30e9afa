"""Strips and tiles of a TIFF whose decoders take damage for pixels: JPEG and fax, whole, cut and damaged."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from ldr_samples import picture, save, save_tiff
from numpy.typing import NDArray

from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, TruncatedImageError

LIMITS = DecodeConfig(max_pixels=4_000_000)
NOISE = np.random.default_rng(0).integers(1, 255, (48, 64, 3), dtype=np.uint8)
FILL_ORDER, T4_OPTIONS, ROWS_PER_STRIP = 266, 292, 278


def bilevel(kind: str, height: int, width: int) -> NDArray[np.bool_]:
    chance = np.random.default_rng(height * 1000 + width)
    if kind == "noise":
        return chance.random((height, width)) < 0.5
    if kind == "specks":
        return chance.random((height, width)) < 0.02
    page = np.full((height, width), kind != "black")
    page[height // 4 : height // 2, width // 4 : width // 2] = False
    return page


def fax(page: NDArray[np.bool_], compression: str, tags: dict[int, int]) -> bytes:
    return save(page, "tiff", compression=compression, tiffinfo=tags)


def with_shorter_last_strip(data: bytes, missing: int) -> bytes:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag, count = file.pages[0].tags[279], file.pages[0].databytecounts[-1]
    size = {3: 2, 4: 4}[int(tag.dtype)]
    at = tag.valueoffset + (tag.count - 1) * size
    return data[:at] + (count - missing).to_bytes(size, "little") + data[at + size :]


def last_strip(data: bytes) -> tuple[int, int]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]


FAX_KINDS = [
    ("group4", {}),
    ("group4", {FILL_ORDER: 2}),
    ("group3", {}),
    ("group3", {T4_OPTIONS: 1}),
    ("group3", {T4_OPTIONS: 4}),
    ("group3", {T4_OPTIONS: 5, FILL_ORDER: 2}),
    ("tiff_ccitt", {}),
]


@pytest.mark.parametrize(("compression", "tags"), FAX_KINDS, ids=str)
@pytest.mark.parametrize("kind", ["noise", "specks", "black", "white"])
def test_whole_fax_pages(compression: str, tags: dict[int, int], kind: str) -> None:
    for height, width in ((1, 1), (33, 7), (40, 200), (61, 385)):
        page = bilevel(kind, height, width)
        for rows in (height, max(1, height // 3)):
            image = decode_ldr(fax(page, compression, tags | {ROWS_PER_STRIP: rows}), LIMITS)
            assert np.array_equal(image.pixels[..., 1] > 0, page)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_group_4_without_its_end_marker_is_whole(missing: int) -> None:
    """Some writers leave the end-of-block code away; it has three bytes."""
    page = bilevel("noise", 48, 64)
    image = decode_ldr(with_shorter_last_strip(fax(page, "group4", {}), missing), LIMITS)
    assert np.array_equal(image.pixels[..., 1] > 0, page)


@pytest.mark.parametrize(("compression", "tags"), FAX_KINDS, ids=str)
@pytest.mark.parametrize("kind", ["noise", "specks"])
def test_cut_fax_pages(compression: str, tags: dict[int, int], kind: str) -> None:
    data = fax(bilevel(kind, 60, 200), compression, tags | {ROWS_PER_STRIP: 20})
    length = last_strip(data)[1]
    for missing in (5, 9, length // 2):
        if length > missing:
            with pytest.raises((TruncatedImageError, CorruptImageError)):
                decode_ldr(with_shorter_last_strip(data, missing), LIMITS)


def group_4_strip(page: NDArray[np.bool_]) -> bytes:
    data = fax(page, "group4", {ROWS_PER_STRIP: len(page)})
    start, count = last_strip(data)
    return data[start : start + count]


def group_4_tiff(page: NDArray[np.bool_], strip: bytes) -> bytes:
    """A page's file with another strip, behind the old one."""
    data = fax(page, "group4", {ROWS_PER_STRIP: len(page)})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        places = [(file.pages[0].tags[code], value) for code, value in ((273, len(data)), (279, len(strip)))]
    patched = bytearray(data)
    for tag, value in places:
        size = {3: 2, 4: 4}[int(tag.dtype)]
        patched[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    return bytes(patched) + strip


@pytest.mark.parametrize(
    "junk", [bytes(3), bytes(500), b"\xa5" * 500, b"\xff" * 500], ids=["3 zeros", "zeros", "a5", "ff"]
)
@pytest.mark.parametrize("kind", ["noise", "specks", "black", "white"])
def test_what_follows_the_end_of_a_group_4_strip_does_not_matter(kind: str, junk: bytes) -> None:
    """Byte counts that are too large are common."""
    page = bilevel(kind, 60, 200)
    image = decode_ldr(group_4_tiff(page, group_4_strip(page) + junk), LIMITS)
    assert np.array_equal(image.pixels[..., 1] > 0, page)


@pytest.mark.parametrize("num_rows", [1, 30, 59])
def test_group_4_strip_that_ends_before_its_rows_do(num_rows: int) -> None:
    page = bilevel("specks", 60, 200)
    with pytest.raises(TruncatedImageError, match="fax"):
        decode_ldr(group_4_tiff(page, group_4_strip(page[:num_rows])), LIMITS)


def test_most_changed_bits_of_a_group_4_strip_are_noticed() -> None:
    """An invalid code, or lines that need more or fewer bits than there are: seldom does damage end even."""
    page = bilevel("specks", 300, 200)
    strip = group_4_strip(page)
    chance = np.random.default_rng(11)
    num_noticed = 0
    for at in chance.integers(0, len(strip) // 2, 40):
        changed = bytearray(strip)
        changed[at] ^= 1 << int(chance.integers(8))
        try:
            decode_ldr(group_4_tiff(page, bytes(changed)), LIMITS)
        except (CorruptImageError, TruncatedImageError):
            num_noticed += 1
    assert num_noticed >= 30


def jpeg_tiff(strip: bytes) -> bytes:
    """64x48 px of YCbCr in one JPEG strip."""
    entries = [(256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 3, 8 + 2 + 120 + 4), (259, 3, 1, 7), (262, 3, 1, 6)]
    entries += [
        (273, 4, 1, 8 + 2 + 120 + 4 + 6),
        (277, 3, 1, 3),
        (278, 3, 1, 48),
        (279, 4, 1, len(strip)),
        (284, 3, 1, 1),
    ]
    table = b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack("<HH" if (kind, count) == (3, 1) else "<I", *value)
        for tag, kind, count, number in entries
        for value in [(number, 0) if (kind, count) == (3, 1) else (number,)]
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return head + struct.pack("<3H", 8, 8, 8) + strip


@pytest.mark.parametrize("progressive", [False, True])
def test_half_a_jpeg_strip_with_an_end_marker(progressive: bool) -> None:
    strip = save(NOISE, "jpeg", progressive=progressive)
    whole = decode_ldr(jpeg_tiff(strip), LIMITS)
    assert np.array_equal(whole.pixels, decode_ldr(strip, LIMITS).pixels)
    with pytest.raises((TruncatedImageError, CorruptImageError), match="JPEG"):
        decode_ldr(jpeg_tiff(strip[: len(strip) // 2] + b"\xff\xd9"), LIMITS)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"photometric": "ycbcr", "subsampling": (2, 2)}], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_strips_and_tiles_of_every_colour(options: dict[str, object], channels: int) -> None:
    if channels != 3:
        options = {key: value for key, value in options.items() if key == "tile"}
        options["photometric"] = "minisblack" if channels == 1 else "separated"
    pixels = picture()[..., 1] if channels == 1 else np.dstack([picture(), NOISE[..., 0]])[..., :channels]
    assert decode_ldr(save_tiff(pixels, compression="jpeg", **options), LIMITS).pixels.shape == picture().shape


def test_jpeg_strips_with_tables_of_their_own_place() -> None:
    """Pillow's libtiff writes the tables once, in a tag; a strip's damage is found with them."""
    data = save(NOISE, "tiff", compression="jpeg", tiffinfo={ROWS_PER_STRIP: 16})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].jpegtables is not None
    assert decode_ldr(data, LIMITS).pixels.shape == NOISE.shape
    start, count = last_strip(data)
    middle = start + count // 2
    damaged = data[:middle] + b"\xff\xd9" + data[middle + 2 :]
    with pytest.raises((TruncatedImageError, CorruptImageError), match="JPEG"):
        decode_ldr(damaged, LIMITS)


def test_padding_before_the_end_of_a_jpeg_strip_is_no_damage() -> None:
    strip = save(NOISE, "jpeg")
    padded = decode_ldr(jpeg_tiff(strip[:-2] + bytes(4) + strip[-2:] + bytes(3)), LIMITS)
    assert np.array_equal(padded.pixels, decode_ldr(strip, LIMITS).pixels)
