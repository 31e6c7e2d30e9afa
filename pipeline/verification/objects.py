"""Stored objects against rows: there, of the recorded size, with the recorded bytes, decodable, and of nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.codecs.exr import OutputIdentity, decode_exr
from pipeline.errors import ObjectMissingError, VerifyError
from pipeline.sharding.names import OUTPUT_FOLDER
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding, FindingCode
from pipeline.verification.rows import ExpectedOutput

_HASH_SPACE = 2**64


def check_listing(
    store: ObjectStore, outputs: Mapping[str, ExpectedOutput], replaced: Container[str]
) -> Iterator[Finding]:
    """Compare one listing of images/ with the rows: sizes, missing objects, orphans, and what writes left behind.

    `replaced` are outputs that a repair distrusts: they may be there or not.
    """
    missing = set(outputs)
    for info in store.list(OUTPUT_FOLDER):
        expected = outputs.get(info.key)
        if expected is None and info.key in replaced:
            continue
        if expected is None:
            yield Finding("orphan", info.key, "belongs to no row; an interrupted run adopts or supersedes it")
            continue
        missing.discard(info.key)
        if info.size_bytes != expected.num_bytes:
            text = f"{info.size_bytes} bytes; its row says {expected.num_bytes}"
            yield Finding("output_size", info.key, text, expected.source)
    for key in sorted(missing):
        yield Finding("output_missing", key, "its row is there, the object is not", outputs[key].source)
    for key in store.unfinished():
        yield Finding("unfinished_write", key, "left by a process that was killed; no reader sees it")


def is_sampled(key: str, share: float) -> bool:
    """Tell whether an output belongs to the sample: a fixed `share`, 0 to 1, by a hash of its key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * _HASH_SPACE


def check_contents(
    store: ObjectStore, outputs: list[ExpectedOutput], num_threads: int, on_done: Callable[[int], None]
) -> Iterator[Finding]:
    """Read, hash and decode every one of `outputs`; `on_done` gets the bytes of each. Decoding releases the GIL.

    An object that is missing is left to `check_listing`. At most `num_threads` objects are in memory.
    """

    def check(expected: ExpectedOutput) -> tuple[int, list[Finding]]:
        try:
            data = store.read(expected.key)
        except ObjectMissingError:
            return 0, []
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
