"""Commands for a destination that is there: verify, retry, repair. The work is done by the modules beside it."""

from __future__ import annotations

from time import monotonic
from typing import Annotated

import typer

from jobs import options as opt
from jobs.destination import finish, open_destination, open_whole, reopen_for_writing
from jobs.option_groups import RecordedOptions, SourceStorage, grouped
from jobs.reporting import LogFormat, report_findings, reporting
from jobs.signals import stopping_on_signals
from pipeline.config import StorageConfig
from pipeline.errors import ConfigError

_RUNNING = "Running"
_SAMPLE = "1%"

Destination = Annotated[str, typer.Argument(metavar="DST", help="Destination of a conversion.")]
_SAMPLE_HELP = "Share of the outputs to read, hash and decode as well, such as 1% or 0.01"
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, notes or warnings.")]
ShowAll = Annotated[bool, typer.Option("--all", help="Print every finding, not the first 20.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use.", rich_help_panel=_RUNNING)]


def verify(
    dst: Destination,
    sample: Annotated[str | None, typer.Option(help=f"{_SAMPLE_HELP} (by default {_SAMPLE}).")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read, hash and decode all of them.")] = False,
    show_all: ShowAll = False,
    executor: Annotated[
        str, typer.Option(help="local, or ray: outputs are read all over the cluster.", rich_help_panel=_RUNNING)
    ] = "local",
    address: Address = None,
    log_format: LogFormat = "text",
    quiet: Quiet = False,
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
) -> None:
    """Prove that DST is whole: one row for every planned image, every output as its row says, nothing beside them.

    Nothing is changed. Exit codes: 0 sound, 3 something was found, 2 bad usage, 1 the store could not be read.
    """
    from jobs.tables import print_json
    from jobs.verify import EXIT_UNSOUND, print_report, run_verify

    started_s = monotonic()
    with reporting(log_format, quiet=quiet) as reporter:
        if deep and sample is not None:
            raise ConfigError("--deep reads all outputs, --sample a share of them; drop one of the two")
        share = 1.0 if deep else opt.parse_share(_SAMPLE if sample is None else sample)
        on_ray = opt.verify_execution(executor, address)
        storage = opt.storage(endpoint_url, profile, region)
        store, record = open_destination(dst, storage)
        reporter.job(record.job_id)
        reach = StorageConfig.model_validate(storage)
        with stopping_on_signals():
            report = run_verify(store, record, share, quiet=quiet, on_ray=on_ray, storage=reach)
        report_findings(reporter, report)
        reporter.finished(0 if report.is_sound else EXIT_UNSOUND, monotonic() - started_s)
    if json:
        print_json(report.to_json())
    else:
        print_report(report, show_all=show_all)
    if not report.is_sound:
        raise typer.Exit(EXIT_UNSOUND)


@grouped
def retry(
    dst: Destination,
    code: Annotated[
        list[str] | None, typer.Option(help="Only images that failed with this error_code; repeatable.")
    ] = None,
    log_format: LogFormat = "text",
    quiet: Quiet = False,
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
    *,
    recorded: RecordedOptions,
    source_storage: SourceStorage,
) -> None:
    """Convert the failed images of DST again, all of them or by error code, with the options that the job recorded.

    Options given here replace recorded ones. Exit codes are those of `convert`.
    """
    from jobs.retry import check_codes, recorded_config, run_retry

    with reporting(log_format, quiet=quiet) as reporter:
        storage = opt.storage(endpoint_url, profile, region)
        store, record = open_whole(dst, storage)
        check_codes(store, code or ())
        config = recorded_config(record, dst, storage, source_storage.as_fields(), **recorded.changes())
        with stopping_on_signals():
            outcome = run_retry(config, code or (), reporter)
        reporter.finished(outcome.exit_code, outcome.seconds)
    finish(outcome, json=json)


@grouped
def repair(
    dst: Destination,
    sample: Annotated[str, typer.Option(help=f"{_SAMPLE_HELP}.")] = "100%",
    delete_orphans: Annotated[
        bool, typer.Option("--delete-orphans", help="Delete objects that no row names, and unfinished writes.")
    ] = False,
    show_all: ShowAll = False,
    log_format: LogFormat = "text",
    quiet: Quiet = False,
    json: opt.Json = False,
    endpoint_url: opt.Endpoint = None,
    profile: opt.Profile = None,
    region: opt.Region = None,
    *,
    recorded: RecordedOptions,
    source_storage: SourceStorage,
) -> None:
    """Verify DST and make anew what is missing or damaged there, from the source, as new revisions.

    The sample is read before and after: here, or all over the cluster with --executor ray or --address. Run it while no
    conversion runs on DST. Exit codes: 0 sound afterwards, 3 something is left, 2 bad usage, 1 it stopped and can be
    run again.
    """
    from jobs.retry import recorded_config
    from jobs.store_check import check_if_moved
    from jobs.tables import print_json
    from jobs.verify import EXIT_UNSOUND, print_report

    started_s = monotonic()
    with reporting(log_format, quiet=quiet) as reporter:
        share = opt.parse_share(sample)
        storage = opt.storage(endpoint_url, profile, region)
        store, record = open_whole(dst, storage)
        reporter.job(record.job_id)
        config = recorded_config(record, dst, storage, source_storage.as_fields(), **recorded.changes())
        with stopping_on_signals():
            from jobs.repair import hint, require_usable, run_repair

            require_usable(config, record, recorded, store.url)
            record = check_if_moved(store, record, reporter)
            store = reopen_for_writing(store, record, dst, storage)
            outcome = run_repair(
                store,
                record,
                config,
                reporter,
                share=share,
                delete_orphans=delete_orphans,
                quiet=quiet,
                verifies_on_ray=recorded.asks_for_ray,
            )
        reporter.finished(0 if outcome.after.is_sound else EXIT_UNSOUND, monotonic() - started_s)
    if json:
        print_json(outcome.to_json())
    else:
        typer.echo(outcome.summary())
        print_report(outcome.after, show_all=show_all)
        if advice := hint(outcome.after):
            typer.echo(advice)
    if not outcome.after.is_sound:
        raise typer.Exit(EXIT_UNSOUND)
