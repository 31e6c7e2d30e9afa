"""Verification of one destination, from its objects alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from pipeline.job import JobRecord
from pipeline.sharding.names import OUTPUT_FOLDER, TRIAL_KEY
from pipeline.storage import ObjectStore
from pipeline.verification.findings import Finding, VerifyReport
from pipeline.verification.ledger import ExpectedOutput, open_ledger
from pipeline.verification.objects import check_contents, check_listing
from pipeline.verification.records import check_lease, check_names, check_record
from pipeline.verification.rows import check_rows
from pipeline.verification.strays import Strays, check_strays
from pipeline.verification.unfinished import check_unfinished

OnProgress = Callable[[int, int], None]
_ROW_THREADS = 16


class CheckOutputs(Protocol):
    """Reads, hashes and decodes outputs, here or on other machines, as `check_contents` does."""

    def __call__(
        self, store: ObjectStore, outputs: Iterable[ExpectedOutput], *, on_done: Callable[[int | None], None]
    ) -> Iterator[Finding]:
        """Yield what is wrong with `outputs`; `on_done` gets the bytes of each, None for one that was not read."""
        ...


_check_here = partial(check_contents, num_threads=4)


def verify_destination(
    store: ObjectStore,
    record: JobRecord,
    *,
    share: float = 0.01,
    check_outputs: CheckOutputs = _check_here,
    on_progress: OnProgress = lambda _done, _total: None,
) -> VerifyReport:
    """Check the destination whose job.json is `record`, and report everything that is not as it should be.

    Every plan, part, row and the existence and size of every output are checked; a fixed `share` (0 to 1) of the
    outputs, at least one unless it is 0, is read, hashed and decoded as well, by `check_outputs`. `on_progress` gets
    how many of these are done, and of how many. Nothing is written. Outputs of all revisions count, for their rows are
    there, but for those that a repair replaced or a collection gave up. Where the manifest's head is damaged, nothing
    else can be told. While a conversion runs, its unfinished work is reported as such. Rows and listing are compared in
    a database in TMPDIR. Raises ValueError for a share outside 0..1, StorageError and SystemicError where the store
    cannot be read, DiskFullError where TMPDIR is full.
    """
    if not 0 <= share <= 1:
        msg = f"share must lie in 0..1, not {share}"
        raise ValueError(msg)
    notes: list[str] = []
    strays = Strays()
    with open_ledger() as ledger:
        # Listed before plans and rows are read: what a conversion stores meanwhile then looks missing, never orphaned.
        ledger.note_listing(info for info in store.list(OUTPUT_FOLDER, strays) if info.key != TRIAL_KEY)
        rows = check_rows(store, record, _ROW_THREADS, ledger)
        findings = [*check_record(record), *check_lease(store), *rows.findings, *check_names(store)]
        if rows.is_readable:
            findings.extend(check_listing(store, ledger, looks_at_orphans=not rows.findings))
            findings.extend(check_strays(store, ledger, strays, notes))
            findings.extend(check_unfinished(store, notes))
        num_sampled = ledger.num_outputs(share)
        num_done = num_read = num_bytes_read = 0

        def on_done(num_bytes: int | None) -> None:
            nonlocal num_done, num_read, num_bytes_read
            num_done += 1
            if num_bytes is not None:
                num_read, num_bytes_read = num_read + 1, num_bytes_read + num_bytes
            on_progress(num_done, num_sampled)

        findings.extend(check_outputs(store, ledger.sample(share), on_done=on_done))
        return VerifyReport(
            destination=store.url,
            num_plans=rows.num_plans,
            num_rows=rows.num_rows,
            num_outputs=ledger.num_outputs(),
            num_decoded=num_read,
            num_bytes_read=num_bytes_read,
            findings=tuple(findings),
            notes=tuple(notes),
        )
