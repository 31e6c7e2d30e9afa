"""A destination as the commands that work on one meet it: opened by URL, and what a run there ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer

from jobs import options as opt
from pipeline.config import StorageConfig
from pipeline.errors import StorageError, SystemicError

if TYPE_CHECKING:
    from jobs.convert import ConversionOutcome
    from pipeline.job import JobRecord
    from pipeline.storage import ObjectStore


def open_destination(
    dst: str, endpoint_url: str | None, profile: str | None, region: str | None
) -> tuple[ObjectStore, JobRecord]:
    """Open a destination that holds a job, and read its job.json. Raises DestinationError when it holds none."""
    from pydantic import ValidationError

    from pipeline.config import first_fault
    from pipeline.errors import ConfigError, DestinationError
    from pipeline.job import read_job
    from pipeline.storage import open_store

    try:
        config = StorageConfig.model_validate(opt.storage(endpoint_url, profile, region))
    except ValidationError as error:
        raise ConfigError(first_fault(error)[1]) from error
    try:
        store = open_store(opt.absolute(dst), config)
        job = read_job(store)
    except (StorageError, SystemicError) as error:
        raise DestinationError(f"cannot read {dst}: {error}") from error
    if job is None:
        raise DestinationError(f"{store.url} holds no conversion; give the DST of an earlier `hdrfleet convert`")
    return store, job


def open_whole(
    dst: str, endpoint_url: str | None, profile: str | None, region: str | None
) -> tuple[ObjectStore, JobRecord]:
    """`open_destination`, for commands that make outputs: DestinationError where job.json contradicts itself, too."""
    from pipeline.job_record import require_whole

    store, record = open_destination(dst, endpoint_url, profile, region)
    require_whole(record, store.url)
    return store, record


def reopen_for_writing(
    store: ObjectStore,
    record: JobRecord,
    dst: str,
    endpoint_url: str | None,
    profile: str | None,
    region: str | None,
) -> ObjectStore:
    """The destination as its job writes to it: looked at before each write where its store ignores the condition."""
    if record.has_conditional_create:
        return store
    from pipeline.storage import open_store

    config = StorageConfig.model_validate(opt.storage(endpoint_url, profile, region))
    return open_store(opt.absolute(dst), config, atomic_create=False)


def finish(outcome: ConversionOutcome, *, json: bool) -> NoReturn:
    """Print what a run did and end with its exit code."""
    from jobs.tables import print_json, print_summary

    if json:
        print_json(outcome.to_json())
    else:
        print_summary(outcome.manifest, outcome.headline(), outcome.failures, outcome.destination)
    raise typer.Exit(outcome.exit_code)
