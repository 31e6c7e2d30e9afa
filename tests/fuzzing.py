"""Seeded damage to image files, and where a cut file has lost pixels. Same seed and files, same bytes."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import tifffile

# A walker looks for these when it edits lengths: boundary values of the field sizes that containers use.
_EDGES = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEADER_BYTES = 700


@dataclass(frozen=True)
class Damaged:
    """`must_fail`: bytes that the pixels need are gone, so that an image would be made up."""

    base: str
    how: str
    data: bytes
    must_fail: bool


def damage(seed: int, files: Mapping[str, bytes]) -> Damaged:
    """Choose a file and damage it by 1 to 3 mutations of a kind; one in five is a cut, and nothing but a cut."""
    chance = random.Random(f"decode fuzz {seed}")
    base = chance.choice(list(files))
    data = files[base]
    if chance.random() < 0.2:
        end = chance.randrange(len(data))
        return Damaged(base, f"cut at {end} of {len(data)}", data[:end], end < needed_bytes(data))
    how, mutate = chance.choice(list(_MUTATIONS.items()))
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        mutate(chance, changed, files)
    return Damaged(base, how, bytes(changed), must_fail=False)


def _place(chance: random.Random, data: bytearray) -> int:
    """Anywhere, and half of the time in the header, where structure is."""
    return chance.randrange(max(1, len(data) if chance.random() < 0.5 else min(len(data), _HEADER_BYTES)))


def _flip_bits(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    for _ in range(chance.choice((1, 2, 8, 30))):
        at = _place(chance, data)
        data[at : at + 1] = bytes(byte ^ (1 << chance.randrange(8)) for byte in data[at : at + 1])


def _edit_length(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    width, order = chance.choice((1, 2, 4, 8)), chance.choice("<>")
    at = _place(chance, data)
    old = bytes(data[at : at + width]).ljust(width, b"\0")
    byteorder = "little" if order == "<" else "big"
    value = chance.choice((*_EDGES, len(data), int.from_bytes(old, byteorder) + chance.choice((-1, 1, 2, 16))))
    data[at : at + width] = (value % 256**width).to_bytes(width, byteorder)


def _splice(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    other = files[chance.choice(list(files))]
    start, size = chance.randrange(len(other)), chance.choice((4, 16, 100, 1000))
    at = _place(chance, data)
    data[at : at + chance.choice((0, size))] = other[start : start + size]


def _insert(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    at = _place(chance, data)
    data[at:at] = chance.choice((b"\0", b"\xff", chance.randbytes(1))) * chance.choice((1, 2, 4, 64, 1000))


def _delete(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    at = _place(chance, data)
    del data[at : at + chance.choice((1, 2, 4, 64, 1000))]


def _repeat(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    at, size = _place(chance, data), chance.choice((2, 12, 100, 1000))
    data[at:at] = data[at : at + size] * chance.choice((1, 3, 50))


def _overwrite(chance: random.Random, data: bytearray, files: Mapping[str, bytes]) -> None:
    at, size = _place(chance, data), chance.choice((1, 4, 32, 500))
    data[at : at + size] = chance.choice((b"\0" * size, b"\xff" * size, chance.randbytes(size)))


_MUTATIONS: Mapping[str, Callable[[random.Random, bytearray, Mapping[str, bytes]], None]] = {
    "bits": _flip_bits,
    "length": _edit_length,
    "splice": _splice,
    "insert": _insert,
    "delete": _delete,
    "repeat": _repeat,
    "overwrite": _overwrite,
}


def needed_bytes(data: bytes) -> int:
    """A sound file cut below this many bytes has lost bytes of its first image. By the format, not by our decoder.

    0 where it cannot be told: then no cut of the file is judged.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_end(data)
    if data[:4] == b"\x89PNG":
        return max((end for kind, end in _png_chunks(data) if kind == b"IDAT"), default=0)
    if data[:4] == b"RIFF":
        return _webp_end(data)
    if data[:2] in {b"II", b"MM"}:
        return _tiff_end(data)
    if data[4:8] == b"ftyp":
        return _mdat_end(data)
    return 0


def _jpeg_end(data: bytes) -> int:
    """The last byte of entropy-coded data before the first picture's EOI."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 2 > len(data):
            return 0
        marker = data[at + 1]
        if marker == 0xD9:
            return at
        if marker in {0x00, 0x01, 0xFF, *range(0xD0, 0xD9)}:
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8 + length
        at += 12 + length


def _webp_end(data: bytes) -> int:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in {b"VP8 ", b"VP8L", b"ANMF"}:
            return at + 8 + int(length)
        at += 8 + length + length % 2
    return 0


def _tiff_end(data: bytes) -> int:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) != 1:
            return 0
        page = file.pages[0]
        return max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))


def _mdat_end(data: bytes) -> int:
    ends, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return 0
        at += size
        if kind == b"mdat":
            ends.append(at)
    # Which of several holds the first image is for iloc to say, and sequences share one.
    return ends[0] if len(ends) == 1 and b"moov" not in data else 0
