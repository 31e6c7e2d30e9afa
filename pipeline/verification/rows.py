"""Plans against parts: every planned input has exactly one row, and no row is without a plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.job import JobRecord
from pipeline.manifest.distrusted import DISTRUST_PREFIX, read_distrusted
from pipeline.manifest.generation import read_collected
from pipeline.manifest.head import HEAD_PREFIX, MAX_LOOKS, Head, head_key
from pipeline.manifest.parts import part_key, read_part
from pipeline.manifest.snapshot import Snapshot, take_snapshot
from pipeline.records import Shard
from pipeline.sharding import PlanSummary, iter_shards, read_plan_summary
from pipeline.sharding.plan import PLAN_PREFIX, plan_number
from pipeline.storage import ObjectStore
from pipeline.verification.compacted import CompactedRows
from pipeline.verification.ledger import Ledger
from pipeline.verification.shard_rows import ROW_COLUMNS, RowCheck, ShardRows, check_shard


def check_rows(store: ObjectStore, record: JobRecord, num_threads: int, ledger: Ledger) -> RowCheck:
    """Compare every plan with its parts, or with the generation that stands for them, and settle `ledger`.

    Begins again, a bounded number of times, where a collection removed what was listed. Raises StorageError and
    SystemicError where the store cannot be read.
    """
    before: Snapshot | None = None
    for _ in range(MAX_LOOKS):
        try:
            snapshot = take_snapshot(store)
        except ManifestError as error:
            check = RowCheck(ledger, is_readable=False)
            check.add("head_damaged", HEAD_PREFIX, str(error))
            return check
        is_settled = snapshot == before  # what is missing is so for good
        try:
            ledger.forget()
            return _check_rows(store, record, snapshot, num_threads, ledger, missing_is_damage=is_settled)
        except ObjectMissingError:
            if is_settled:
                raise
            before = snapshot
    raise ManifestError("the manifest changes faster than it can be read")


def _check_rows(
    store: ObjectStore,
    record: JobRecord,
    snapshot: Snapshot,
    num_threads: int,
    ledger: Ledger,
    *,
    missing_is_damage: bool,
) -> RowCheck:
    check, committed = RowCheck(ledger), snapshot.committed()
    try:
        ledger.distrust(read_distrusted(store))
    except ManifestError as error:
        check.add("distrust_damaged", DISTRUST_PREFIX, str(error))
    compacted = (
        CompactedRows(store, snapshot.head, ROW_COLUMNS, missing_is_damage=missing_is_damage) if snapshot.head else None
    )
    uncovered = {(part.plan, part.shard): part.key for part in snapshot.parts}
    for plan in _plans(store, committed, check):
        planned: set[int] = set()
        try:
            for shard, found in _with_rows(store, plan, uncovered, compacted, check=check, num_threads=num_threads):
                planned.add(shard.shard)
                if found is not None:
                    check_shard(shard, found, record, check)
        except ManifestError as error:
            check.add("plan_damaged", f"{PLAN_PREFIX}/{plan.plan}", str(error))
            continue
        for extra in sorted(committed.get(plan.plan, set()) - planned):
            is_covered = snapshot.head is not None and snapshot.head.covers(plan.plan, extra)
            key = head_key(snapshot.head.generation) if is_covered and snapshot.head else part_key(plan.plan, extra)
            check.add("part_unplanned", key, f"plan {plan.plan} has no shard {extra}")
    if compacted and not check.findings and compacted.num_rows != compacted.head.num_rows:
        text = f"names {compacted.head.num_rows} rows; its shards have {compacted.num_rows}"
        check.add("head_damaged", head_key(compacted.head.generation), text)
    if snapshot.head and snapshot.head.collected:
        _check_collected(store, snapshot.head, check, missing_is_damage=missing_is_damage)
    check.settle()
    return check


def _check_collected(store: ObjectStore, head: Head, check: RowCheck, *, missing_is_damage: bool) -> None:
    """Workers read what a head says was collected before they begin a shard: it has to be readable."""
    try:
        read_collected(store, head)
    except (ManifestError, ObjectMissingError) as error:
        if isinstance(error, ObjectMissingError) and not missing_is_damage:
            raise
        check.add("head_damaged", head_key(head.generation), str(error))


def _plans(store: ObjectStore, committed: Iterable[int], check: RowCheck) -> Iterator[PlanSummary]:
    """Yield the plans that can be read; a plan counts as gone where a later one, or a part of its own, is there."""
    numbers = {number for info in store.list(PLAN_PREFIX) if (number := plan_number(info.key)) is not None}
    if not numbers and not set(committed) and check.ledger.has_listing():
        text = "no plan and no part is there, although outputs are: nothing tells whose they are"
        check.add("plan_missing", f"{PLAN_PREFIX}/1/plan.json", text)
    for missing in sorted(set(range(1, max((*numbers, *committed), default=0) + 1)) - numbers):
        check.add(
            "plan_missing", f"{PLAN_PREFIX}/{missing}/plan.json", f"plan {missing} is gone; its rows are unchecked"
        )
    for number in sorted(numbers):
        try:
            plan = read_plan_summary(store, number)
        except ManifestError as error:
            check.add("plan_damaged", f"{PLAN_PREFIX}/{number}", str(error))
            continue
        check.num_plans += 1
        yield plan


def _with_rows(
    store: ObjectStore,
    plan: PlanSummary,
    uncovered: Mapping[tuple[int, int], str],
    compacted: CompactedRows | None,
    *,
    check: RowCheck,
    num_threads: int,
) -> Iterator[tuple[Shard, ShardRows | None]]:
    """Yield every shard with the rows of its part, or of the file of the generation that stands for it.

    None where there are no rows to be had. Reads a bounded number of parts ahead.
    """

    def read(key: str) -> ShardRows:
        # Every column: in a part of a release without seals nothing else tells that one of them is damaged.
        part = read_part(store.read(key), key)
        return ShardRows(key, part.rows.select(ROW_COLUMNS), part.attempt)

    def result(shard: Shard, future: Future[ShardRows] | None) -> tuple[Shard, ShardRows | None]:
        key = uncovered.get((shard.plan, shard.shard), part_key(shard.plan, shard.shard))
        if compacted and future is None and compacted.head.covers(shard.plan, shard.shard):
            key, rows, fault = compacted.rows(shard.plan, shard.shard)
            if fault:
                check.add("part_damaged", key, fault, part=key)
            return shard, None if rows is None else ShardRows(key, rows, None)
        if future is None:
            images = f"{len(shard.tasks)} image{'s' if len(shard.tasks) > 1 else ''}"
            check.add("shard_uncommitted", key, f"{images} planned and not committed; run the conversion again")
            return shard, None
        try:
            return shard, future.result()
        except ManifestError as error:
            check.add("part_damaged", key, str(error), part=key)
            return shard, None

    waiting: deque[tuple[Shard, Future[ShardRows] | None]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="verify-rows") as pool:
        try:
            for shard in iter_shards(store, plan):
                key = uncovered.get((shard.plan, shard.shard))
                waiting.append((shard, pool.submit(read, key) if key else None))
                if len(waiting) >= 2 * num_threads:
                    yield result(*waiting.popleft())
            while waiting:
                yield result(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
