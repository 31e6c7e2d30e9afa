"""Commands that keep a destination small and quick: compact, gc."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.destination import open_destination, reopen_for_writing
from jobs.reporting import LogFormat, reporting
from jobs.signals import stopping_on_signals

if TYPE_CHECKING:
    from jobs.progress import Reporter
    from pipeline.collection import Collection
    from pipeline.manifest import Compaction
    from pipeline.storage import ObjectStore

Destination = Annotated[str, typer.Argument(metavar="DST", help="Destination of a conversion.")]


def compact(
    dst: Destination,
    log_format: LogFormat = "text",
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Merge the manifest's parts into a few large files, so that it opens quickly; nothing is removed.

    Safe while jobs and queries run. Exit codes: 0 compacted or nothing new, 2 bad usage, 1 it stopped.
    """
    from jobs.tables import print_json
    from pipeline.manifest import compact as compact_manifest

    started_s = monotonic()
    with reporting(log_format) as reporter:
        with (
            stopping_on_signals(),
            _opened(dst, opt.storage(endpoint_url, profile, region), reporter) as (store, confirm),
        ):
            done = compact_manifest(store, before_commit=confirm)
        reporter.event("info", "compacted", asdict(done))
        reporter.finished(0, monotonic() - started_s)
    if json:
        print_json({"destination": store.url, **asdict(done)})
    else:
        typer.echo(f"{store.url}: {_compaction_line(done)}")


def gc(
    dst: Destination,
    keep_revisions: Annotated[
        int | None,
        typer.Option(help="Give up outputs beyond the newest this many of each source, but no current one."),
    ] = None,
    older_than: Annotated[
        str, typer.Option(help="Touch only what was superseded that long ago, such as 30m, 1h or 2d.")
    ] = "1h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    log_format: LogFormat = "text",
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Delete what nothing needs any more: compacted parts, superseded generations, outputs of old revisions.

    Rows of outputs that are given up stay and say so in `collected_at`. Without --keep-revisions no output is given
    up. Safe while jobs and queries run. Exit codes: 0 done, 2 bad usage, 1 it stopped and can be run again.
    """
    from jobs.tables import print_json
    from pipeline.collection import collect
    from pipeline.errors import ConfigError

    started_s = monotonic()
    with reporting(log_format) as reporter:
        if keep_revisions is not None and keep_revisions < 1:
            raise ConfigError(
                f"--keep-revisions must be at least 1, not {keep_revisions}: current outputs are always kept"
            )
        grace = opt.parse_duration(older_than, "--older-than")
        storage = opt.storage(endpoint_url, profile, region)
        with (
            stopping_on_signals(),
            _opened(dst, storage, reporter, writes=not dry_run) as (store, confirm),
        ):
            done = collect(store, keep_revisions=keep_revisions, older_than=grace, dry_run=dry_run, before_step=confirm)
        reporter.event("info", "collected", {"num_deleted": done.num_deleted, **asdict(done)})
        reporter.finished(0, monotonic() - started_s)
    if json:
        print_json({"destination": store.url, "num_deleted": done.num_deleted, **asdict(done)})
        return
    typer.echo(f"{store.url}: {_collection_line(done)}")
    for key in done.examples if dry_run else ():
        typer.echo(f"  {key}")


@contextmanager
def _opened(
    dst: str, storage: Mapping[str, object], reporter: Reporter, *, writes: bool = True
) -> Iterator[tuple[ObjectStore, Callable[[], None]]]:
    """Open the destination as its job writes to it; own it meanwhile where its store does not decide races.

    What comes with it raises LeaseLostError where another driver has taken over since: to be asked ahead of each step
    that cannot be undone. Raises DestinationInUseError where it does not and another driver is at work.
    """
    store, record = open_destination(dst, storage)
    reporter.job(record.job_id)
    if writes:
        from jobs.store_check import check_if_moved

        record = check_if_moved(store, record, reporter)
    store = reopen_for_writing(store, record, dst, storage)
    if record.store_weakness is None:
        yield store, lambda: None
        return
    from jobs.convert import own_destination
    from pipeline.job import Job

    with own_destination(Job(store, record), record.config.execution, reporter) as lease:
        yield store, lease.confirm


def _compaction_line(done: Compaction) -> str:
    from jobs.progress import plural

    if not done.did_work:
        return f"nothing new since generation {done.generation}" if done.generation else "nothing to compact yet"
    if not done.won:
        return (
            f"another compaction was first: its generation {done.generation} counts; the files of this one mean "
            "nothing, and gc deletes them"
        )
    rows, files = plural(done.num_rows, "row"), plural(done.num_files, "file")
    merged = f"{plural(done.num_merged, 'part')} merged"
    kept = (
        f", {done.num_rows - done.num_written:,} of the rows left as they were"
        if done.num_written < done.num_rows
        else ""
    )
    return f"generation {done.generation}: {rows} in {files}, {merged}{kept}"


def _collection_line(done: Collection) -> str:
    from jobs.progress import plural
    from jobs.units import byte_size

    counts = [
        (f"{plural(done.num_outputs, 'output')} ({byte_size(done.output_bytes)})", done.num_outputs),
        (plural(done.num_parts, "compacted part"), done.num_parts),
        (plural(done.num_heads, "superseded head"), done.num_heads),
        (plural(done.num_generation_files, "superseded manifest file"), done.num_generation_files),
        (plural(done.num_plan_parts, "plan part") + " without a plan", done.num_plan_parts),
    ]
    what = ", ".join(text for text, number in counts if number)
    verb = "would delete" if done.is_dry_run else "deleted"
    return f"{verb} {what}" if what else "nothing to delete"
