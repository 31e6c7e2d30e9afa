"""A destination as the commands that work on one meet it: opened by URL, and what a run there ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import typer

from jobs import options as opt
from pipeline.config import StorageConfig
from pipeline.errors import StorageError, SystemicError

if TYPE_CHECKING:
    from jobs.convert import ConversionOutcome
    from pipeline.job import JobRecord
    from pipeline.storage import ObjectStore


def open_destination(dst: str, storage: Mapping[str, object], *, prefix: str = "--") -> tuple[ObjectStore, JobRecord]:
    """Open a destination that holds a job, and read its job.json. `storage` are the fields that the user gave.

    Raises ConfigError for one that means nothing there, its option's name begun by `prefix`, and DestinationError where
    no job is.
    """
    from pydantic import ValidationError

    from jobs.store_options import require_heeded
    from pipeline.config import first_fault
    from pipeline.errors import ConfigError, DestinationError
    from pipeline.job import read_job
    from pipeline.storage import open_store

    require_heeded(dst, storage, prefix)
    try:
        config = StorageConfig.model_validate(storage)
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


def open_whole(dst: str, storage: Mapping[str, object]) -> tuple[ObjectStore, JobRecord]:
    """`open_destination`, for commands that make outputs: DestinationError where job.json contradicts itself, too."""
    from pipeline.job_record import require_whole

    store, record = open_destination(dst, storage)
    require_whole(record, store.url)
    return store, record


def reopen_for_writing(store: ObjectStore, record: JobRecord, dst: str, storage: Mapping[str, object]) -> ObjectStore:
    """The destination as its job writes to it: looked at before each write where its store ignores the condition."""
    if record.has_conditional_create:
        return store
    from pipeline.storage import open_store

    return open_store(opt.absolute(dst), StorageConfig.model_validate(storage), atomic_create=False)


def finish(outcome: ConversionOutcome, *, json: bool) -> NoReturn:
    """Print what a run did and end with its exit code."""
    from jobs.tables import print_json, print_summary

    if json:
        print_json(outcome.to_json())
    else:
        print_summary(outcome.manifest, outcome.headline(), outcome.failures, outcome.destination)
    raise typer.Exit(outcome.exit_code)
