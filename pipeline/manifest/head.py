"""Heads: `manifest/head/<g>.json` commits generation `g` and says which shards its files stand for.

A generation holds all rows that were committed when it was made, in files of its own and in those of earlier ones that
needed no change. Heads are created, never overwritten; the highest one counts. Files of `manifest/gen-<g>/` that no
head names mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from pydantic import Field, ValidationError

from pipeline.config import FrozenModel
from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.manifest.parts import MANIFEST_PREFIX
from pipeline.storage.base import ObjectInfo, ObjectStore

HEAD_PREFIX = f"{MANIFEST_PREFIX}/head"
HEAD_SCHEMA_VERSION = 1
MAX_LOOKS = 5  # how often a reader looks again when a collection has removed what it listed
_HEAD_KEY = re.compile(rf"{HEAD_PREFIX}/([1-9][0-9]*)\.json")
_GENERATION_KEY = re.compile(rf"{MANIFEST_PREFIX}/gen-([1-9][0-9]*)/.+")


class GenerationFile(FrozenModel):
    """One Parquet file of a generation. It holds whole shards: those of (plan, shard) `first` to `last`."""

    key: str
    sha256: str
    num_bytes: int = Field(ge=1)
    num_rows: int = Field(ge=1)
    first: tuple[int, int]
    last: tuple[int, int]


class CollectedFile(FrozenModel):
    """One Parquet file that names outputs whose rows say that they were collected, in its only column `output`."""

    key: str
    sha256: str
    num_rows: int = Field(ge=1)


class Head(FrozenModel):
    """What `head/<g>.json` says. `created_at` is UTC in ISO 8601.

    `files` ascend and do not overlap. `covered` holds inclusive ranges of shards by plan, ascending: the parts of these
    shards are in the files, and whatever lies at their keys counts no longer. `collected` names the outputs that no
    attempt may adopt or make anew.
    """

    schema_version: int = HEAD_SCHEMA_VERSION
    generation: int = Field(ge=1)
    created_at: str
    software_version: str
    num_rows: int = Field(ge=0)
    files: tuple[GenerationFile, ...]
    collected: tuple[CollectedFile, ...] = ()
    covered: dict[int, tuple[tuple[int, int], ...]]

    def file_keys(self) -> tuple[str, ...]:
        """The keys of everything that it names."""
        return (*(file.key for file in self.files), *(file.key for file in self.collected))

    def covers(self, plan: int, shard: int) -> bool:
        """Whether the rows of this shard are in the generation's files."""
        ranges = self.covered.get(plan, ())
        index = bisect_right(ranges, shard, key=lambda span: span[0]) - 1
        return index >= 0 and shard <= ranges[index][1]

    def covered_shards(self, plan: int) -> set[int]:
        """The shards of one plan that it covers."""
        return {shard for first, last in self.covered.get(plan, ()) for shard in range(first, last + 1)}

    def covered_between(self, first: tuple[int, int], last: tuple[int, int]) -> set[tuple[int, int]]:
        """The covered (plan, shard) from `first` to `last`, both included: those whose rows such a file holds."""
        return {
            (plan, shard)
            for plan, spans in self.covered.items()
            if first[0] <= plan <= last[0]
            for start, stop in spans
            for shard in range(
                max(start, first[1]) if plan == first[0] else start,
                min(stop, last[1]) + 1 if plan == last[0] else stop + 1,
            )
        }


def head_key(generation: int) -> str:
    """The key of a generation's head below DST."""
    return f"{HEAD_PREFIX}/{generation}.json"


def generation_folder(generation: int) -> str:
    """The folder of a generation's files below DST."""
    return f"{MANIFEST_PREFIX}/gen-{generation}"


def generation_number(key: str) -> int | None:
    """The generation whose folder `key` lies in; None for any other object."""
    match = _GENERATION_KEY.fullmatch(key)
    return int(match[1]) if match else None


def shard_ranges(shards: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Fold numbers into ascending inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for shard in sorted(set(shards)):
        if ranges and ranges[-1][1] == shard - 1:
            ranges[-1] = (ranges[-1][0], shard)
        else:
            ranges.append((shard, shard))
    return tuple(ranges)


def list_heads(store: ObjectStore) -> dict[int, ObjectInfo]:
    """The heads that are there, by generation, ascending. Reads nothing."""
    found = {int(match[1]): info for info in store.list(HEAD_PREFIX) if (match := _HEAD_KEY.fullmatch(info.key))}
    return dict(sorted(found.items()))


def newest_head(store: ObjectStore) -> Head | None:
    """Read the highest head; None where there is none. Raises ManifestError as `read_head`, StorageError."""
    for _ in range(MAX_LOOKS - 1):
        heads = list_heads(store)
        if not heads:
            return None
        try:
            return read_head(store, max(heads))
        except ObjectMissingError:
            continue  # superseded and collected in between
    heads = list_heads(store)
    return read_head(store, max(heads)) if heads else None


def read_head(store: ObjectStore, generation: int) -> Head:
    """Read one head. Raises ObjectMissingError; ManifestError where it is damaged or of a newer release."""
    key = head_key(generation)
    try:
        raw = json.loads(store.read(key))
        version = raw.get("schema_version") if isinstance(raw, Mapping) else None
        if isinstance(version, int) and version > HEAD_SCHEMA_VERSION:
            raise ManifestError(f"{key}: this manifest was compacted by a newer hdrfleet: upgrade to read it")
        head = Head.model_validate_json(json.dumps(raw))
    except (ValueError, ValidationError) as error:
        raise ManifestError(f"{key}: not the head of a manifest") from error
    if head.generation != generation:
        raise ManifestError(f"{key}: says generation {head.generation}")
    return head


def read_named(store: ObjectStore, file: GenerationFile | CollectedFile) -> bytes:
    """Read a file that a head names. Raises ObjectMissingError; ManifestError where it is not what was named."""
    data = store.read(file.key)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ManifestError(f"{file.key}: not the file that its head names: its SHA-256 differs")
    return data
