"""The driver's lease: who may run the job at a destination, in numbered epochs (docs/adr/0005-driver-lease.md).

`_hdrfleet/lease/<epoch>.json` is created conditionally, so an epoch has one holder. The holder rewrites its own object
while it lives and marks it released at the end; nobody else ever writes it. Whoever wants to take over watches the
newest one for `timeout_s` on a clock of its own, and creates the next epoch if nothing changed. A driver that comes
back after that finds a higher epoch and stops; its workers commit nothing any more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from pipeline.errors import (
    DestinationInUseError,
    HdrfleetError,
    LeaseLostError,
    ObjectExistsError,
    first_line,
)
from pipeline.faults import fault_point
from pipeline.lease_record import LeaseRecord, lease_key, newest_epoch, now, own_record, read_epoch, read_lease
from pipeline.storage import ObjectStore

# A holder writes this often within the time after which it counts as dead: it may miss several.
_BEATS_PER_TIMEOUT = 6
_WATCH_EVERY_S = 1.0
# On a store that does not decide races, two creators of one epoch look again after both must have written.
_SETTLE_S = 3.0
logger = logging.getLogger(__name__)


def require_epoch(store: ObjectStore, epoch: int) -> None:
    """Raise LeaseLostError when a driver of a later epoch owns the destination: what is not committed is its work."""
    newest = newest_epoch(store)
    if newest > epoch:
        raise LeaseLostError(
            f"{store.url}: another hdrfleet has taken over (epoch {newest}; this one was silent for too long in "
            f"epoch {epoch})"
        )


class DriverLease:
    """One driver's ownership of a destination, kept alive by a thread until it is released.

    `check` raises LeaseLostError once another driver has taken over; ask it about once a second. A store that cannot be
    reached is no loss: nobody else could take over either, and the epoch tells when it is back. With
    `follows_deaths` neither of the two drivers before this one has released its lease.
    """

    def __init__(self, store: ObjectStore, record: LeaseRecord, timeout_s: float, *, follows_deaths: bool) -> None:
        self.follows_deaths = follows_deaths
        self._store = store
        self._record = record
        self._beat_every_s = timeout_s / _BEATS_PER_TIMEOUT
        self._ended = threading.Event()
        self._lost: LeaseLostError | None = None
        self._beating = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="driver-lease", daemon=True)

    @property
    def epoch(self) -> int:
        """The number that every worker of this driver carries."""
        return self._record.epoch

    def check(self) -> None:
        """Raise LeaseLostError when another driver has taken over."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Give a sign of life now, and raise LeaseLostError where another driver has taken over.

        For what must not be done by a driver that slept: ask right before it. `check` tells what the last beat found.
        Raises StorageError where the store cannot be asked.
        """
        try:
            self._beat()
        except LeaseLostError as error:
            self._lost = error
            raise

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join(self._beat_every_s)
        # A release that fails costs the next driver its wait and nothing else; a beat on its way would undo it.
        with contextlib.suppress(HdrfleetError):
            if self._lost is None and not self._thread.is_alive() and newest_epoch(self._store) == self.epoch:
                self._write(released=True)
                fault_point("lease.released")

    def _keep(self) -> None:
        while not self._ended.wait(self._beat_every_s):
            try:
                self._beat()
            except LeaseLostError as error:
                self._lost = error
                return
            except Exception as error:  # noqa: BLE001  the thread's edge: whatever it is, the next beat may succeed
                logger.warning("%s: no sign of life could be written (%s)", self._store.url, first_line(error))

    def _beat(self) -> None:
        with self._beating:
            require_epoch(self._store, self.epoch)
            self._require_own()
            self._write(released=False)
            fault_point("lease.renewed")

    def _require_own(self) -> None:
        """On a store that does not decide races, a slow competitor may have written over this epoch's object."""
        there = read_epoch(self._store, self.epoch)
        if there is not None and there.holder != self._record.holder:
            raise LeaseLostError(f"{self._store.url}: another hdrfleet has the same epoch: {there.describe()}")

    def _write(self, *, released: bool) -> None:
        update = {"beat": self._record.beat + 1, "renewed_at": now(), "released": released}
        self._record = self._record.model_copy(update=update)
        self._store.replace(lease_key(self.epoch), self._record.model_dump_json().encode())


def _is_second_death(store: ObjectStore, newest: LeaseRecord | None) -> bool:
    """Whether the driver of the newest lease and the one before it ended without releasing theirs."""
    if newest is None or newest.released or newest.epoch == 1:
        return False
    before = read_epoch(store, newest.epoch - 1)
    return before is not None and not before.released


def acquire_lease(
    store: ObjectStore,
    *,
    timeout_s: float,
    is_weak: bool = False,
    on_wait: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> DriverLease:
    """Own the destination, or raise DestinationInUseError when another driver does and is alive.

    Enter the result to keep it. Returns at once where the last driver released its lease or its process is known to be
    gone; otherwise watches it for at most `timeout_s`, which `on_wait` is told. `is_weak`: the store does not decide
    races, so the winner is who is still named there a little later. Raises StorageError where the lease cannot be
    renewed.
    """
    newest = read_lease(store)
    if newest is not None and not newest.released and not newest.is_gone:
        _watch(store, newest, timeout_s=timeout_s, on_wait=on_wait, clock=clock, sleep=sleep)
    record = own_record((newest.epoch if newest else 0) + 1, timeout_s)
    key = lease_key(record.epoch)
    with contextlib.suppress(ObjectExistsError):  # a competitor's, or our own success whose answer was lost
        store.create(key, record.model_dump_json().encode())
    fault_point("lease.claimed")
    if is_weak:
        sleep(_SETTLE_S)
    there = read_epoch(store, record.epoch)
    if there is None or there.holder != record.holder:
        raise _in_use(store, there or record)
    fault_point("lease.created")
    lease = DriverLease(store, record, timeout_s, follows_deaths=_is_second_death(store, newest))
    # A store that lets one create and not replace would let this lease grow old unnoticed: better no start at all.
    lease.confirm()
    return lease


def _watch(
    store: ObjectStore,
    seen: LeaseRecord,
    *,
    timeout_s: float,
    on_wait: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Return when the lease did not change for `timeout_s` or was released; raise when its holder lives."""
    timeout_s = max(timeout_s, seen.timeout_s)
    if seen.is_fresh_here:
        raise _in_use(store, seen)
    on_wait(f"{store.url} was last run by {seen.describe()}; watching for {timeout_s:.0f} s whether it still does")
    deadline = clock() + timeout_s
    while clock() < deadline:
        sleep(min(_WATCH_EVERY_S, timeout_s / _BEATS_PER_TIMEOUT))
        now = read_epoch(store, seen.epoch)
        if now is None or now.released:
            return
        if now != seen:
            raise _in_use(store, now)


def _in_use(store: ObjectStore, holder: LeaseRecord) -> DestinationInUseError:
    return DestinationInUseError(
        f"{store.url} is in use by another hdrfleet: {holder.describe()}; wait for it or stop it first"
    )
