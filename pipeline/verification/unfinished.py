"""What killed writers left unfinished: temporary files and pending uploads, and whether they could be looked for."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import ObjectDeniedError, StorageError, TransientStorageError
from pipeline.manifest.parts import MANIFEST_PREFIX
from pipeline.sharding.names import OUTPUT_FOLDER
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding

_OUR_FOLDERS = ("_hdrfleet", OUTPUT_FOLDER, MANIFEST_PREFIX)


def check_unfinished(store: ObjectStore, notes: list[str]) -> Iterator[Finding]:
    """Find unfinished writes below our folders.

    A store that refuses to say is a finding, for whoever owns it can give the right. One that cannot say is a note
    alone, added to `notes`: nothing that anybody does to the destination would ever make it sound. Raises
    TransientStorageError where the store is unavailable.
    """
    for folder in _OUR_FOLDERS:
        try:
            for key in store.unfinished(folder):
                yield Finding("unfinished_write", key, "left by a process that was killed; no reader sees it")
        except ObjectDeniedError as error:
            yield Finding("unfinished_denied", folder, f"unfinished writes were not looked for: {error}")
        except TransientStorageError:
            raise
        except StorageError as error:
            notes.append(f"unfinished writes were not looked for: {error}")
            return
