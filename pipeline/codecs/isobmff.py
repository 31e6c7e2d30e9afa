"""The box structure that HEIC and AVIF share (ISO/IEC 14496-12, ISO/IEC 23008-12): what the decoders do not tell."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.heif_items import (
    ends_in_hole,
    is_monochrome,
    read_associations,
    read_extents,
    read_references,
    read_types,
    shown_items,
)
from pipeline.codecs.orientation import orientation_of
from pipeline.errors import CorruptImageError, TruncatedImageError

_TRACK_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
_MAX_BOXES = 100_000
# Top-level boxes that hold pixels or say where they are: one of these that is cut is a cut file.
_NEEDED = frozenset({b"ftyp", b"meta", b"moov", b"moof", b"mdat", b"imda"})

# Names of the alpha plane: of ISO/IEC 23008-12, 6.6.2.1.1, and of its annex on HEVC.
_ALPHA_NAMES = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """`orientation` (EXIF 1..8) equals the primary item's irot and imir; `num_frames` counts an image sequence's.

    `is_monochrome` says that the primary item is coded without chroma; of one made of other items it is False.
    `num_bytes` is where the last whole box ends; behind it are bytes that belong to none, if `has_junk`.
    """

    orientation: int
    has_clean_aperture: bool
    has_gain_map: bool
    is_sequence: bool
    is_monochrome: bool
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
    _check_for_holes(data, boxes)
    return ContainerFacts(
        orientation=orientation_of([turn for box in properties if (turn := _turn(data, box)) is not None]),
        has_clean_aperture=any(box.kind == b"clap" for box in properties),
        # A tone-mapped derived item (ISO 21496-1) or Apple's auxiliary image.
        has_gain_map=(item_info is not None and data.find(b"tmap", item_info.body, item_info.end) >= 0)
        or (iprp is not None and data.find(b":aux:hdrgainmap", iprp.body, iprp.end) >= 0),
        is_sequence=any(box.kind == b"moov" for box in top),
        is_monochrome=any(is_monochrome(box.kind, data[box.body : box.end]) for box in properties),
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
        return iloc is not None and all(extent.end <= end for extent in read_extents(data[iloc.body : iloc.end]))
    except (IndexError, ValueError):
        return False


def _check_for_holes(data: bytes, boxes: dict[bytes, _Box]) -> None:
    """Refuse a file of full length whose shown items end in zeros. What cannot be read is left to the decoder."""
    if not {b"iloc", b"iinf", b"pitm"} <= boxes.keys():
        return
    iloc, iinf, iref = boxes[b"iloc"], boxes[b"iinf"], boxes.get(b"iref")
    try:
        extents = list(read_extents(data[iloc.body : iloc.end]))
        references = [] if iref is None else read_references(data[iref.body : iref.end])
    except (IndexError, ValueError):
        return
    types = read_types(data[box.body : box.end] for box in _item_infos(data, iinf) if box.kind == b"infe")
    auxiliary = {source for kind, source, _ in references if kind == b"auxl"}
    alphas = {item for item in auxiliary if _is_alpha(data, _item_properties(data, boxes, item))}
    if ends_in_hole(data, extents, shown_items(_primary(data, boxes[b"pitm"]), types, references, alphas)):
        raise TruncatedImageError("the end of the coded pixels was never written: it is all zeros")


def _is_alpha(data: bytes, properties: list[_Box]) -> bool:
    names = [data[box.body + 4 : box.end].rstrip(b"\0") for box in properties if box.kind == b"auxC"]
    return any(name.startswith(_ALPHA_NAMES) for name in names)


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
    if b"pitm" not in meta or b"iprp" not in meta:
        raise CorruptImageError("this HEIF container names no primary image")
    return _item_properties(data, meta, _primary(data, meta[b"pitm"]))


def _primary(data: bytes, pitm: _Box) -> int:
    return int.from_bytes(data[pitm.body + 4 : pitm.body + (6 if data[pitm.body] == 0 else 8)], "big")


def _item_properties(data: bytes, meta: dict[bytes, _Box], item: int) -> list[_Box]:
    iprp = meta[b"iprp"]
    parts = list(_boxes(data, iprp.body, iprp.end))
    container = next((box for box in parts if box.kind == b"ipco"), None)
    if container is None:
        raise CorruptImageError("this HEIF container has no item properties")
    properties = list(_boxes(data, container.body, container.end))
    indices: list[int] = []
    for box in parts:
        if box.kind == b"ipma":
            indices += read_associations(data[box.body : box.end], item)
    return [properties[index - 1] for index in indices if 1 <= index <= len(properties)]


def _turn(data: bytes, box: _Box) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    value = data[box.body] if box.body < box.end else 0
    if box.kind == b"irot":  # counter-clockwise quarter turns
        return lambda pixels: np.rot90(pixels, value & 3)
    if box.kind == b"imir":  # 0 exchanges top and bottom, 1 left and right
        return np.fliplr if value & 1 else np.flipud
    return None


def _check_item_names(data: bytes, item_info: _Box) -> None:
    """Refuse item types and content types that are not text: pi-heif 1.4 crashes the process on them."""
    for box in _item_infos(data, item_info):
        # ItemInfoEntry: version and flags, item ID (16 bits, 32 from version 3), protection index, then text.
        text = data[box.body + (8 if data[box.body] < 3 else 10) : box.end]
        if box.kind == b"infe" and not (text[:4].isascii() and text[:4].isalnum() and _is_utf8(text)):
            raise CorruptImageError("this HEIF container has an item of no readable type")


def _item_infos(data: bytes, item_info: _Box) -> Iterator[_Box]:
    return _boxes(data, item_info.body + (6 if data[item_info.body] == 0 else 8), item_info.end)


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
