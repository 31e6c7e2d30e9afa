"""An error as the user reads it: one line without secrets that says how to go on, and the exit code."""

from __future__ import annotations

import typer

from pipeline.errors import (
    BudgetSpentError,
    HdrfleetError,
    InterruptedJobError,
    ManifestError,
    StuckError,
    SystemicError,
    TooManyFailuresError,
    TransientStorageError,
    UsageError,
    WorkerLostError,
)

EXIT_DIED, EXIT_USAGE, EXIT_BUDGET = 1, 2, 4
# What Typer raises for options and arguments that are none. It brings a copy of click along or uses the package,
# depending on its version; only this leaf of the family is public in both.
MISUSED: type[Exception] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "UsageError")


def explain(error: HdrfleetError) -> tuple[str, int]:
    """The line, without the error's code, and the exit code of the command."""
    from pipeline.storage import redact_url

    hint = ""
    if isinstance(error, InterruptedJobError):
        hint = "; committed work is kept, run the same command again to carry on"
    elif isinstance(error, BudgetSpentError):
        hint = "; committed work is kept, run the same command again to carry on with another budget of this size"
    elif isinstance(error, TooManyFailuresError):
        hint = (
            "; committed work is kept, run the same command again once this is mended, then hdrfleet retry with the "
            "same change for the images that failed"
        )
    elif isinstance(error, SystemicError) and not isinstance(error, WorkerLostError | StuckError | ManifestError):
        hint = "; committed work is kept, run the same command again once this is mended"
    elif isinstance(error, TransientStorageError):
        hint = "; committed work is kept, run the same command again once the store answers"
    text = " ".join(redact_url(f"{error}{hint}").split())
    if isinstance(error, BudgetSpentError):
        return text, EXIT_BUDGET
    return text, EXIT_USAGE if isinstance(error, UsageError) else EXIT_DIED


def tell(error: HdrfleetError) -> int:
    """Write the line, with the error's code, to standard error; returns the exit code."""
    text, code = explain(error)
    typer.echo(f"hdrfleet: {text} [{error.code}]", err=True)
    return code


def explain_misuse(error: Exception) -> str:
    """The line for a `MISUSED`, without a code: what is wrong with the options or arguments, and how to list them."""
    from pipeline.storage import redact_url

    message = " ".join(error.format_message().split()).removesuffix(".")  # type: ignore[attr-defined]
    return redact_url(f"{message}; the command with -h lists what there is")
