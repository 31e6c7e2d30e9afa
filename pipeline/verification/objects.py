"""Stored objects against rows: there, of the recorded size, with the recorded bytes, decodable, and of nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.codecs.exr import OutputIdentity, decode_exr
from pipeline.errors import ObjectMissingError, StorageError, VerifyError
from pipeline.manifest.parts import MANIFEST_PREFIX
from pipeline.sharding.names import OUTPUT_FOLDER
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding, FindingCode
from pipeline.verification.rows import ExpectedOutput

_HASH_SPACE = 2**64
_OUR_FOLDERS = ("_hdrfleet", OUTPUT_FOLDER, MANIFEST_PREFIX)


def list_objects(store: ObjectStore) -> dict[str, int]:
    """Return the size in bytes of every object below images/, by key.

    List before plans and rows are read: what a conversion stores meanwhile then looks missing, never orphaned.
    """
    return {info.key: info.size_bytes for info in store.list(OUTPUT_FOLDER)}


def check_listing(
    store: ObjectStore,
    listed: Mapping[str, int],
    outputs: Mapping[str, ExpectedOutput],
    replaced: Container[str],
    collected: Container[str] = (),
) -> Iterator[Finding]:
    """Compare the listing with the rows: sizes, missing objects, orphans, and what killed writers left behind.

    `replaced` are outputs that a repair made anew: they may be there or not. `collected` ones should not be there any
    more. What looks missing, or is there although it was collected, is looked at again.
    """
    for key, size_bytes in listed.items():
        expected = outputs.get(key)
        if expected is not None and size_bytes != expected.num_bytes:
            text = f"{size_bytes} bytes; its row says {expected.num_bytes}"
            yield Finding("output_size", key, text, expected.source)
        elif expected is None and key not in replaced:
            if key not in collected:
                yield Finding("orphan", key, "belongs to no row; an interrupted run adopts or supersedes it")
            elif _is_there(store, key):
                yield Finding("orphan", key, "its rows say that it was collected; the next gc deletes it")
    for key in sorted(outputs.keys() - listed.keys()):
        if not _is_there(store, key):
            yield Finding("output_missing", key, "its row is there, the object is not", outputs[key].source)
    for folder in _OUR_FOLDERS:
        for key in store.unfinished(folder):
            yield Finding("unfinished_write", key, "left by a process that was killed; no reader sees it")


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.stat(key)
    except ObjectMissingError:
        return False
    return True


def is_sampled(key: str, share: float) -> bool:
    """Tell whether an output belongs to the sample: a fixed `share`, 0 to 1, by a hash of its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * _HASH_SPACE


def check_contents(
    store: ObjectStore,
    outputs: list[ExpectedOutput],
    *,
    num_threads: int,
    on_done: Callable[[int], None],
    on_missing: Callable[[str], None] = lambda _key: None,
) -> Iterator[Finding]:
    """Read, hash and decode every one of `outputs`; `on_done` gets the bytes of each. Decoding releases the GIL.

    An object that is missing is left to `check_listing`, and `on_missing` gets its key. At most `num_threads` objects
    are in memory.
    """

    def check(expected: ExpectedOutput) -> tuple[int, list[Finding]]:
        try:
            data = store.read(expected.key)
        except ObjectMissingError:
            on_missing(expected.key)
            return 0, []
        except StorageError as error:  # one bad sector or forbidden object is a finding, not the end
            return 0, [Finding("output_unreadable", expected.key, str(error), expected.source)]
        return len(data), [Finding(code, expected.key, text, expected.source) for code, text in _faults(data, expected)]

    with ThreadPoolExecutor(num_threads, thread_name_prefix="verify-objects") as pool:
        # In rounds, or a million futures would hold a million rows.
        for start in range(0, len(outputs), 64 * num_threads):
            for num_bytes, findings in pool.map(check, outputs[start : start + 64 * num_threads]):
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
    height, width = decoded.image.pixels.shape[:2]
    if (width, height) != (expected.width, expected.height):
        yield "output_dimensions", f"{width}x{height}; its row says {expected.width}x{expected.height}"
    if (decoded.image.alpha is not None) != expected.has_alpha:
        yield "output_dimensions", f"{'has' if not expected.has_alpha else 'lacks'} alpha, unlike its row"
    identity = OutputIdentity(expected.source_sha256, expected.pixel_digest, expected.weights_sha256)
    if decoded.identity != identity:
        yield "output_identity", "its header names another source, options or weights than its row"
