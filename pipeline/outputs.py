"""Where an EXR becomes durable: created once under its own identity, adopted when already there, never overwritten."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.codecs.exr import OutputIdentity, read_exr_identity
from pipeline.errors import (
    CredentialsError,
    ManifestError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    VerifyError,
)
from pipeline.manifest import CollectedOutputs, DistrustedOutputs
from pipeline.ownership import OWNED, Ownership
from pipeline.records import ImageTask
from pipeline.sharding import output_key
from pipeline.storage import ObjectStore

# One source converted under this many identities at one DST is a fault, not a history.
_MAX_REVISIONS = 10_000


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """An EXR in the destination. `data` is what the store holds; `adopted` when an earlier attempt put it there."""

    key: str
    revision: int
    data: bytes
    sha256: str
    adopted: bool


IsWhole = Callable[[bytes], bool]
"""Whether the bytes of an EXR decode to the image that they are to hold; asked of what an earlier attempt stored."""


class OutputStore:
    """Creates and finds outputs by identity (docs/adr/0002-commit-protocol.md).

    What has the identity and is damaged is passed by, and stays where it is, nobody's. Two attempts that race may
    judge one object differently, where one of them was handed other bytes than the other: one adopts it, the other
    makes the next revision. Both then hold rows of outputs that they read or wrote whole themselves, and the first of
    their parts counts; the other's output is left to nobody. An attempt that sees the next revision too adopts that
    one, which is as good. So no row ever names what its attempt did not see whole, and nothing that a row names is
    touched, on stores that decide races and, as far as they keep what they were given, on those that do not.
    """

    def __init__(self, store: ObjectStore, ownership: Ownership = OWNED) -> None:
        self._store = store
        self._ownership = ownership
        self._collected = CollectedOutputs(store)
        self._distrusted = DistrustedOutputs(store)

    def refresh(self) -> None:
        """Look which outputs were collected or found bad; to be called when work on a shard begins.

        Raises ManifestError where the destination's records of these are damaged; StorageError.
        """
        self._collected.refresh()
        self._distrusted.refresh()

    def _is_given_up(self, key: str) -> bool:
        """Whether nobody may adopt this output, nor make another under its name: rows and records speak of it.

        They may do so by another name where the store ignores case, or how accents are written.
        """
        return any(
            key in given_up or any(self._are_one(key, other) for other in given_up.written_otherwise(key))
            for given_up in (self._collected, self._distrusted)
        )

    def _are_one(self, key: str, other: str) -> bool:
        try:
            return self._store.stat(key).etag == self._store.stat(other).etag
        except ObjectMissingError:
            return False

    def find(
        self, task: ImageTask, identity: OutputIdentity, is_whole: IsWhole, *, first_revision: int = 1
    ) -> StoredOutput | None:
        """Return the stored output of this identity, of `first_revision` or a later one; None where there is none.

        An earlier revision than the planned one fits when a source was touched without a change, or changed back. The
        newest comes first; what a repair found bad is passed by, whatever identity it carries, and what is damaged
        too. Raises StorageError where the store does not give what is there: that says nothing about it.
        """
        there = list(self._existing(task, first_revision))
        for revision in reversed(there):
            key = output_key(task.source, revision)
            if self._is_given_up(key):
                continue  # about to be deleted, or found bad
            data = self._read_if_identical(key, identity)
            if data is not None and is_whole(data):
                return StoredOutput(key, revision, data, _sha256(data), adopted=True)
        return None

    def _existing(self, task: ImageTask, first_revision: int) -> Iterator[int]:
        """Yield the revisions that are there, to the first gap from the planned one on; what was given up is none."""
        for revision in range(first_revision, _MAX_REVISIONS):
            key = output_key(task.source, revision)
            try:
                self._store.stat(key)
            except ObjectMissingError:
                if revision >= task.revision and not self._is_given_up(key):
                    return
            else:
                yield revision
        raise ManifestError(f"{task.source}: {_MAX_REVISIONS} revisions are taken")

    def put(self, task: ImageTask, identity: OutputIdentity, data: bytes, is_whole: IsWhole) -> StoredOutput:
        """Create the output at the first revision that is free; adopt what has the same identity and is whole.

        A revision that was collected or found bad is not free: rows name it. Raises CredentialsError when the
        destination refuses writes, LeaseLostError where another driver owns it, StorageError.
        """
        sha256 = _sha256(data)
        self._ownership.require()
        for revision in range(task.revision, _MAX_REVISIONS):
            key = output_key(task.source, revision)
            if self._is_given_up(key):
                continue
            try:
                self._store.create(key, data, metadata=_metadata(identity))
                return StoredOutput(key, revision, data, sha256, adopted=False)
            except ObjectExistsError:
                stored = self._read_if_identical(key, identity)
            except ObjectDeniedError as error:
                raise CredentialsError(f"the destination refuses writes: {error}") from error
            # Equal bytes are our own success whose answer was lost, or an attempt that computed the same.
            if stored is not None and (stored == data or is_whole(stored)):
                stored_sha256 = _sha256(stored)
                return StoredOutput(key, revision, stored, stored_sha256, adopted=stored_sha256 != sha256)
            # Somebody made another output here. If that is who took over, the next revision is not ours to make.
            self._ownership.confirm()
        raise ManifestError(f"{task.source}: {_MAX_REVISIONS} revisions are taken")

    def _read_if_identical(self, key: str, identity: OutputIdentity) -> bytes | None:
        """The object's bytes if it has this identity; None if it has another, or is not there."""
        try:
            metadata = self._store.stat(key).metadata
            known = _identity_of(metadata)
            if known is not None and known != identity:
                return None
            data = self._store.read(key)
        except ObjectMissingError:
            return None
        # The header decides even where metadata agreed: metadata can be copied without the bytes.
        try:
            return data if read_exr_identity(data) == identity else None
        except VerifyError:
            return None  # not an EXR that anybody can read: not ours to replace either


_METADATA_PREFIX = "hdrfleet-"
_METADATA_FIELDS = ("source_sha256", "pixel_digest", "weights_sha256")


def _metadata(identity: OutputIdentity) -> dict[str, str]:
    return {_METADATA_PREFIX + name.replace("_", "-"): getattr(identity, name) for name in _METADATA_FIELDS}


def _identity_of(metadata: Mapping[str, str]) -> OutputIdentity | None:
    values = [metadata.get(_METADATA_PREFIX + name.replace("_", "-")) for name in _METADATA_FIELDS]
    return OutputIdentity(*[value for value in values if value]) if all(values) else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
