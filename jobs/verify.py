"""`hdrfleet verify`: what verification found, for people and for scripts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from rich.console import Console
from rich.progress import Progress

from jobs.progress import plural
from jobs.units import byte_size
from pipeline.config import ExecutionConfig, StorageConfig
from pipeline.job import JobRecord
from pipeline.storage import ObjectStore
from pipeline.verification import VerifyReport, verify_destination
from pipeline.verification.objects import check_contents
from pipeline.verification.verify import CheckOutputs

EXIT_UNSOUND = 3
_NUM_SHOWN = 20


def run_verify(
    store: ObjectStore,
    record: JobRecord,
    share: float,
    *,
    quiet: bool,
    on_ray: ExecutionConfig | None = None,
    storage: StorageConfig | None = None,
) -> VerifyReport:
    """Verify with a progress bar on standard error, where that is a terminal.

    Outputs are checked by threads of this process, or by tasks `on_ray`, which open the store by `storage`. Raises
    ConfigError where Ray cannot be used, StorageError, SystemicError.
    """
    with ExitStack() as stack:
        check: CheckOutputs = partial(check_contents, num_threads=len(os.sched_getaffinity(0)))
        if on_ray is not None:
            from jobs.verify_ray import check_on_ray
            from pipeline.execution.ray_session import ray_session

            stack.enter_context(ray_session(on_ray))
            check = partial(check_on_ray, storage=storage or StorageConfig())
        on_progress = stack.enter_context(_progress(quiet=quiet))
        return verify_destination(store, record, share=share, check_outputs=check, on_progress=on_progress)


def print_report(report: VerifyReport, *, show_all: bool) -> None:
    """Print one line for a sound destination, and the findings of another."""
    console = Console(highlight=False, soft_wrap=True)
    rows, plans = plural(report.num_rows, "row"), plural(report.num_plans, "plan")
    decoded = f"{report.num_decoded:,} of them decoded ({byte_size(report.num_bytes_read)})"
    looked_at = f"{rows} of {plans}, {plural(report.num_outputs, 'output')}, {decoded}"
    verdict = f"{'sound' if report.is_sound else 'not sound'}; {looked_at}"
    if report.is_sound and not report.num_plans:
        verdict = "nothing was planned yet; there is nothing to verify"
    console.print(f"{report.destination}: {verdict}", markup=False, style="bold")
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    for code, number in report.num_by_code().items():
        console.print(f"{number:>8,}  {code}", markup=False)
    shown = report.findings if show_all else report.findings[:_NUM_SHOWN]
    for finding in shown:
        console.print(f"{finding.code}  {finding.key}: {finding.message}", markup=False)
    if len(shown) < len(report.findings):
        console.print(f"and {len(report.findings) - len(shown):,} more; --all shows them", markup=False)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading rows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, description="decoding")
