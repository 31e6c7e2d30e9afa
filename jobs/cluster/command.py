"""`hdrfleet cluster validate`: the files of a cluster, checked before anything is started from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt

if TYPE_CHECKING:
    from jobs.cluster.findings import FileReport

EXIT_UNSOUND = 3

app = typer.Typer(no_args_is_help=True, help="Clusters for hdrfleet to run on.")


@app.callback()
def _root() -> None:
    """Clusters for hdrfleet to run on."""


@app.command()
def validate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Ray cluster files, Kubernetes manifests, CloudFormation templates, Dockerfiles, Prometheus' "
            "configuration and rules, Grafana dashboards, or folders of them.",
        ),
    ],
    crd: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SCHEMA",
            help="Also check the structure of KubeRay's objects, by what kubectl get crd NAME -o yaml prints or its "
            "openAPIV3Schema alone; repeatable.",
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Check the files of a cluster, offline: structure, what is open, secrets, versions, whether GPUs are to be had.

    Nothing is started and nothing is asked of a cloud. Exit codes: 0 sound, 3 something was found, 2 bad usage or an
    unreadable file.
    """
    from jobs.cluster.crd import load_schemas
    from jobs.cluster.validate import find_files, validate_files
    from jobs.tables import print_json

    schemas = [each for path in crd or () for each in load_schemas(path)]
    reports = validate_files(find_files(files), schemas)
    is_sound = all(report.is_sound for report in reports)
    if json:
        print_json({"sound": is_sound, "files": [report.to_json() for report in reports]})
    else:
        for report in reports:
            _print(report)
    if not is_sound:
        raise typer.Exit(EXIT_UNSOUND)


def _print(report: FileReport) -> None:
    from jobs.cluster.findings import NOT_RECOGNISED
    from jobs.progress import plural

    is_known = report.kind != NOT_RECOGNISED
    state = ("sound" if is_known else "") if report.is_sound else plural(len(report.findings), "finding")
    typer.echo(f"{report.file}: {state} ({report.kind})" if state else f"{report.file}: {report.kind}")
    for finding in report.findings:
        typer.echo(f"  {finding.place or 'the file'}: {finding.message} [{finding.code}]")
    for note in report.notes:
        typer.echo(f"  note: {note}")
