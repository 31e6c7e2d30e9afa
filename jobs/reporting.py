"""What a command reports to while it works: a person, or a log for machines (`--log-format json`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.progress import Reporter
    from pipeline.verification import VerifyReport

LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format",
        help="text, or json: one object per line on standard error.",
        envvar="HDRFLEET_LOG",
        rich_help_panel="Running",
    ),
]


def check_log_format(log_format: str) -> None:
    """Raise ConfigError for a format that is not known."""
    if log_format not in {"text", "json"}:
        raise ConfigError(f"--log-format must be text or json, not {log_format!r}")


@contextlib.contextmanager
def reporting(log_format: str, *, quiet: bool = False) -> Iterator[Reporter]:
    """What a command reports to until the block ends; what libraries print meanwhile goes to standard error.

    Standard output is for the result, which is printed after the block. Raises ConfigError for another format; with
    `json`, an expected error within the block is the log's last line and ends the process.
    """
    check_log_format(log_format)
    if log_format == "json":
        from jobs.json_log import json_log

        with json_log(quiet=quiet) as log:
            yield log
        return
    from jobs.progress import ConsoleReporter

    # OpenEXR prints remarks about damaged files to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        yield ConsoleReporter(quiet=quiet)


def report_findings(reporter: Reporter, report: VerifyReport) -> None:
    """Log what verification found, each finding with the image, plan and shard that it concerns, notes and counts."""
    from pipeline.manifest.parts import parse_part_key

    for finding in report.findings:
        fields: dict[str, object] = {"code": finding.code, "key": finding.key, "message": finding.message}
        if finding.source is not None:
            fields["source"] = finding.source
        if part := parse_part_key(finding.part or finding.key):
            fields |= {"plan": part.plan, "shard": part.shard}
        reporter.event("warning", "finding", fields)
    for note in report.notes:
        reporter.event("info", "note", {"message": note})
    counts = {
        "num_plans": report.num_plans,
        "num_rows": report.num_rows,
        "num_outputs": report.num_outputs,
        "num_decoded": report.num_decoded,
        "num_findings": len(report.findings),
        "findings_by_code": report.num_by_code(),
    }
    reporter.event("info", "verified", counts)
