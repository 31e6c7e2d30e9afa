"""Orphans: left by an interrupted run of a planned source, somebody else's, or what is left of a plan that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.codecs.exr import read_exr_identity
from pipeline.errors import ObjectMissingError, StorageError, TransientStorageError, VerifyError
from pipeline.sharding.names import OUTPUT_SUFFIX, output_key
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding
from pipeline.verification.ledger import Ledger

ORPHAN_TEXT = "belongs to no row; an interrupted run adopts it if it is whole, and leaves it here if it is not"
_REVISION = re.compile(r"\.v(?:[2-9]|[1-9][0-9]+)\Z")
_HEADER_BYTES = 2**18  # with the chunk offsets of all but the tallest images


def check_orphans(store: ObjectStore, ledger: Ledger, orphans: Sequence[str]) -> Iterator[Finding]:
    """Tell orphans that may be deleted from outputs whose plan and rows are gone.

    The rows in `ledger` have to be those of every planned image. An output of ours whose source they do not name was
    planned once, so its plan is lost: it may be the only copy. Raises TransientStorageError where the store is
    unavailable.
    """
    if not orphans:
        return
    unplanned = {_first_output(key) for key in orphans}
    for source in ledger.sources():
        unplanned.discard(output_key(source, 1))
    for key in orphans:
        if _first_output(key) in unplanned and _may_be_ours(store, key):
            yield Finding("orphan_unplanned", key, "an output of hdrfleet whose source is in no plan; is a plan gone?")
        else:
            yield Finding("orphan", key, ORPHAN_TEXT)


def _first_output(key: str) -> str:
    """The key of revision 1 of the same source."""
    return _REVISION.sub("", key.removesuffix(OUTPUT_SUFFIX)) + OUTPUT_SUFFIX


def _may_be_ours(store: ObjectStore, key: str) -> bool:
    """Whether hdrfleet wrote it; True where it cannot be read, for nothing says then that it is not."""
    try:
        data = store.read_range(key, 0, _HEADER_BYTES)
        try:
            return read_exr_identity(data) is not None
        except VerifyError:
            return len(data) == _HEADER_BYTES and read_exr_identity(store.read(key)) is not None
    except (VerifyError, ObjectMissingError):
        return False
    except TransientStorageError:
        raise
    except StorageError:
        return True
