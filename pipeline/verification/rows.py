"""Plans against parts: every planned input has exactly one row, and no row is without a plan."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import ManifestError, ObjectMissingError
from pipeline.job import JobRecord
from pipeline.manifest.distrusted import DISTRUST_PREFIX, read_distrusted
from pipeline.manifest.generation import read_collected
from pipeline.manifest.head import HEAD_PREFIX, MAX_LOOKS, Head, head_key
from pipeline.manifest.parts import part_key, read_part
from pipeline.manifest.snapshot import Snapshot, take_snapshot
from pipeline.records import ConversionStatus, Shard
from pipeline.sharding import PlanSummary, iter_shards, read_plan_summary
from pipeline.sharding.plan import PLAN_PREFIX, plan_number
from pipeline.storage import ObjectStore
from pipeline.verification.compacted import CompactedRows
from pipeline.verification.findings import Finding, FindingCode

_COLUMNS = (
    *("source", "status", "error_code", "output", "output_bytes", "output_sha256", "width", "height", "has_alpha"),
    *("source_sha256", "pixel_digest", "weights_sha256", "collected_at"),
)
_OUTPUT_COLUMNS = ("output", "output_bytes", "output_sha256", "width", "height", "source_sha256")


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What `ok` rows say of one EXR. `source` and `plan` are those of the latest row that names it."""

    key: str
    num_bytes: int
    sha256: str
    width: int
    height: int
    has_alpha: bool
    source_sha256: str
    pixel_digest: str
    weights_sha256: str
    source: str = field(compare=False)
    plan: int = field(compare=False)


@dataclass(slots=True)
class RowCheck:
    """What the plans and parts of a destination hold, and what is wrong with them.

    `outputs` are by key; rows that share one, such as those of a source that was touched without a change, agree.
    `replaced` are the keys of outputs that a repair made anew: whatever they are, nothing current rests on them.
    `distrusted` are those that a repair found bad, made anew or not. `collected` are those that rows say were given up.
    Without `is_readable` nothing of this is known.
    """

    num_plans: int = 0
    num_rows: int = 0
    outputs: dict[str, ExpectedOutput] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    repaired_at: dict[str, int] = field(default_factory=dict)
    distrusted: set[str] = field(default_factory=set)
    trusted_at: dict[str, int] = field(default_factory=dict)
    collected: set[str] = field(default_factory=set)
    current_collected: dict[str, str] = field(default_factory=dict)
    is_readable: bool = True

    def add(self, code: FindingCode, key: str, message: str, *, source: str | None = None, part: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(code, key, message, source, part or None))

    def note_repair(self, source: str, output: str, shard: Shard) -> None:
        """Take note of an `ok` row; plans come in ascending order."""
        if not shard.adopts_earlier:
            self.repaired_at[source] = shard.plan
        if output in self.distrusted:
            self.trusted_at[source] = 0
        elif source in self.trusted_at:
            self.trusted_at[source] = shard.plan

    def set_replaced_apart(self) -> None:
        """Move outputs that only rows before a successful repair of their source name to `replaced`.

        A distrusted one is replaced as soon as a later row of its source names another, by whatever command.
        """
        for key, output in list(self.outputs.items()):
            settled_at = self.trusted_at if key in self.distrusted else self.repaired_at
            if output.plan < max(settled_at.get(output.source, 0), self.repaired_at.get(output.source, 0)):
                self.replaced.add(key)
                del self.outputs[key]


def check_rows(store: ObjectStore, record: JobRecord, num_threads: int) -> RowCheck:
    """Compare every plan with its parts, or with the generation that stands for them.

    Begins again, a bounded number of times, where a collection removed what was listed. Raises StorageError and
    SystemicError where the store cannot be read.
    """
    before: Snapshot | None = None
    for _ in range(MAX_LOOKS):
        try:
            snapshot = take_snapshot(store)
        except ManifestError as error:
            check = RowCheck(is_readable=False)
            check.add("head_damaged", HEAD_PREFIX, str(error))
            return check
        is_settled = snapshot == before  # what is missing is so for good
        try:
            return _check_rows(store, record, snapshot, num_threads, missing_is_damage=is_settled)
        except ObjectMissingError:
            if is_settled:
                raise
            before = snapshot
    raise ManifestError("the manifest changes faster than it can be read")


def _check_rows(
    store: ObjectStore, record: JobRecord, snapshot: Snapshot, num_threads: int, *, missing_is_damage: bool
) -> RowCheck:
    check, committed = RowCheck(), snapshot.committed()
    try:
        check.distrusted = read_distrusted(store)
    except ManifestError as error:
        check.add("distrust_damaged", DISTRUST_PREFIX, str(error))
    compacted = (
        CompactedRows(store, snapshot.head, _COLUMNS, missing_is_damage=missing_is_damage) if snapshot.head else None
    )
    uncovered = {(part.plan, part.shard): part.key for part in snapshot.parts}
    for plan in _plans(store, committed, check):
        planned: set[int] = set()
        try:
            for shard, key, rows in _with_rows(store, plan, uncovered, compacted, check=check, num_threads=num_threads):
                planned.add(shard.shard)
                if rows is not None:
                    _check_shard(shard, rows, key, record, check)
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
    for source, key in check.current_collected.items():
        check.add("row_contradictory", source, f"its current output {key} was collected", source=source)
    check.set_replaced_apart()
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
) -> Iterator[tuple[Shard, str, pa.Table | None]]:
    """Yield every shard with the key and rows of its part, or of the file of the generation that stands for it.

    None where there are no rows to be had. Reads a bounded number of parts ahead.
    """

    def read(key: str) -> pa.Table:
        return read_part(store.read(key), key, columns=_COLUMNS).rows

    def result(shard: Shard, future: Future[pa.Table] | None) -> tuple[Shard, str, pa.Table | None]:
        key = uncovered.get((shard.plan, shard.shard), part_key(shard.plan, shard.shard))
        if compacted and future is None and compacted.head.covers(shard.plan, shard.shard):
            key, rows, fault = compacted.rows(shard.plan, shard.shard)
            if fault:
                check.add("part_damaged", key, fault, part=key)
            return shard, key, rows
        if future is None:
            images = f"{len(shard.tasks)} image{'s' if len(shard.tasks) > 1 else ''}"
            check.add("shard_uncommitted", key, f"{images} planned and not committed; run the conversion again")
            return shard, key, None
        try:
            return shard, key, future.result()
        except ManifestError as error:
            check.add("part_damaged", key, str(error), part=key)
            return shard, key, None

    waiting: deque[tuple[Shard, Future[pa.Table] | None]] = deque()
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


def _check_shard(shard: Shard, rows: pa.Table, key: str, record: JobRecord, check: RowCheck) -> None:
    planned, found = Counter(task.source for task in shard.tasks), Counter(rows["source"].to_pylist())
    check.num_rows += rows.num_rows
    for source in planned - found:
        if source not in found:
            text = f"planned in shard {shard.shard} of plan {shard.plan}, not in {key}"
            check.add("row_missing", source, text, source=source, part=key)
    for source, count in found.items():
        if source not in planned:
            check.add("row_unplanned", source, f"in {key}, but not planned there", source=source, part=key)
        elif count > planned[source]:
            check.add("row_twice", source, f"{count} rows in {key}", source=source, part=key)
    for row in rows.to_pylist():
        _check_row(row, shard, key, record, check)


def _check_row(row: dict[str, Any], shard: Shard, key: str, record: JobRecord, check: RowCheck) -> None:
    source = row["source"]

    def contradict(text: str) -> None:
        check.add("row_contradictory", source, f"{key}: {text}", source=source, part=key)

    is_ok = row["status"] == ConversionStatus.OK.value
    has_output = [row[name] is not None for name in _OUTPUT_COLUMNS]
    if is_ok != (row["error_code"] is None) or not (all(has_output) if is_ok else not any(has_output[:3])):
        contradict(f"status {row['status']}, error {row['error_code']}, output {row['output']}")
        return
    check.current_collected.pop(source, None)
    if not is_ok:
        if row["collected_at"] is not None:
            contradict("collected without an output")
        return
    check.note_repair(source, row["output"], shard)
    if row["weights_sha256"] != record.weights_sha256 or row["pixel_digest"] != record.pixel_digest:
        contradict("made with other weights or options than job.json names")
    if row["collected_at"] is not None:
        check.collected.add(row["output"])
        check.current_collected[source] = row["output"]
        return
    expected = ExpectedOutput(
        key=row["output"],
        num_bytes=row["output_bytes"],
        sha256=row["output_sha256"],
        width=row["width"],
        height=row["height"],
        has_alpha=bool(row["has_alpha"]),
        source_sha256=row["source_sha256"],
        pixel_digest=sys.intern(row["pixel_digest"]),
        weights_sha256=sys.intern(row["weights_sha256"]),
        source=source,
        plan=shard.plan,
    )
    if check.outputs.get(expected.key, expected) != expected:
        contradict(f"another row says otherwise of {expected.key}")
    check.outputs[expected.key] = expected
