"""An error as the user reads it: one line without secrets that says how to go on, and the exit code."""

from __future__ import annotations

from pipeline.errors import (
    HdrfleetError,
    InterruptedJobError,
    ManifestError,
    StuckError,
    SystemicError,
    TransientStorageError,
    UsageError,
    WorkerLostError,
)

EXIT_DIED, EXIT_USAGE = 1, 2


def explain(error: HdrfleetError) -> tuple[str, int]:
    """The line, without the error's code, and the exit code of the command."""
    from pipeline.storage import redact_url

    hint = ""
    if isinstance(error, InterruptedJobError):
        hint = "; committed work is kept, run the same command again to carry on"
    elif isinstance(error, SystemicError) and not isinstance(error, WorkerLostError | StuckError | ManifestError):
        hint = "; committed work is kept, run the same command again once this is mended"
    elif isinstance(error, TransientStorageError):
        hint = "; committed work is kept, run the same command again once the store answers"
    text = " ".join(redact_url(f"{error}{hint}").split())
    return text, EXIT_USAGE if isinstance(error, UsageError) else EXIT_DIED
