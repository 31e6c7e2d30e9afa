"""The box structure that HEIC and AVIF share (ISO/IEC 14496-12, ISO/IEC 23008-12): what the decoders do not tell."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.orientation import orientation_of
from pipeline.errors import CorruptImageError, TruncatedImageError

_TRACK_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
_MAX_BOXES = 100_000
# Top-level boxes that hold pixels or say where they are: one of these that is cut is a cut file.
_NEEDED = frozenset({b"ftyp", b"meta", b"moov", b"moof", b"mdat", b"imda"})


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """`orientation` (EXIF 1..8) equals the primary item's irot and imir; `num_frames` counts an image sequence's.

    `num_bytes` is where the last whole box ends; behind it are bytes that belong to none, if `has_junk`.
    """

    orientation: int
    has_clean_aperture: bool
    has_gain_map: bool
    is_sequence: bool
    num_frames: int
    num_bytes: int
    has_junk: bool


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    body: int
    end: int


def read_container(data: bytes) -> ContainerFacts:
    """Check that every top-level box lies in the file, and read the facts. Truncated and corrupt files raise.

    Bytes behind the last box that make none, where all items lie before them, are junk and no damage.
    """
    top, num_bytes = _top_boxes(data)
    meta = next((box for box in top if box.kind == b"meta"), None)
    if meta is None:
        raise CorruptImageError("no image items in this HEIF container")
    boxes = {box.kind: box for box in _boxes(data, meta.body + 4, meta.end)}
    properties = _primary_properties(data, boxes)
    frames = _sequence_frames(data, top)
    item_info, iprp = boxes.get(b"iinf"), boxes.get(b"iprp")
    if item_info is not None:
        _check_item_names(data, item_info)
    return ContainerFacts(
        orientation=orientation_of([turn for box in properties if (turn := _turn(data, box)) is not None]),
        has_clean_aperture=any(box.kind == b"clap" for box in properties),
        # A tone-mapped derived item (ISO 21496-1) or Apple's auxiliary image.
        has_gain_map=(item_info is not None and data.find(b"tmap", item_info.body, item_info.end) >= 0)
        or (iprp is not None and data.find(b":aux:hdrgainmap", iprp.body, iprp.end) >= 0),
        is_sequence=any(box.kind == b"moov" for box in top),
        num_frames=frames,
        num_bytes=num_bytes,
        has_junk=num_bytes < len(data),
    )


def primary_size(head: bytes) -> tuple[int, int] | None:
    """The primary image's (width, height) in pixels as stored, from the file's first bytes; None where they end before.

    Raises CorruptImageError for a container that names no primary image or gives it no size.
    """
    try:
        meta = next((box for box in _boxes(head, 0, len(head), is_top=True) if box.kind == b"meta"), None)
    except TruncatedImageError:
        return None
    if meta is None:
        return None
    boxes = {box.kind: box for box in _boxes(head, meta.body + 4, meta.end)}
    properties = {box.kind: box for box in _primary_properties(head, boxes)}
    if b"clap" in properties:  # the clean aperture that is cut out: two fractions (ISO/IEC 14496-12, 12.1.4)
        width, by_width, height, by_height = struct.unpack_from(">IIII", head, properties[b"clap"].body)
        return width // max(1, by_width), height // max(1, by_height)
    if b"ispe" not in properties:
        raise CorruptImageError("this HEIF container gives its primary image no size")
    width, height = struct.unpack_from(">II", head, properties[b"ispe"].body + 4)
    return width, height


def _top_boxes(data: bytes) -> tuple[list[_Box], int]:
    """Return the top-level boxes and where they end."""
    top: list[_Box] = []
    try:
        # One by one: those before the fault count.
        for box in _boxes(data, 0, len(data), is_top=True):
            top.append(box)  # noqa: PERF402
    except (TruncatedImageError, CorruptImageError):
        end = top[-1].end if top else 0
        is_needed = data[end + 4 : end + 8] in _NEEDED or any(box.kind == b"moov" for box in top)
        meta = next((box for box in top if box.kind == b"meta"), None)
        if is_needed or meta is None or len(top) >= _MAX_BOXES or not _has_all_items_before(data, meta, end):
            raise
        return top, end
    return top, len(data)


def _has_all_items_before(data: bytes, meta: _Box, end: int) -> bool:
    iloc = next((box for box in _boxes(data, meta.body + 4, meta.end) if box.kind == b"iloc"), None)
    try:
        return iloc is not None and all(stop <= end for stop in _extent_ends(data[iloc.body : iloc.end]))
    except (IndexError, ValueError):
        return False


def _extent_ends(body: bytes) -> Iterator[int]:
    """Yield where in the file each extent of an item ends (ItemLocationBox, ISO/IEC 14496-12, 8.11.3).

    Raises ValueError where that cannot be said, IndexError where the box is too short.
    """
    at = 0

    def take(num_bytes: int) -> int:
        nonlocal at
        at += num_bytes
        if at > len(body):
            raise IndexError("iloc ends early")
        return int.from_bytes(body[at - num_bytes : at], "big")

    version, _flags, sizes = take(1), take(3), take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(take(2 if version < 2 else 4)):
        take(2 if version < 2 else 4)  # the item
        method = take(2) & 15 if version else 0
        reference, base = take(2), take(base_size)
        for _ in range(take(2)):
            take(index_size)
            start, length = base + take(offset_size), take(length_size)
            # Method 1 counts within the meta box, 2 within another item.
            if method == 0:
                if reference or not length:
                    raise ValueError("an item in another file, or of no told length")
                yield start + length


def _boxes(data: bytes, at: int, end: int, *, is_top: bool = False) -> Iterator[_Box]:
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            size = int.from_bytes(data[body : body + 8], "big")
            body += 8
        elif size == 0:
            size = end - at
        if at + size > end:
            if is_top:
                raise TruncatedImageError(f"the file ends within its {kind.decode('latin-1')!r} box")
            raise CorruptImageError(f"the {kind.decode('latin-1')!r} box is longer than its parent")
        if at + size < body:
            raise CorruptImageError("a box with an impossible size")
        yield _Box(kind, body, at + size)
        at += size
    raise CorruptImageError("too many boxes")


def _primary_properties(data: bytes, meta: dict[bytes, _Box]) -> list[_Box]:
    """Return the primary item's properties in the order in which they apply."""
    pitm, iprp = meta.get(b"pitm"), meta.get(b"iprp")
    if pitm is None or iprp is None:
        raise CorruptImageError("this HEIF container names no primary image")
    primary = int.from_bytes(data[pitm.body + 4 : pitm.body + (6 if data[pitm.body] == 0 else 8)], "big")
    parts = list(_boxes(data, iprp.body, iprp.end))
    container = next((box for box in parts if box.kind == b"ipco"), None)
    if container is None:
        raise CorruptImageError("this HEIF container has no item properties")
    properties = list(_boxes(data, container.body, container.end))
    indices: list[int] = []
    for box in parts:
        if box.kind == b"ipma":
            indices += _associations(data[box.body : box.end], primary)
    return [properties[index - 1] for index in indices if 1 <= index <= len(properties)]


def _associations(body: bytes, item: int) -> list[int]:
    # ItemPropertyAssociationBox, ISO/IEC 23008-12, 9.3: the top bit of an association says "essential".
    version, wide = body[0], bool(body[3] & 1)
    id_size, index_size = (2 if version == 0 else 4), (2 if wide else 1)
    at, found = 8, []
    for _ in range(int.from_bytes(body[4:8], "big")):
        if at + id_size >= len(body):
            break
        is_wanted = int.from_bytes(body[at : at + id_size], "big") == item
        count = body[at + id_size]
        at += id_size + 1
        if is_wanted:
            mask = 0x7FFF if wide else 0x7F
            ends = range(at, min(at + count * index_size, len(body) - index_size + 1), index_size)
            found += [int.from_bytes(body[i : i + index_size], "big") & mask for i in ends]
        at += count * index_size
    return found


def _turn(data: bytes, box: _Box) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    value = data[box.body] if box.body < box.end else 0
    if box.kind == b"irot":  # counter-clockwise quarter turns
        return lambda pixels: np.rot90(pixels, value & 3)
    if box.kind == b"imir":  # 0 exchanges top and bottom, 1 left and right
        return np.fliplr if value & 1 else np.flipud
    return None


def _check_item_names(data: bytes, item_info: _Box) -> None:
    """Refuse item types and content types that are not text: pi-heif 1.4 crashes the process on them."""
    first = item_info.body + (6 if data[item_info.body] == 0 else 8)
    for box in _boxes(data, first, item_info.end):
        # ItemInfoEntry: version and flags, item ID (16 bits, 32 from version 3), protection index, then text.
        text = data[box.body + (8 if data[box.body] < 3 else 10) : box.end]
        if box.kind == b"infe" and not (text[:4].isascii() and text[:4].isalnum() and _is_utf8(text)):
            raise CorruptImageError("this HEIF container has an item of no readable type")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _sequence_frames(data: bytes, top: list[_Box]) -> int:
    boxes = top
    for kind in _TRACK_PATH:
        box = next((box for box in boxes if box.kind == kind), None)
        if box is None:
            return 1
        boxes = [] if kind == b"stsz" else list(_boxes(data, box.body, box.end))
    return max(int.from_bytes(data[box.body + 8 : box.body + 12], "big"), 1) if box is not None else 1
