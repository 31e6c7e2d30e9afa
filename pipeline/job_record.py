"""job.json: what a job is. Created once at its destination, and never changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import ConversionConfig
from pipeline.errors import DestinationError, ManifestError, ObjectMissingError
from pipeline.models.builtin import BUILT_IN_WEIGHTS
from pipeline.sharding.locations import listed_name
from pipeline.storage import ObjectStore, redact_url

JOB_KEY = "_hdrfleet/job.json"
JOB_SCHEMA_VERSION = 1
_PIPELINE_FIELD = "pixel_pipeline_version"


class JobRecord(BaseModel):
    """What job.json holds: created once, never changed. No credential has a field here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    job_id: str
    created_at: str
    software_version: str
    source_root: str
    weights_name: str
    weights_sha256: str
    has_conditional_create: bool
    store_weakness: str | None
    pixel_fields: dict[str, object]
    pixel_digest: str
    config: ConversionConfig

    def fault(self) -> str:
        """How the record contradicts itself; empty where it does not.

        The digest has to be that of the recorded fields, and these those of the recorded options, unless another pixel
        pipeline derived them.
        """
        canonical = json.dumps(self.pixel_fields, sort_keys=True)
        if hashlib.sha256(canonical.encode()).hexdigest() != self.pixel_digest:
            return "pixel_digest is not that of pixel_fields"
        derived = self.config.pixel_fields()
        if self.pixel_fields.get(_PIPELINE_FIELD) != derived[_PIPELINE_FIELD]:
            return ""
        differing = sorted(
            name
            for name in derived.keys() | self.pixel_fields.keys()
            if derived.get(name) != self.pixel_fields.get(name)
        )
        return f"config contradicts pixel_fields: {', '.join(differing)}" if differing else ""


def read_job(store: ObjectStore) -> JobRecord | None:
    """The job recorded at a destination, or None. Raises ManifestError when job.json is unreadable or newer."""
    try:
        raw = json.loads(store.read(JOB_KEY))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version > JOB_SCHEMA_VERSION:
            raise ManifestError(f"{store.url} was written by a newer hdrfleet; upgrade this one")
        return JobRecord.model_validate(raw)
    except ObjectMissingError:
        return None
    except (ValueError, ValidationError) as error:
        raise ManifestError(f"{store.url}/{JOB_KEY} is not a job record") from error


def to_record(config: ConversionConfig) -> ConversionConfig:
    """The configuration to write down: signed URLs lose their query strings, paths become absolute."""
    weights = config.model.weights
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"url": _recorded_url(config.source.url)}),
            "destination": config.destination.model_copy(update={"url": redact_url(config.destination.url)}),
            "model": config.model.model_copy(
                update={"weights": weights if weights in BUILT_IN_WEIGHTS else _recorded_url(weights)}
            ),
        }
    )


def _recorded_url(url: str) -> str:
    """A URL without a query, or a local path as another working directory would name it. A glob's `?` is no query."""
    if "://" in url:
        named = listed_name(url)
        return named if "?" in named else redact_url(named)
    return str(Path(url).expanduser().absolute()) + ("/" if url.endswith("/") else "")


def require_whole(record: JobRecord, url: str) -> None:
    """Raise DestinationError where the job recorded at `url` contradicts itself: nothing may be made by it."""
    if fault := record.fault():
        raise DestinationError(f"{url}/{JOB_KEY} was changed: {fault}; restore it from a backup")


def require_same(existing: JobRecord, wanted: JobRecord, url: str) -> None:
    """Raise DestinationError, naming what differs, where the job at `url` is not the one that is wanted."""
    made_by, ours = (each.pixel_fields.get(_PIPELINE_FIELD) for each in (existing, wanted))
    if made_by != ours:
        raise DestinationError(
            f"{url} was made by another release of hdrfleet, whose pixels differ from this one's ({_PIPELINE_FIELD} "
            f"{made_by} there and {ours} here): use another destination, or the release that began it"
        )
    differences = [
        f"{name} is {existing.pixel_fields.get(name)!r} there and {value!r} here"
        for name, value in wanted.pixel_fields.items()
        if existing.pixel_fields.get(name) != value
    ]
    if existing.weights_sha256 != wanted.weights_sha256:
        differences.append(
            f"weights are {existing.weights_name} ({existing.weights_sha256[:12]}) there "
            f"and {wanted.weights_name} ({wanted.weights_sha256[:12]}) here"
        )
    if existing.source_root != wanted.source_root:
        differences.append(f"the source root is {existing.source_root} there and {wanted.source_root} here")
    if differences:
        raise DestinationError(
            f"{url} belongs to another job: {'; '.join(differences)}. Use another destination or the same options"
        )
