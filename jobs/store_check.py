"""What a command does about the store of its destination before it writes there: look, say what is weak, keep it."""

from __future__ import annotations

from jobs.progress import Reporter
from pipeline.job import JobRecord
from pipeline.storage import ObjectStore
from pipeline.store_verdict import StoreVerdict, judge_store, keep_verdict, place_of, read_verdicts


def check_store(
    store: ObjectStore, record: JobRecord | None, reporter: Reporter, *, is_declared_weak: bool = False
) -> StoreVerdict:
    """Look at the store of a job, or of one that is about to be made (None), and warn where it is weak.

    What is new about a job is kept at the destination. Raises DestinationError when that cannot be written.
    """
    known = [record.verdict, *read_verdicts(store)] if record else []
    verdict = judge_store(store, known, is_declared_weak=is_declared_weak)
    if record and verdict not in known:
        keep_verdict(store, verdict)
    if verdict.weakness:
        was_strong = record is not None and record.store_weakness is None
        since = "; this is recorded, and its job treats it as weak from now on" if was_strong else ""
        reporter.warn(f"{store.url}: {verdict.weakness}{since}; run one hdrfleet at a time on this destination")
    return verdict


def check_if_moved(store: ObjectStore, record: JobRecord, reporter: Reporter) -> JobRecord:
    """The job with what `check_store` finds where its destination is at a place that nobody looked at yet."""
    places = {record.store_place, *(verdict.place for verdict in read_verdicts(store))}
    if not record.has_conditional_create or place_of(store) in places:
        return record
    return record.judged(check_store(store, record, reporter))
