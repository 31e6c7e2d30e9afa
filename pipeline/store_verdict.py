"""Whether the store of a destination decides races between creators: what was seen there, and kept.

job.json holds what was seen when the job was made. What is seen later and is not known yet lies beside it, one object
for each verdict, created and never changed: nodes of a fleet may not overwrite anything. A verdict is about one place;
for a job, they all count together, so that it can become weak and not strong again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ManifestError, ObjectExistsError
from pipeline.storage import ObjectStore
from pipeline.storage.probe import NUM_ROUNDS, probe_store

STORE_PREFIX = "_hdrfleet/store"
DECLARED_WEAK = "declared weak (--weak-store)"
_KEY = re.compile(rf"{STORE_PREFIX}/[0-9a-f]{{64}}\.json", re.ASCII)


class StoreVerdict(BaseModel):
    """What was seen of the store at `place`, a URL and its endpoint.

    `weakness` is why it is not safe for two drivers, or None; without `has_conditional_create` it overwrites whatever
    the condition says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str | None
    weakness: str | None
    has_conditional_create: bool

    def also(self, other: StoreVerdict) -> StoreVerdict:
        """This one, weak as well where the other one is."""
        return StoreVerdict(
            place=self.place,
            weakness=self.weakness or other.weakness,
            has_conditional_create=self.has_conditional_create and other.has_conditional_create,
        )


def is_verdict_key(key: str) -> bool:
    """Whether this is the name of an object that `keep_verdict` makes."""
    return _KEY.fullmatch(key) is not None


def place_of(store: ObjectStore) -> str:
    """The URL of a store and, on S3, its endpoint, without secrets: another place may be another kind of store."""
    endpoint = getattr(store, "endpoint_url", None)
    return f"{store.url} at {endpoint}" if endpoint else store.url


def read_verdicts(store: ObjectStore) -> list[StoreVerdict]:
    """What was kept beside job.json. Raises ManifestError where one cannot be read."""
    found = []
    for info in store.list(STORE_PREFIX):
        if is_verdict_key(info.key):
            try:
                found.append(StoreVerdict.model_validate_json(store.read(info.key)))
            except ValidationError as error:
                raise ManifestError(f"{store.url}/{info.key} is no verdict on a store") from error
    return found


def keep_verdict(store: ObjectStore, verdict: StoreVerdict) -> None:
    """Write it down beside job.json; it is named after its content, so that it is there once."""
    data = verdict.model_dump_json().encode()
    with contextlib.suppress(ObjectExistsError):
        store.create(f"{STORE_PREFIX}/{hashlib.sha256(data).hexdigest()}.json", data)


def judge_store(store: ObjectStore, known: Sequence[StoreVerdict], *, is_declared_weak: bool = False) -> StoreVerdict:
    """Look at the store as far as what is `known` of a job's places leaves something to find out.

    Nothing is written at a place that was looked at before. Elsewhere it is tried whether the store overwrites, and
    races are run unless it counts as weak anyway. Raises DestinationError when it cannot be written.
    """
    verdict = StoreVerdict(place=place_of(store), weakness=None, has_conditional_create=True)
    for each in known:
        verdict = verdict.also(each)
    if is_declared_weak and verdict.weakness is None:
        verdict = verdict.model_copy(update={"weakness": DECLARED_WEAK})
    if not verdict.has_conditional_create or verdict.place in {each.place for each in known}:
        return verdict  # there is nothing worse to find, or it was looked for
    probe = probe_store(store, num_rounds=NUM_ROUNDS if verdict.weakness is None else 0)
    seen = StoreVerdict(
        place=verdict.place,
        weakness=None if probe.atomic else probe.reason,
        has_conditional_create=not probe.overwrites,
    )
    return verdict.also(seen)
