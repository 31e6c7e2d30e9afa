"""What a conversion did, and which images failed: for a person, for `--json`, and as an exit code."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from jobs.progress import plural
from pipeline.execution.base import RunSummary
from pipeline.manifest import Manifest, ManifestSummary
from pipeline.records import ConversionStatus


@dataclass(frozen=True, slots=True)
class ConversionOutcome:
    """What a run did and what the destination now holds."""

    destination: str
    job_id: str
    did_work: bool
    num_planned: int
    num_ignored: int
    ignored_by_extension: dict[str, int]
    ignored_examples: tuple[str, ...]
    num_unusable: int
    unusable_examples: tuple[str, ...]
    num_special: int
    special_examples: tuple[str, ...]
    num_vanished: int
    vanished_examples: tuple[str, ...]
    seconds: float
    run: RunSummary
    manifest: ManifestSummary
    failures: pa.Table
    retried_codes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 when every image is converted, 3 when some failed or have names that no output can have."""
        return 3 if self.num_unusable or set(self.manifest.num_by_status) - {ConversionStatus.OK.value} else 0

    def headline(self) -> str:
        """One line for a person."""
        if self.did_work:
            return f"{plural(self.num_planned, 'image')} in {self.seconds:.1f} s to {self.destination}"
        codes = set(self.failures["error_code"].to_pylist())
        if self.retried_codes and codes.isdisjoint(self.retried_codes):
            others = f"; {plural(self.failures.num_rows, 'image')} failed otherwise" if codes else ""
            return f"nothing to do: in {self.destination}, none failed with {', '.join(self.retried_codes)}{others}"
        if self.failures.num_rows:
            failed = plural(self.failures.num_rows, "image")
            return (
                f"nothing to do: in {self.destination}, {failed} failed before and did not change since; "
                f"hdrfleet retry {shlex.quote(self.destination)} tries again"
            )
        if self.num_unusable:
            return f"nothing to do: what can be converted is in {self.destination}"
        return f"nothing to do: {self.destination} is complete"

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["run"] = asdict(self.run)
        values["failures"] = self.failures.to_pylist()
        values["manifest"] = self.manifest.to_json()
        values["exit_code"] = self.exit_code
        return values


def list_failures(manifest: Manifest) -> pa.Table:
    """The current rows that are not `ok`: source, error_code, error_message, by source."""
    current = manifest.current
    failed = current.filter(pc.not_equal(current["status"], ConversionStatus.OK.value))
    return failed.select(["source", "error_code", "error_message"]).sort_by("source")
