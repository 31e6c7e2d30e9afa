"""What verification finds: values with stable codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

FindingCode = Literal[
    "job_damaged",
    "lease_damaged",
    "unknown_object",
    "plan_missing",
    "plan_damaged",
    "shard_uncommitted",
    "head_damaged",
    "distrust_damaged",
    "part_damaged",
    "part_unplanned",
    "row_missing",
    "row_twice",
    "row_unplanned",
    "row_misplaced",
    "row_contradictory",
    "output_missing",
    "output_size",
    "output_sha256",
    "output_denied",
    "output_unreadable",
    "output_undecodable",
    "output_dimensions",
    "output_identity",
    "orphan",
    "orphan_unplanned",
    "orphan_unusable",
    "unfinished_write",
    "unfinished_denied",
]
"""Defined in docs/operations.md."""
FINDING_CODES: tuple[str, ...] = get_args(FindingCode)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `key` is the object or the source that it is about.

    `source` is the image and `part` the manifest part that it concerns, where there is one.
    """

    code: FindingCode
    key: str
    message: str
    source: str | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, and what was found. `num_decoded` outputs were read, hashed and decoded, all others listed.

    `num_bytes_read` are those of decoded outputs; what no decoder takes counts among them, what could not be read does
    not. `notes` say what could not be looked at, whoever asks: no finding, for nobody can mend it.
    """

    destination: str
    num_plans: int
    num_rows: int
    num_outputs: int
    num_decoded: int
    num_bytes_read: int
    findings: Sequence[Finding]
    notes: Sequence[str] = ()

    @property
    def is_sound(self) -> bool:
        """True when nothing was found."""
        return not self.findings

    def num_by_code(self) -> dict[str, int]:
        """Findings by code, in the order of FINDING_CODES."""
        counts = Counter(finding.code for finding in self.findings)
        return {code: counts[code] for code in FINDING_CODES if counts[code]}  # type: ignore[index]

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        return {**asdict(self), "is_sound": self.is_sound, "num_by_code": self.num_by_code()}
