"""What lies in `_hdrfleet/lease/`: one object for each epoch, written by its holder alone (ADR 5)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, Field, ValidationError

from pipeline.config import FrozenModel
from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.process_identity import ProcessIdentity, this_process
from pipeline.storage import ObjectStore

LEASE_PREFIX = "_hdrfleet/lease"
LEASE_SCHEMA_VERSION = 1
_KEY = re.compile(rf"{LEASE_PREFIX}/(\d{{6,}})\.json")


def _require_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class LeaseRecord(FrozenModel):
    """What a lease object says. `beat` counts the holder's rewrites; times are UTC in ISO 8601.

    `host`, `boot`, `pid` and `process_started` name the holder's process, so that another one on the same machine can
    tell that it is gone without waiting. Whoever watches from elsewhere waits for the holder's `timeout_s` at least.
    """

    schema_version: int = LEASE_SCHEMA_VERSION
    epoch: int = Field(ge=1)
    holder: str
    host: str
    boot: str
    pid: int
    process_started: str
    timeout_s: float = Field(gt=0)
    acquired_at: str
    renewed_at: Annotated[str, AfterValidator(_require_time)]
    beat: int = 0
    released: bool = False

    @property
    def process(self) -> ProcessIdentity:
        """The holder's process."""
        return ProcessIdentity(self.host, self.boot, self.pid, self.process_started)

    def describe(self) -> str:
        """Who holds it, for a person."""
        return f"{self.host}, process {self.pid}, since {self.acquired_at} (epoch {self.epoch})"

    @property
    def is_gone(self) -> bool:
        """True when the holder was a process of this machine, since this boot, that is not there any more."""
        return self.process.is_gone

    @property
    def age_s(self) -> float:
        """Seconds since the last sign of life, by this machine's clock."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.renewed_at)).total_seconds()

    @property
    def is_fresh_here(self) -> bool:
        """True when the holder is a process of this machine that is there and wrote a moment ago, by the same clock."""
        return self.process.is_of_this_machine and 0 <= self.age_s < self.timeout_s / 2


def newest_epoch(store: ObjectStore) -> int:
    """The highest epoch that any driver has had at this destination; 0 before the first."""
    keys = (info.key for info in store.list(LEASE_PREFIX))
    return max((int(key[len(LEASE_PREFIX) + 1 : -len(".json")]) for key in keys if is_lease_key(key)), default=0)


def is_lease_key(key: str) -> bool:
    """Whether `key` is the name of an epoch's object: `0000009.json` is not that of epoch 9, and nobody reads it."""
    match = _KEY.fullmatch(key)
    return match is not None and int(match[1]) >= 1 and key == lease_key(int(match[1]))


def read_lease(store: ObjectStore) -> LeaseRecord | None:
    """The newest lease; None before the first. Raises ManifestError where it is unreadable."""
    epoch = newest_epoch(store)
    return read_epoch(store, epoch) if epoch else None


def own_record(epoch: int, timeout_s: float) -> LeaseRecord:
    """The first record of an epoch that this process wants to hold."""
    time, process = now(), this_process()
    return LeaseRecord(
        epoch=epoch,
        holder=uuid4().hex,
        host=process.host,
        boot=process.boot,
        pid=process.pid,
        process_started=process.started,
        timeout_s=timeout_s,
        acquired_at=time,
        renewed_at=time,
    )


def read_epoch(store: ObjectStore, epoch: int) -> LeaseRecord | None:
    """The lease of one epoch; None where it is not there. Raises ManifestError where it is unreadable."""
    key = lease_key(epoch)
    try:
        return LeaseRecord.model_validate_json(store.read(key))
    except ObjectMissingError:
        return None
    except ValidationError as error:
        raise ManifestError(f"{store.url}/{key} is not a lease of this hdrfleet; upgrade, or delete it") from error


def lease_key(epoch: int) -> str:
    """The key of an epoch's object below DST."""
    return f"{LEASE_PREFIX}/{epoch:06d}.json"


def now() -> str:
    """This moment as records hold it: UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
