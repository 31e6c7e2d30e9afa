from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from ldr_heic_samples import HEIC_GRAY, HEIC_RGB, HEIC_RGBA, HEIC_TWO_IMAGES
from ldr_samples import all_formats, insert_jpeg_segment, picture, save, save_tiff

from pipeline.codecs.dimensions import HEAD_BYTES, read_dimensions
from pipeline.codecs.ldr import probe_ldr
from pipeline.codecs.orientation import swaps_sides
from pipeline.config import DecodeConfig
from pipeline.errors import CorruptImageError, ImageError, UnsupportedFormatError

SAMPLES = all_formats()


def ranges(data: bytes, asked: list[tuple[int, int]] | None = None) -> Callable[[int, int], bytes]:
    def read(start: int, num_bytes: int) -> bytes:
        if asked is not None:
            asked.append((start, num_bytes))
        return data[start : start + num_bytes]

    return read


def as_decoded(data: bytes) -> tuple[int, int]:
    info = probe_ldr(data, DecodeConfig())
    size = info.width, info.height
    return size[::-1] if swaps_sides(info.orientation) else size


@pytest.mark.parametrize("name", SAMPLES)
def test_the_size_is_what_the_decoder_finds(name: str) -> None:
    assert read_dimensions(ranges(SAMPLES[name])) == as_decoded(SAMPLES[name])


@pytest.mark.parametrize("data", [HEIC_RGB, HEIC_RGBA, HEIC_TWO_IMAGES, HEIC_GRAY])
def test_heic_gives_its_size(data: bytes) -> None:
    assert read_dimensions(ranges(data)) == as_decoded(data)


def test_one_read_of_a_large_file_is_enough() -> None:
    asked: list[tuple[int, int]] = []
    data = save(np.random.default_rng(1).integers(0, 255, (700, 900, 3), np.uint8), "PNG")
    assert len(data) > 2 * HEAD_BYTES
    assert read_dimensions(ranges(data, asked)) == (900, 700)
    assert asked == [(0, HEAD_BYTES)]


def test_a_tiff_directory_at_the_end_costs_one_more_read() -> None:
    asked: list[tuple[int, int]] = []
    data = tiff_with_directory_at_the_end()
    assert read_dimensions(ranges(data, asked)) == (900, 700)
    assert len(asked) == 2
    assert asked[1][1] < 32 * 2**10


def tiff_with_directory_at_the_end() -> bytes:
    pixels = np.zeros((700, 900, 3), np.uint8)
    entries = [(256, 4, 900), (257, 4, 700), (258, 3, 8), (259, 3, 1)]
    directory = len(entries).to_bytes(2, "little")
    for code, kind, value in entries:
        directory += code.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        directory += value.to_bytes(4, "little")
    at = 8 + pixels.nbytes
    return b"II*\0" + at.to_bytes(4, "little") + pixels.tobytes() + directory + bytes(4)


def test_a_reduced_copy_in_front_is_passed_over() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.zeros((20, 30, 3), np.uint8), subfiletype=1, photometric="rgb")
        writer.write(np.zeros((200, 300, 3), np.uint8), photometric="rgb")
    assert read_dimensions(ranges(file.getvalue())) == (300, 200) == as_decoded(file.getvalue())


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_every_kind_of_tiff_header(options: dict[str, object]) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, picture(40, 60), photometric="rgb", **options)
    assert read_dimensions(ranges(file.getvalue())) == (60, 40)


def test_a_jpeg_whose_frame_lies_behind_the_head_does_not_say() -> None:
    data = save(picture(), "JPEG")
    for _ in range(5):
        data = insert_jpeg_segment(data, 0xEB, b"x" * 60_000)
    assert len(data) > HEAD_BYTES
    assert read_dimensions(ranges(data)) is None


def test_what_is_no_image_is_refused() -> None:
    for data in (b"", b"GIF89a", b"v/1\x01"):
        with pytest.raises(UnsupportedFormatError):
            read_dimensions(ranges(data))
    with pytest.raises(CorruptImageError, match="0x40"):
        read_dimensions(ranges(save_tiff(picture(40, 60)).replace(*zero_width())))


def zero_width() -> tuple[bytes, bytes]:
    """The width tag of `save_tiff`'s picture (a SHORT or LONG of 60), and one of 0."""
    data = save_tiff(picture(40, 60))
    start = next(
        at for at in range(len(data)) if data[at : at + 2] == b"\x00\x01" and data[at + 8 : at + 10] == b"\x3c\0"
    )
    return data[start : start + 12], data[start : start + 8] + bytes(4)


@given(st.sampled_from([*SAMPLES.values(), HEIC_RGB]), st.data())
def test_damage_gives_a_size_or_an_image_error(sample: bytes, data: st.DataObject) -> None:
    head = bytearray(sample[:4096])
    for _ in range(data.draw(st.integers(0, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(head[: data.draw(st.integers(0, len(head)))])
    try:
        size = read_dimensions(ranges(cut))
    except ImageError:
        return
    assert size is None or min(size) > 0


def test_real_photographs(shared_data: Path) -> None:
    paths = sorted(
        path for path in (shared_data / "photos").rglob("*") if path.suffix.lower() in {".jpg", ".png", ".tif"}
    )
    assert paths
    for path in paths:
        data = path.read_bytes()
        try:
            expected = as_decoded(data)
        except ImageError:
            continue
        found = read_dimensions(ranges(data))
        assert found == expected or (found is None and len(data) > HEAD_BYTES), path.name
