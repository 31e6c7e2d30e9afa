"""`hdrfleet submit`, `jobs`, `logs` and `stop`: conversions as jobs of a Ray cluster (see `jobs.submission`)."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.conversion_options import ConversionOptions, Destination, Source
from jobs.option_groups import DestinationStorage, SourceStorage, arguments_of, grouped
from jobs.reporting import LogFormat, check_log_format

if TYPE_CHECKING:
    from jobs.submission import JobServer, SubmittedJob

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's dashboard, http://HOST:8265; where it is not open to you, through a tunnel.",
    ),
]
IdOrDst = Annotated[str, typer.Argument(metavar="ID|DST", help="A job's id, or the destination that it works on.")]
_EXIT_DIED = 1


@grouped
def submit(
    src: Source,
    dst: Destination,
    address: Address,
    options: ConversionOptions,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what the job writes until it ends; its exit code is ours.")
    ] = False,
    use_image: Annotated[
        bool,
        typer.Option(
            "--use-image", help="Run the hdrfleet of the cluster's image; by default this one's code is sent."
        ),
    ] = False,
    log_format: LogFormat = "text",
    json: opt.Json = False,
    *,
    source_storage: SourceStorage,
    destination_storage: DestinationStorage,
) -> None:
    """Run a conversion on a Ray cluster as a job that needs neither this terminal nor this machine.

    Submitting the same conversion again while it runs gives the same job. No credential is sent: the cluster's machines
    read SRC and write DST with their own. Exit codes: 0 submitted, 2 bad usage; with --follow those of `convert`.
    """
    from jobs.submission import JobServer

    check_log_format(log_format)
    options.config(src, dst, source_storage, destination_storage, executor="ray", address="auto")
    sent, weights = _with_weights(options)
    src, dst = opt.absolute(src), opt.absolute(dst)
    arguments = [src, dst, "--address=auto"]
    arguments += [text for group in (sent, source_storage, destination_storage) for text in arguments_of(group)]
    server = JobServer(address)
    job, is_new = server.submit(src, dst, arguments, weights=weights, use_image=use_image, log_format=log_format)
    if json and not follow:
        _print_json(job, is_new=is_new)
        return
    typer.echo(f"{job.id} {'submitted' if is_new else 'is at work on it already'}", err=True)
    if not follow:
        typer.echo(f"hdrfleet logs -f {job.id} --address {address}   shows what it does")
        return
    _follow(server, job)


def list_jobs(address: Address, json: opt.Json = False) -> None:
    """List the conversions that a cluster runs, or remembers, the latest first."""
    from rich.markup import escape
    from rich.table import Table

    from jobs.submission import JobServer
    from jobs.tables import fitting_console, print_json

    found = JobServer(address).all_jobs()
    if json:
        print_json([asdict(job) for job in found])
        return
    table = Table("job", "status", "started", "took", "DST", box=None, pad_edge=False)
    for job in found:
        table.add_row(job.id, _outcome(job), _moment(job.started_at), _took(job), escape(job.dst))
    fitting_console().print(table)


def logs(
    job: IdOrDst,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Show what a job's driver wrote. With --follow the exit code is the job's."""
    from jobs.submission import JobServer, is_job_id

    server = JobServer(address)
    found = server.find(job if is_job_id(job) else opt.absolute(job))
    if follow:
        _follow(server, found)
    else:
        sys.stdout.write(server.logs(found))


def stop(job: IdOrDst, address: Address) -> None:
    """Stop a job. What it has committed stays; submitting it again carries on."""
    from jobs.submission import JobServer, is_job_id

    server = JobServer(address)
    found = server.find(job if is_job_id(job) else opt.absolute(job))
    was_active = found.is_active
    ended = server.stop(found)
    typer.echo(f"{ended.id} {'is stopped' if was_active else 'had ended'} ({_outcome(ended)})")


def _with_weights(options: ConversionOptions) -> tuple[ConversionOptions, Path | None]:
    """Local weights are sent along, into the working directory there. Raises WeightsError where they are none."""
    from jobs.weights import read_weights
    from pipeline.models.builtin import BUILT_IN_WEIGHTS, DEFAULT

    if options.weights in {DEFAULT, *BUILT_IN_WEIGHTS} or "://" in options.weights:
        return options, None
    read_weights(options.weights)
    path = Path(options.weights).expanduser()
    return replace(options, weights=path.name), path


def _follow(server: JobServer, job: SubmittedJob) -> None:
    """Show the job's output to its end and leave with its exit code; Ctrl-C leaves the job alone."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = server.follow(job, write)
    except KeyboardInterrupt:
        typer.echo(f"\n{job.id} goes on; `hdrfleet stop {job.id}` stops it", err=True)
        raise typer.Exit(_EXIT_DIED) from None
    typer.echo(f"{ended.id} {_outcome(ended)}", err=True)
    raise typer.Exit(_EXIT_DIED if ended.exit_code is None or ended.exit_code < 0 else ended.exit_code)


def _print_json(job: SubmittedJob, *, is_new: bool) -> None:
    from jobs.tables import print_json

    print_json({**asdict(job), "is_new": is_new})


def _moment(unix_s: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s)) if unix_s else ""


def _took(job: SubmittedJob) -> str:
    if job.started_at is None:
        return ""
    seconds = int((job.ended_at or time.time()) - job.started_at)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _outcome(job: SubmittedJob) -> str:
    """Its status in words: Ray calls every exit code but 0 a failure."""
    if job.is_active or job.exit_code is None:
        return job.status.lower()
    return {0: "done", 3: "done, some images failed"}.get(job.exit_code, f"{job.status.lower()}, exit {job.exit_code}")
