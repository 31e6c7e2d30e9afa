"""The rows of one shard against its plan, its part and job.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.job import JobRecord
from pipeline.records import ConversionStatus, ImageTask, Shard
from pipeline.sharding.names import OUTPUT_FOLDER, output_key
from pipeline.storage.keys import is_valid_key
from pipeline.verification.findings import Finding, FindingCode
from pipeline.verification.ledger import Ledger

ROW_COLUMNS = (
    *("source", "status", "error_code", "output", "output_bytes", "output_sha256", "width", "height", "has_alpha"),
    *("revision", "source_sha256", "pixel_digest", "weights_sha256", "collected_at"),
    *("source_etag", "source_bytes", "plan", "shard", "attempt"),
)
_OUTPUT_COLUMNS = ("output", "output_bytes", "output_sha256", "width", "height", "source_sha256")


class ShardRows(NamedTuple):
    """The rows of one shard, the key of the file that they lie in, and the attempt that the file names, if it does."""

    key: str
    rows: pa.Table
    attempt: int | None


@dataclass(slots=True)
class RowCheck:
    """What is wrong with the plans and parts of a destination; their rows go into `ledger`.

    Without `is_readable` nothing is known of the rows.
    """

    ledger: Ledger
    num_plans: int = 0
    num_rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    is_readable: bool = True

    def add(self, code: FindingCode, key: str, message: str, *, source: str | None = None, part: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(code, key, message, source, part or None))

    def settle(self) -> None:
        """Find what only shows when all rows are known."""
        self.ledger.settle()
        for output, source, part in self.ledger.contradicted():
            text = f"{part}: another row says otherwise of {output}"
            self.add("row_contradictory", source, text, source=source, part=part)
        for source, output in self.ledger.current_collected():
            self.add("row_contradictory", source, f"its current output {output} was collected", source=source)


def check_shard(shard: Shard, found: ShardRows, record: JobRecord, check: RowCheck) -> None:
    """Compare a shard's rows, with at least `ROW_COLUMNS`, with its plan and job.json; note them in the ledger."""
    key, rows = found.key, found.rows
    planned, sources = Counter(task.source for task in shard.tasks), Counter(rows["source"].to_pylist())
    check.num_rows += rows.num_rows
    for source in planned - sources:
        if source not in sources:
            text = f"planned in shard {shard.shard} of plan {shard.plan}, not in {key}"
            check.add("row_missing", source, text, source=source, part=key)
    for source, count in sources.items():
        if source not in planned:
            check.add("row_unplanned", source, f"in {key}, but not planned there", source=source, part=key)
        elif count > planned[source]:
            check.add("row_twice", source, f"{count} rows in {key}", source=source, part=key)
    _check_places(shard, found, check)
    tasks = {task.source: task for task in shard.tasks}
    consistent = []
    for row in rows.to_pylist():
        _check_task(row, tasks.get(row["source"]), key, check)
        consistent.append(_check_row(row, key, record, check) and _check_name(row, key, planned, check))
    if not all(consistent):
        rows = rows.filter(pa.array(consistent))
    check.ledger.note(rows, plan=shard.plan, adopts_earlier=shard.adopts_earlier, part=key)


def _check_places(shard: Shard, found: ShardRows, check: RowCheck) -> None:
    """Whether rows name the plan, shard and attempt of what they lie in; in a generation, one attempt for a shard."""
    columns = [found.rows[name].to_pylist() for name in ("source", "plan", "shard", "attempt")]
    attempt = found.attempt or next(iter(columns[3]), 0)
    expected = (shard.plan, shard.shard, max(attempt, 1))
    for source, *said in zip(*columns, strict=True):
        if tuple(said) != expected:
            names = "plan {}, shard {}, attempt {}"
            text = f"{found.key}: a row of {names.format(*said)} among those of {names.format(*expected)}"
            check.add("row_misplaced", source, text, source=source, part=found.key)


def _check_task(row: dict[str, Any], task: ImageTask | None, key: str, check: RowCheck) -> None:
    """Whether a row says of its source what was planned; one that nobody planned is told as such."""
    if task is None:
        return
    said, planned = (row["source_etag"] or "", row["source_bytes"]), (task.etag, task.size_bytes)
    if said != planned:
        text = f"{key}: etag {said[0]!r} and {said[1]} bytes; planned were {planned[0]!r} and {planned[1]}"
        check.add("row_contradictory", task.source, text, source=task.source, part=key)


def _check_row(row: dict[str, Any], key: str, record: JobRecord, check: RowCheck) -> bool:
    """Whether the row says clearly what became of its image; what is wrong with it by itself is noted."""
    source = row["source"]

    def contradict(text: str) -> None:
        check.add("row_contradictory", source, f"{key}: {text}", source=source, part=key)

    is_ok = row["status"] == ConversionStatus.OK.value
    has_output = [row[name] is not None for name in _OUTPUT_COLUMNS]
    if is_ok != (row["error_code"] is None) or not (all(has_output) if is_ok else not any(has_output[:3])):
        contradict(f"status {row['status']}, error {row['error_code']}, output {row['output']}")
        return False
    if not is_ok and row["collected_at"] is not None:
        contradict("collected without an output")
        return False
    if is_ok and (row["weights_sha256"] != record.weights_sha256 or row["pixel_digest"] != record.pixel_digest):
        contradict("made with other weights or options than job.json names")
    return True


def _check_name(row: dict[str, Any], key: str, planned: Container[str], check: RowCheck) -> bool:
    """Whether a consistent row's output can be looked at; one that its source and revision do not give is noted."""
    source, output, revision = row["source"], row["output"], row["revision"]
    if output is None:
        return True
    # A row that nobody planned is told as such.
    if source in planned and (revision < 1 or output != output_key(source, revision)):
        text = f"{key}: its output {output} is not the one of revision {revision}"
        check.add("row_contradictory", source, text, source=source, part=key)
    return output.startswith(f"{OUTPUT_FOLDER}/") and is_valid_key(output)
