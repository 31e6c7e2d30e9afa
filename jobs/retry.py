"""`hdrfleet retry`: plan the failed images of a destination again, with the options that its job recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow.compute as pc

from jobs.convert import ConversionOutcome, run_conversion
from jobs.options import absolute, build
from jobs.progress import Reporter, plural
from jobs.store_options import heeded, require_heeded, require_heeded_by_source
from pipeline.config import ConversionConfig
from pipeline.errors import ConfigError, image_errors_by_code
from pipeline.job import Job, JobRecord, PlannedWork
from pipeline.manifest import open_manifest
from pipeline.records import ConversionStatus
from pipeline.sharding import SourceListing
from pipeline.storage import ObjectStore

# How long and how often a store is tried holds wherever the destination is now; how it was reached may not.
_STORE_BOUNDS = ("connect_timeout_s", "read_timeout_s", "max_attempts", "max_retry_s")


def recorded_config(
    record: JobRecord,
    dst: str,
    storage: Mapping[str, object],
    source_storage: Mapping[str, object],
    **changes: Mapping[str, object],
) -> ConversionConfig:
    """The recorded configuration for `dst`, reached by `storage`, with `changes`, which are fields by part.

    `source_storage` replaces fields of how the source was reached. Raises ConfigError.
    """
    require_heeded(dst, storage)
    require_heeded_by_source(record.config.source.url, source_storage)
    parts = record.config.model_dump()
    # Manifest and plans say what is done again; the first run's filters are not those of later ones.
    parts["source"] |= {"limit": None, "include": (), "exclude": ()}
    parts["source"]["storage"] |= source_storage
    recorded = {name: parts["destination"]["storage"][name] for name in _STORE_BOUNDS}
    bounds = heeded(dst, recorded)  # a copy in a folder has no time-outs
    parts["destination"] = {"url": absolute(dst), "storage": bounds | dict(storage)}
    # What failed before may well fail again: that is no sign of a wrong set-up.
    parts["execution"]["max_failure_rate"] = 1.0
    for part, fields in changes.items():
        for name, value in fields.items():
            before = parts[part].get(name)
            # Another maximum of workers keeps the budget and the deadline that stand beside it.
            is_merged = name == "scaling" and isinstance(before, dict) and isinstance(value, dict)
            parts[part][name] = before | value if is_merged else value
    return build(**parts)


def check_codes(store: ObjectStore, codes: Sequence[str]) -> None:
    """Raise ConfigError for a code that no row can have, naming those that there are: it is misspelt."""
    current = open_manifest(store, columns=("source", "plan", "status", "error_code")).current
    failed = current.filter(pc.not_equal(current["status"], ConversionStatus.OK.value))
    there = sorted({code for code in failed["error_code"].to_pylist() if code})
    unknown = sorted(set(codes) - image_errors_by_code().keys())
    if unknown:
        raise ConfigError(
            f"--code {unknown[0]}: no image failed with it; there are: {', '.join(there) or 'no failures'}"
        )


def where_gone(listing: SourceListing) -> str:
    """Why planned images were not met in a pass for them alone."""
    if denied := listing.counts.denied_folders:
        return f"no longer in the source, or in a folder of it that may not be read, such as {', '.join(denied)}"
    return "no longer in the source"


def run_retry(config: ConversionConfig, codes: Sequence[str], reporter: Reporter) -> ConversionOutcome:
    """Finish what is planned, then convert every failed image that the source still lists once more.

    Raises as `run_conversion` does.
    """

    def extend(job: Job, listing: SourceListing) -> PlannedWork | None:
        failed = job.failures(codes)
        work = job.plan_again(listing, failed) if failed else None
        num_gone = len(failed) - (work.plan.num_images if work else 0)
        if num_gone > 0:
            reporter.note(f"{plural(num_gone, 'failed image')} {where_gone(listing)}")
        return work

    return replace(run_conversion(config, reporter, extend=extend), retried_codes=tuple(codes))
