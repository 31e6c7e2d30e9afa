"""What a soak has to have come to: outputs as if nothing had happened, and memory that stays."""

from __future__ import annotations

import csv
import hashlib
import io
import statistics
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import OpenEXR
from independent_checker import Folder, Row, comparable

# Copies of one picture differ in these alone, and in what `comparable` leaves out.
_OF_THE_NAME = frozenset({"source", "source_etag", "output_bytes", "output_sha256", "plan", "shard"})


@dataclass(frozen=True)
class Expected:
    """What becomes of one picture where nothing happens."""

    pixels_sha256: str
    row: Row


def expectations(reader: Folder, rows: list[Row]) -> dict[str, Expected]:
    """By the digest of the picture, from the rows and outputs of an undisturbed job; its rows have no other copies."""
    return {row["source_sha256"]: Expected(_digests(reader, row)[1], _without_names(row)) for row in rows}


def require_as_undisturbed(reader: Folder, rows: list[Row], expected: dict[str, Expected]) -> None:
    """Read every output: it holds the bytes of its row, and the pixels and statistics that were expected."""

    def check(row: Row) -> None:
        file_sha256, pixels_sha256 = _digests(reader, row)
        assert file_sha256 == row["output_sha256"], f"other bytes: {row}"
        assert pixels_sha256 == expected[row["source_sha256"]].pixels_sha256, f"other pixels: {row}"
        assert _without_names(row) == expected[row["source_sha256"]].row, "another row"

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(check, rows):
            pass


def _digests(reader: Folder, row: Row) -> tuple[str, str]:
    """That of an output's bytes, and that of its pixels."""
    data = reader.read(row["output"])
    pixels = OpenEXR.File(io.BytesIO(data)).channels()["RGB"].pixels
    assert pixels.shape == (row["height"], row["width"], 3)
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(pixels.tobytes()).hexdigest()


def _without_names(row: Row) -> Row:
    (plain,) = comparable([row])
    return {name: value for name, value in plain.items() if name not in _OF_THE_NAME | {"output"}}


@dataclass(frozen=True)
class Held:
    """The resident memory of one process over time, in bytes: of a role, by its pid."""

    role: str
    pid: str
    num_bytes: tuple[int, ...]

    @property
    def growth(self) -> float:
        """The last quarter over the second: 1 where memory is flat, whatever starting takes."""
        second, last = self._quarters()
        return last / second

    @property
    def grown_bytes(self) -> float:
        """The last quarter less the second."""
        second, last = self._quarters()
        return last - second

    def _quarters(self) -> tuple[float, float]:
        quarter = len(self.num_bytes) // 4
        return statistics.median(self.num_bytes[quarter : 2 * quarter]), statistics.median(self.num_bytes[-quarter:])


def held_memory(file: Path, *, min_samples: int) -> Sequence[Held]:
    """The processes of which there are enough samples, those with most of them first."""
    held: dict[tuple[str, str], list[int]] = defaultdict(list)
    with file.open(newline="") as samples:
        for _, role, pid, num_bytes in csv.reader(samples):
            held[role, pid].append(int(num_bytes))
    found = [Held(role, pid, tuple(values)) for (role, pid), values in held.items() if len(values) >= min_samples]
    return sorted(found, key=lambda each: -len(each.num_bytes))
