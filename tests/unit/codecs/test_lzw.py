"""Where LZW streams end, and TIFF files whose last strip or tile is a little short."""

from __future__ import annotations

import io
from collections import Counter

import imagecodecs
import numpy as np
import pytest
import tifffile
from ldr_samples import save, save_tiff

from pipeline.codecs.ldr import decode_ldr
from pipeline.codecs.lzw import is_made_up
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, ImageError

# Around the numbers of codes at which these become wider, and at which a table is full.
SIZES = [1, 2, 3, 100, *range(250, 260), *range(762, 770), *range(1786, 1794), *range(3834, 3842), 5000, 40_000]


def noise(num_bytes: int, num_values: int = 256) -> bytes:
    return np.random.default_rng(num_bytes).integers(0, num_values, num_bytes, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("num_values", [1, 3, 40, 256])
def test_whole_streams_are_whole(num_values: int) -> None:
    for num_bytes in SIZES:
        assert not is_made_up(imagecodecs.lzw_encode(noise(num_bytes, num_values)), num_bytes), num_bytes


def test_a_cut_stream_is_told_exactly_where_it_gives_other_bytes() -> None:
    """The decoder itself says nothing of half of them."""
    met: Counter[bool] = Counter()
    for num_bytes in (*SIZES, *range(300, 1500, 3)):
        for num_values in (3, 256):
            whole = noise(num_bytes, num_values)
            encoded = imagecodecs.lzw_encode(whole)
            for cut in (1, 2):
                try:
                    made = imagecodecs.lzw_decode(encoded[:-cut])
                except imagecodecs.LzwError:
                    continue
                if len(made) >= num_bytes:
                    is_wrong = made[:num_bytes] != whole
                    assert is_made_up(encoded[:-cut], num_bytes) == is_wrong, (num_bytes, num_values, cut)
                    met[is_wrong] += 1
    assert min(met[True], met[False]) > 40


def test_bytes_behind_the_end_do_not_matter() -> None:
    encoded = imagecodecs.lzw_encode(noise(3000))
    assert not is_made_up(encoded + b"\0\0\0", 3000)
    assert not is_made_up(encoded + b"\xff\x12", 3000)


def test_an_end_that_is_one_bit_too_narrow_is_one() -> None:
    """As libtiff wrote it for years where codes had just become wider."""
    codes = [256, *range(253), 1, 257]
    bits = "".join(f"{code:09b}" for code in codes)
    stream = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert not is_made_up(stream, 254)


def test_a_stream_that_only_starts_anew_is_refused_soon() -> None:
    stream = int("100000000" * 8 * 20_000, 2).to_bytes(9 * 20_000, "big")
    with pytest.raises(CorruptImageError, match="starts anew"):
        is_made_up(stream, 10)


def shortened(data: bytes, num_bytes: int) -> bytes:
    """The same file, whose directory says that the last strip or tile is shorter."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        tag = page.tags[325 if page.is_tiled else 279]
        values = np.atleast_1d(tag.value)
        width = tag.valuebytecount // len(values)
        at, order = tag.valueoffset + width * (len(values) - 1), "little" if file.byteorder == "<" else "big"
        return data[:at] + (int(values[-1]) - num_bytes).to_bytes(width, order) + data[at + width :]


LAYOUTS = [
    {"rowsperstrip": 7},
    {"rowsperstrip": 64},
    {"tile": (16, 32)},
    {"predictor": True, "rowsperstrip": 5},
    {"byteorder": ">", "rowsperstrip": 9},
    {"bigtiff": True, "rowsperstrip": 11},
    {"planarconfig": "separate", "rowsperstrip": 7},
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_strip_that_is_a_little_short_never_gives_a_wrong_pixel(dtype: type[np.integer]) -> None:
    outcomes: Counter[str] = Counter()
    num_wrong = 0
    random = np.random.default_rng(3)
    for layout in LAYOUTS:
        for index in range(20):
            height, width = random.integers(5, 50, 2)
            rgb = random.integers(0, 4 if index % 2 else np.iinfo(dtype).max, (height, width, 3), dtype=dtype)
            planes = rgb.transpose(2, 0, 1) if "planarconfig" in layout else rgb
            data = save_tiff(np.ascontiguousarray(planes), photometric="rgb", compression="lzw", **layout)
            assert np.array_equal(decode_ldr(data, DecodeConfig()).pixels, rgb)
            for num_bytes in (1, 2):
                short = shortened(data, num_bytes)
                outcome, is_right = read(short, rgb)
                outcomes[outcome] += 1
                assert is_right, (layout, index, num_bytes)
                is_wrong = reads_wrongly(short, planes)
                assert not is_wrong or outcome == "decode_truncated"
                num_wrong += is_wrong
    assert set(outcomes) == {"ok", "decode_truncated", "decode_corrupt"}
    assert num_wrong >= 5, "the library alone does it right"


def read(data: bytes, expected: np.ndarray) -> tuple[str, bool]:
    try:
        return "ok", np.array_equal(decode_ldr(data, DecodeConfig()).pixels, expected)
    except ImageError as error:
        return error.code, error.code != "decode_truncated" or "unfinished LZW strip" in str(error)


def reads_wrongly(data: bytes, expected: np.ndarray) -> bool:
    """Whether the library gives other pixels without a word."""
    try:
        return not np.array_equal(tifffile.imread(io.BytesIO(data)), expected)
    except (tifffile.TiffFileError, ValueError, imagecodecs.LzwError):
        return False


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_rows_that_do_not_fill_their_last_byte(bits: int) -> None:
    """Written by libtiff, through Pillow."""
    gray = np.random.default_rng(bits).integers(0, 2**bits, (19, 21), dtype=np.uint8)
    data = save(gray.astype(bool) if bits == 1 else gray, "tiff", compression="tiff_lzw")
    decoded = decode_ldr(data, DecodeConfig()).pixels[..., 0]
    assert np.array_equal(decoded, gray * (255 if bits == 1 else 1))
