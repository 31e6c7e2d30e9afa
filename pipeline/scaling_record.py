"""What lies in `_hdrfleet/scaling/`: one object for each decision that started or ended workers, and why."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from pipeline.config import FrozenModel
from pipeline.errors import ManifestError, ObjectExistsError, StorageError
from pipeline.storage import ObjectStore

SCALING_PREFIX = "_hdrfleet/scaling"
_KEY = re.compile(rf"{SCALING_PREFIX}/\d{{8}}T\d{{6}}Z-(\d{{6,}})\.json")
_MAX_TRIES = 100


def is_scaling_key(key: str) -> bool:
    """Whether an event may lie there."""
    return _KEY.fullmatch(key) is not None


def _require_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class ScalingEvent(FrozenModel):
    """`delta` workers were asked for (above 0) or ended (below), which left `num_workers`. `at` is UTC in ISO 8601.

    Those that are about to leave a draining node are not counted. 0: some asked for other nodes than before, or the
    deadline turned out to be missed, or to be met after all. What `is_warning` is said as one.
    """

    at: Annotated[str, AfterValidator(_require_time)]
    delta: int
    num_workers: int = Field(ge=0)
    reason: str
    is_warning: bool = Field(default=False, exclude=True)


def append_event(store: ObjectStore, event: ScalingEvent) -> str:
    """Create an object of its own for the event, and return its key; keys sort by time. Raises StorageError."""
    stamp = f"{datetime.fromisoformat(event.at):%Y%m%dT%H%M%SZ}"
    for number in range(1, _MAX_TRIES):
        key = f"{SCALING_PREFIX}/{stamp}-{number:06}.json"
        try:
            store.create(key, event.model_dump_json().encode())
        except ObjectExistsError:
            continue  # another decision of the same second
        return key
    raise StorageError(f"{store.url}: {_MAX_TRIES} scaling decisions in one second; is its clock standing still?")


def read_events(store: ObjectStore, *, last: int | None = None) -> list[ScalingEvent]:
    """The decisions in order of time, only the `last` ones if a number is given. Raises ManifestError, StorageError."""
    keys = sorted(info.key for info in store.list(SCALING_PREFIX) if _KEY.fullmatch(info.key))
    last = len(keys) if last is None else min(last, len(keys))
    return [_read(store, key) for key in keys[len(keys) - last :]]


def _read(store: ObjectStore, key: str) -> ScalingEvent:
    try:
        return ScalingEvent.model_validate_json(store.read(key))
    except ValidationError as error:
        raise ManifestError(f"{store.url}/{key} is not a scaling decision") from error
