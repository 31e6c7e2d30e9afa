"""Where the bytes of a HEIF container's items lie (ISO/IEC 14496-12, 8.11; ISO/IEC 23008-12, 6 and 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_CODED_TYPES = frozenset({b"hvc1", b"av01"})
# A zero byte ends no NAL unit (ITU-T H.265, 7.4.2), and none of 132 files of libaom, flat ones among them, ended in
# one: zeros behind are the hole that an interrupted download leaves where the space was reserved first.
_MIN_ZEROS = 16


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `start` to `end` (exclusive) of the file belong to `item`."""

    item: int
    start: int
    end: int


class _Fields:
    """Big-endian fields, one behind the other."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._body)

    def take(self, num_bytes: int) -> int:
        """Raise IndexError where the box ends before."""
        self._at += num_bytes
        if self._at > len(self._body):
            raise IndexError("a box ends early")
        return int.from_bytes(self._body[self._at - num_bytes : self._at], "big")


def read_extents(iloc: bytes) -> Iterator[Extent]:
    """Yield each item's extents in the file from an ItemLocationBox' body (ISO/IEC 14496-12, 8.11.3).

    Raises ValueError where that cannot be said, IndexError where the box is too short.
    """
    fields = _Fields(iloc)
    version, _flags, sizes = fields.take(1), fields.take(3), fields.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(fields.take(2 if version < 2 else 4)):
        item = fields.take(2 if version < 2 else 4)
        method = fields.take(2) & 15 if version else 0
        reference, base = fields.take(2), fields.take(base_size)
        for _ in range(fields.take(2)):
            fields.take(index_size)
            start, length = base + fields.take(offset_size), fields.take(length_size)
            # Method 1 counts within the meta box, 2 within another item.
            if method == 0:
                if reference or not length:
                    raise ValueError("an item in another file, or of no told length")
                yield Extent(item, start, start + length)


def read_references(iref: bytes) -> list[tuple[bytes, int, tuple[int, ...]]]:
    """Return (kind, from, to) of each reference in an ItemReferenceBox' body. Raises IndexError where it ends early."""
    fields = _Fields(iref)
    id_size = 4 if fields.take(4) >> 24 else 2
    found = []
    while not fields.is_at_end:
        _size, kind, source = fields.take(4), fields.take(4).to_bytes(4, "big"), fields.take(id_size)
        found.append((kind, source, tuple(fields.take(id_size) for _ in range(fields.take(2)))))
    return found


def read_associations(ipma: bytes, item: int) -> list[int]:
    """Return the numbers, from 1, of the item's properties from an ItemPropertyAssociationBox' body.

    ISO/IEC 23008-12, 9.3. The top bit of an association says "essential" and is left out.
    """
    version, wide = ipma[0], bool(ipma[3] & 1)
    id_size, index_size = (2 if version == 0 else 4), (2 if wide else 1)
    at, found = 8, []
    for _ in range(int.from_bytes(ipma[4:8], "big")):
        if at + id_size >= len(ipma):
            break
        is_wanted = int.from_bytes(ipma[at : at + id_size], "big") == item
        count = ipma[at + id_size]
        at += id_size + 1
        if is_wanted:
            mask = 0x7FFF if wide else 0x7F
            ends = range(at, min(at + count * index_size, len(ipma) - index_size + 1), index_size)
            found += [int.from_bytes(ipma[i : i + index_size], "big") & mask for i in ends]
        at += count * index_size
    return found


def read_types(item_infos: Iterable[bytes]) -> dict[int, bytes]:
    """Return the type of each item by the bodies of its ItemInfoEntry boxes, of version 2 or 3."""
    types = {}
    for body in item_infos:
        id_size = 2 if body[:1] < b"\3" else 4
        types[int.from_bytes(body[4 : 4 + id_size], "big")] = body[6 + id_size : 10 + id_size]
    return types


def is_monochrome(kind: bytes, body: bytes) -> bool:
    """Whether this property is the configuration of a decoder for pixels without chroma."""
    if kind == b"av1C":  # AV1 in ISOBMFF, 2.3.3: the bit `monochrome`
        return len(body) > 2 and bool(body[2] & 0x10)
    # ISO/IEC 14496-15, 8.3.2.1.2: chroma_format_idc is 0
    return kind == b"hvcC" and len(body) > 16 and not body[16] & 3


def shown_items(
    primary: int, types: dict[int, bytes], references: list[tuple[bytes, int, tuple[int, ...]]], alphas: set[int]
) -> set[int]:
    """Return the coded items that the primary image and its alpha are made of: it itself, or the tiles of a grid."""
    items = {primary} | {source for kind, source, to in references if kind == b"auxl" and primary in to} & alphas
    for _ in range(len(references)):  # derived from derived ones: as deep as there are references at most
        more = {item for kind, source, to in references if kind == b"dimg" and source in items for item in to}
        if more <= items:
            break
        items |= more
    return {item for item in items if types.get(item) in _CODED_TYPES}


def ends_in_hole(data: bytes, extents: Iterable[Extent], items: set[int]) -> bool:
    """Whether the last extent of one of `items` ends in zeros that no encoder writes."""
    last = {extent.item: extent for extent in extents if extent.item in items}
    return any(
        extent.end - extent.start >= _MIN_ZEROS and not any(data[max(0, extent.end - _MIN_ZEROS) : extent.end])
        for extent in last.values()
    )
