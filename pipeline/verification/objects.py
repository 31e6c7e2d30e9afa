"""Stored objects against rows: there, of the recorded size, with the recorded bytes, decodable, and of nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pipeline.codecs.exr import OutputIdentity, decode_exr
from pipeline.errors import ObjectDeniedError, ObjectMissingError, StorageError, TransientStorageError, VerifyError
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding, FindingCode
from pipeline.verification.ledger import ExpectedOutput, Ledger
from pipeline.verification.orphans import ORPHAN_TEXT, check_orphans


def check_listing(store: ObjectStore, ledger: Ledger, *, looks_at_orphans: bool) -> Iterator[Finding]:
    """Compare the listing with the rows: sizes, missing objects, orphans.

    What looks missing, or is there although it was collected, is looked at again. With `looks_at_orphans`, which makes
    sense where every planned image has its row, the headers of those are read whose source no row names.
    """
    for key, size_bytes, expected_bytes, source in ledger.other_sizes():
        yield _other_size(key, size_bytes, expected_bytes, source)
    strangers: list[str] = []
    for key, was_collected in ledger.unnamed():
        if not was_collected and looks_at_orphans:
            strangers.append(key)
        elif not was_collected:
            yield Finding("orphan", key, ORPHAN_TEXT)
        elif _size(store, key) is not None:
            yield Finding("orphan", key, "its rows say that it was collected; the next gc deletes it")
    yield from check_orphans(store, ledger, strangers)
    for key, expected_bytes, source in ledger.unlisted():
        found_bytes = _size(store, key)
        if found_bytes is None:
            yield Finding("output_missing", key, "its row is there, the object is not", source)
        elif found_bytes != expected_bytes:
            yield _other_size(key, found_bytes, expected_bytes, source)


def _other_size(key: str, size_bytes: int, expected_bytes: int, source: str) -> Finding:
    return Finding("output_size", key, f"{size_bytes} bytes; its row says {expected_bytes}", source)


def _size(store: ObjectStore, key: str) -> int | None:
    """The object's size in bytes; None where it is not there."""
    try:
        return store.stat(key).size_bytes
    except ObjectMissingError:
        return None


def check_contents(
    store: ObjectStore,
    outputs: Iterable[ExpectedOutput],
    *,
    num_threads: int,
    on_done: Callable[[int | None], None],
    on_missing: Callable[[str], None] = lambda _key: None,
) -> Iterator[Finding]:
    """Read, hash and decode every one of `outputs`; `on_done` gets the bytes of each, None for one that was not read.

    Decoding releases the GIL. An object that is missing is left to `check_listing`, and `on_missing` gets its key. At
    most `num_threads` objects are in memory. Raises TransientStorageError where the store is unavailable: that says
    nothing about an output.
    """

    def check(expected: ExpectedOutput) -> tuple[int | None, list[Finding]]:
        try:
            data = store.read(expected.key)
        except ObjectMissingError:
            on_missing(expected.key)
            return None, []
        except ObjectDeniedError as error:
            return None, [Finding("output_denied", expected.key, str(error), expected.source)]
        except TransientStorageError:  # an outage: taken for damage, it would cost sound outputs
            raise
        except StorageError as error:  # one object that the store cannot give is a finding, not the end
            return None, [Finding("output_unreadable", expected.key, str(error), expected.source)]
        return len(data), [Finding(code, expected.key, text, expected.source) for code, text in _faults(data, expected)]

    with ThreadPoolExecutor(num_threads, thread_name_prefix="verify-objects") as pool:
        # In rounds, or a million futures would hold a million rows.
        waiting = iter(outputs)
        while batch := list(islice(waiting, 64 * num_threads)):
            for num_bytes, findings in pool.map(check, batch):
                on_done(num_bytes)
                yield from findings


def _faults(data: bytes, expected: ExpectedOutput) -> Iterator[tuple[FindingCode, str]]:
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != expected.sha256:
        yield "output_sha256", f"sha256 {sha256}; its row says {expected.sha256}"
    try:
        decoded = decode_exr(data)
    except VerifyError as error:
        yield "output_undecodable", str(error)
        return
    except MemoryError:  # a damaged header asks for any amount; bytes that are the row's own are not damaged
        code: FindingCode = "output_unreadable" if sha256 == expected.sha256 else "output_undecodable"
        yield code, "decoding it needs more memory than there is"
        return
    height, width = decoded.image.pixels.shape[:2]
    if (width, height) != (expected.width, expected.height):
        yield "output_dimensions", f"{width}x{height}; its row says {expected.width}x{expected.height}"
    if (decoded.image.alpha is not None) != expected.has_alpha:
        yield "output_dimensions", f"{'has' if not expected.has_alpha else 'lacks'} alpha, unlike its row"
    identity = OutputIdentity(expected.source_sha256, expected.pixel_digest, expected.weights_sha256)
    if decoded.identity != identity:
        yield "output_identity", "its header names another source, options or weights than its row"
