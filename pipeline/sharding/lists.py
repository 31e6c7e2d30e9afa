"""Lists of images: `.txt`, `.csv` and `.parquet` files that name one image per line or row.

A text list holds one path or URL per line, without the blanks around it; empty lines and lines that start with `#` are
skipped. In the other two, blanks belong to a name, but for those before a cell of CSV that is not quoted. A CSV or
Parquet list has a column named `source`, `path`, `key`, `url` or `uri` (the first of these that is there), or a single
column. Entries are relative to the list's folder, absolute local paths, or URLs; all of one scheme, in any number of
buckets. What is listed is taken whatever its extension.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SourceError, first_line
from pipeline.records import ImageTask
from pipeline.sharding.locations import Location, part_entry, resolve_entry, without_dots
from pipeline.sharding.names import unrooted
from pipeline.sharding.web_parameters import Parted, is_on_web, told_apart_by
from pipeline.storage.keys import is_valid_key

COLUMN_NAMES = ("source", "path", "key", "url", "uri")

_Entries = Iterator[tuple[int, str]]


def read_list(data: bytes, location: Location) -> list[ImageTask]:
    """Return the listed images in order, each once.

    `location` is where the list lies. Size and etag are not known yet (0 and empty); keys are absolute paths or URLs
    for `RoutedStore`. Raises SourceError, in one line with the list's name and the line, for what cannot be read.
    """
    read_entries = {".txt": _text_entries, ".csv": _csv_entries, ".parquet": _parquet_entries}
    try:
        entries = read_entries[posixpath.splitext(location.key)[1].lower()](data)
        tasks = _resolve_all(entries, location)
    except SourceError as error:
        raise SourceError(f"{location.url}: {error}") from error
    if not tasks:
        raise SourceError(f"{location.url}: the list names no image")
    return tasks


def _resolve_all(entries: _Entries, location: Location) -> list[ImageTask]:
    folder = Location(location.scheme, location.root, posixpath.dirname(location.key))
    tasks: dict[str, ImageTask] = {}
    keys_by_output: dict[str, str] = {}
    with_secrets: dict[str, Parted] = {}
    scheme = None
    for line, entry in entries:
        parted = part_entry(entry, is_beside_web=is_on_web(folder.url))
        place = _resolve(parted.url, folder, line)
        scheme = scheme or place.scheme
        if place.scheme != scheme:
            raise SourceError(
                f"line {line}: {parted.url!r} is {place.scheme}, the entries before are {scheme}; split the list"
            )
        key, name = place.url, _plain(parted.url)
        if key in tasks:
            with_secrets[key] = _one_image(with_secrets.get(key, Parted(parted.url)), parted, line)
            continue
        if parted.secrets or parted.either:
            with_secrets[key] = parted
        if keys_by_output.setdefault(unrooted(name), key) != key:
            raise SourceError(f"line {line}: the output of {name!r} would be that of an earlier entry; list full paths")
        tasks[key] = ImageTask(name, key, 0, "")
    return list(tasks.values())


def _one_image(earlier: Parted, parted: Parted, line: int) -> Parted:
    """Return what is known of two entries that are recorded as one. Raises SourceError where they may be two images."""
    if names := told_apart_by(earlier, parted):
        raise SourceError(
            f"line {line}: {parted.url!r} is an earlier entry but for {', '.join(map(repr, names))}, which may be a "
            "secret, and so is neither recorded nor sent; list addresses that differ in something else"
        )
    return earlier if earlier.secrets else parted


def _plain(name: str) -> str:
    """A relative name as a walk below the list's folder gives it: `./a.jpg` (so `find .` writes it) is `a.jpg`."""
    is_walked = name.startswith("/") or "://" in name or {".", ".."}.isdisjoint(name.split("/"))
    return name if is_walked else without_dots(name)


def _resolve(entry: str, folder: Location, line: int) -> Location:
    try:
        place = resolve_entry(entry, folder)
    except SourceError as error:
        raise SourceError(f"line {line}: {error}") from error
    if not is_valid_key(place.key):
        raise SourceError(f"line {line}: {entry!r} does not name a file or object")
    return place


def _text_entries(data: bytes) -> _Entries:
    for line, text in enumerate(_decode(data).split("\n"), start=1):
        entry = text.strip()
        if entry and not entry.startswith("#"):
            yield line, entry


def _csv_entries(data: bytes) -> _Entries:
    rows = csv.reader(io.StringIO(_decode(data), newline=""), strict=True, skipinitialspace=True)
    column = -1
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if column < 0:
                column, is_header = _csv_column(row)
                if is_header:
                    continue
            if column >= len(row):
                raise SourceError(f"line {rows.line_num}: has {len(row)} columns, not the {column + 1} that are needed")
            if row[column].strip():
                yield rows.line_num, row[column]
    except csv.Error as error:
        raise SourceError(f"line {rows.line_num}: {error}") from error


def _csv_column(first: list[str]) -> tuple[int, bool]:
    """Pick the column from the first row, and tell whether that row is a header."""
    names = [cell.strip().lower() for cell in first]
    for name in COLUMN_NAMES:
        if name in names:
            return names.index(name), True
    if len(names) == 1:
        for separator in (";", "\t"):
            if not set(names[0].split(separator)).isdisjoint(COLUMN_NAMES) and separator in names[0]:
                raise SourceError(f"columns are separated by commas here, not by {separator!r}; found {names[0]!r}")
        # A single column under some other heading: headings hold neither a folder nor an extension.
        return 0, "/" not in names[0] and "." not in names[0]
    raise SourceError(f"no column is named {_choices()}; found {', '.join(names)}")


def _parquet_entries(data: bytes) -> _Entries:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        lowered = [name.lower() for name in names]
        found = next((names[lowered.index(name)] for name in COLUMN_NAMES if name in lowered), None)
        if found is None and len(names) == 1:
            found = names[0]
        if found is None:
            raise SourceError(f"no column is named {_choices()}; found {', '.join(names)}")
        line = 0
        for batch in file.iter_batches(columns=[found]):
            for value in batch.column(0).to_pylist():
                line += 1
                if value is not None and not isinstance(value, str):
                    raise SourceError(f"row {line}: column {found!r} holds {type(value).__name__}, not text")
                if value:
                    yield line, value
    except pa.ArrowException as error:
        raise SourceError(f"not a readable Parquet file: {first_line(error)}") from error


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"not UTF-8 text (byte {error.start})") from error


def _choices() -> str:
    return f"{', '.join(COLUMN_NAMES[:-1])} or {COLUMN_NAMES[-1]}"
