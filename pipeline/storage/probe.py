"""Find out by trying whether a destination can be written, and whether it decides races between creators."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import (
    CredentialsError,
    DestinationError,
    HdrfleetError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
)
from pipeline.storage.base import ObjectStore

_FOLDER = "_hdrfleet/probe"
_NUM_CREATORS = 8
_START_TIMEOUT_S = 30.0
# OpenStack Swift, the weakest store that was measured, gets one round in three right (docs/storage.md) and so passes
# once in 10^5 probes; a store that got every second one right would once in a thousand.
NUM_ROUNDS = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreProbe:
    """What the probe saw. `atomic` False: run one driver only. `atomic` True is evidence, not proof.

    `overwrites` tells that the store ignores the condition altogether, even without a race: then open it with
    `atomic_create=False` everywhere, so that `create` looks before it writes.
    """

    atomic: bool
    reason: str
    overwrites: bool = False


def probe_store(store: ObjectStore, *, num_rounds: int = NUM_ROUNDS) -> StoreProbe:
    """Create temporary objects below `_hdrfleet/probe/`, first twice in sequence, then 8 at once, and clean up.

    A race can come out right by luck, so it is run up to `num_rounds` times, until one comes out wrong. Without rounds
    the probe tells only whether the store ignores the condition, or has none.
    Raises DestinationError when the store cannot be written: denied, no such bucket, bad credentials, unreachable.
    """
    token = secrets.token_hex(8)
    untried = iter([f"{_FOLDER}/{token}-{index}" for index in range(num_rounds + 1)])
    keys: list[str] = []
    try:
        return _probe(store, untried, keys)
    except (StorageError, CredentialsError) as error:
        msg = f"the destination cannot be written: {error}"
        raise DestinationError(msg) from error
    finally:
        _clean_up(store, keys)


def require_writable(store: ObjectStore, key: str) -> None:
    """Do with a small object under `key` what is done with an output: look for it, create it, read it; then delete it.

    Another process may do the same at the same time, and where nothing may be deleted the object stays: that it is
    there already is an answer, too. Raises StorageError and SystemicError where the store does not do it.
    """
    with contextlib.suppress(ObjectMissingError):
        store.stat(key)
    try:
        with contextlib.suppress(ObjectExistsError):
            store.create(key, b"hdrfleet tries whether outputs can be written")
        with contextlib.suppress(ObjectMissingError):
            store.read(key)
    finally:  # where only the answer was lost, the object is there
        _clean_up(store, [key])


def _probe(store: ObjectStore, untried: Iterator[str], tried: list[str]) -> StoreProbe:
    """Take keys of `untried` as long as they are needed; all that may exist afterwards are in `tried`."""
    tried.append(first := next(untried))
    if not _wins(store, first, b"first") and not _holds_one_of(store, first, [b"first"]):
        msg = f"{store.url}: a new object under a random name is there already, with other content"
        raise StorageError(msg)
    if _wins(store, first, b"second"):
        reason = "a second create of the same object overwrote the first"
        return StoreProbe(atomic=False, reason=reason, overwrites=True)
    if not store.has_atomic_create:
        return StoreProbe(atomic=False, reason="this kind of store does not decide races, or was declared weak")
    with ThreadPoolExecutor(_NUM_CREATORS, thread_name_prefix="hdrfleet-probe") as pool:
        for key in untried:
            tried.append(key)
            num_winners = _race(store, key, pool)
            if num_winners != 1:
                reason = f"{num_winners} of {_NUM_CREATORS} concurrent creates of one object succeeded"
                return StoreProbe(atomic=False, reason=reason)
    reason = f"one of {_NUM_CREATORS} concurrent creates succeeded, in each of {len(tried) - 1} rounds"
    return StoreProbe(atomic=True, reason=reason)


def _race(store: ObjectStore, key: str, pool: ThreadPoolExecutor) -> int:
    start = threading.Barrier(_NUM_CREATORS)
    values = [b"creator %d" % index for index in range(_NUM_CREATORS)]

    def compete(data: bytes) -> bool:
        start.wait(_START_TIMEOUT_S)
        return _wins(store, key, data)

    num_winners = sum(pool.map(compete, values))
    return num_winners or int(_holds_one_of(store, key, values))


def _wins(store: ObjectStore, key: str, data: bytes) -> bool:
    try:
        store.create(key, data)
    except ObjectExistsError:
        return False
    return True


def _holds_one_of(store: ObjectStore, key: str, values: Collection[bytes]) -> bool:
    """Tell whether one of these creators won although none was told so: the answer to it was lost on the way."""
    try:
        return store.read(key) in values
    except ObjectMissingError:
        return False


def _clean_up(store: ObjectStore, keys: list[str]) -> None:
    for key in keys:
        try:
            store.delete(key)
        except HdrfleetError as error:
            logger.info("a probe object was left behind: %s", error)
            return
