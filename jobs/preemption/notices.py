"""What clouds say before they take a machine back, as values. Pure: bytes in, notices out.

Sources: AWS, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations"; Google Cloud, "Detect
if a Spot VM is preempted" and "Monitor and plan for a host maintenance event".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import HdrfleetError

# What is left when the notice itself names no time, and of GCP's always.
AWS_NOTICE_S = 120.0
GCP_NOTICE_S = 30.0
# Two reports of one end may differ by this much: an end that was reckoned from the time of a poll moves.
_SAME_END_S = 5.0
_SHOWN_BYTES = 80


class StrangeAnswerError(HdrfleetError):
    """A metadata server answered what no cloud answers."""

    code = "metadata_strange"


@dataclass(frozen=True, slots=True)
class Notice:
    """Somebody takes this machine. `ends_at` is in seconds since 1970; None where nobody said when."""

    source: str
    kind: str
    ends_at: float | None

    def replaces(self, earlier: Notice | None) -> bool:
        """Whether this says more than an earlier notice: the first one, or one with an earlier end."""
        if earlier is None:
            return True
        if self.ends_at is None:
            return False
        return earlier.ends_at is None or self.ends_at < earlier.ends_at - _SAME_END_S


def instance_action(body: bytes, now_s: float) -> Notice:
    """Read AWS's `spot/instance-action`. Raises StrangeAnswerError where it names no action.

    A time that is missing or unreadable is taken as two minutes from `now_s`: the action counts.
    """
    action = _fields(body).get("action")
    if not isinstance(action, str) or not action:
        raise _strange("spot/instance-action", body)
    ends_at = _unix_s(_fields(body).get("time"))
    return Notice("aws", action, now_s + AWS_NOTICE_S if ends_at is None else ends_at)


def rebalance_recommendation(body: bytes) -> Notice:
    """Read AWS's `events/recommendations/rebalance`, which names no end. Raises StrangeAnswerError for others."""
    if _unix_s(_fields(body).get("noticeTime")) is None:
        raise _strange("events/recommendations/rebalance", body)
    return Notice("aws", "rebalance", None)


def preempted(body: bytes, now_s: float) -> Notice | None:
    """Read Google's `instance/preempted`. Raises StrangeAnswerError where it is neither TRUE nor FALSE."""
    said = body.strip().upper()
    if said not in {b"TRUE", b"FALSE"}:
        raise _strange("instance/preempted", body)
    return Notice("gcp", "preempted", now_s + GCP_NOTICE_S) if said == b"TRUE" else None


def maintenance_event(body: bytes) -> Notice | None:
    """Read Google's `instance/maintenance-event`. A machine that is moved while it runs (MIGRATE) loses nothing.

    Raises StrangeAnswerError for a word that Google does not use.
    """
    said = body.strip().upper()
    if said.startswith(b"TERMINATE"):
        return Notice("gcp", "maintenance", None)
    if said == b"NONE" or said.startswith(b"MIGRATE"):
        return None
    raise _strange("instance/maintenance-event", body)


def _fields(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _unix_s(text: object) -> float | None:
    """A time of ISO 8601 in seconds since 1970, as UTC where it names no zone; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _strange(path: str, body: bytes) -> StrangeAnswerError:
    return StrangeAnswerError(f"{path} answered {body[:_SHOWN_BYTES]!r}")
