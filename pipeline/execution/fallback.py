"""When workers that wait for a node ask for another kind of it, because the cloud refuses the first. Pure.

Ray's autoscaler (2.60) asks for the same type of node again and again where a launch is refused: it turns to another
type only where a node was granted and did not come. What it reports of refused launches is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from pipeline.storage import redact_url

# The autoscaler has asked several times by then, five seconds or more apart; a single refusal may be a passing one.
_WAIT_S = 60.0
# A refusal that is older may be overcome: the node was granted at the next try, and is on its way.
_FRESH_S = 30.0
# Each try of the first choice costs its workers a minute of waiting; never to try again would pay the second choice's
# price for as long as the job lasts, though spot capacity comes back within minutes or hours.
_RETRY_AFTER_S = 600.0
# Refusals while nobody watched concern nobody who waits.
_GAP_S = 30.0
_MAX_REASON_CHARS = 160
# What Ray puts ahead of what the cloud said, which it leaves out for most providers.
_PREAMBLE = re.compile(r"(launch failed with )?Failed to launch \d+ nodes of type \S+ with request id [^\s:]+:?\s*")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A launch that failed; `at_s` is by the autoscaler's own clock, which says only what came after what."""

    node_type: str
    at_s: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """What the autoscaler says of its launches: those that failed since it started, and what is under way.

    `num_requested` are nodes that the cloud has not answered for yet, by type; `num_granted` those that start.
    """

    refusals: Sequence[Refusal] = ()
    num_requested: Mapping[str, int] = field(default_factory=dict)
    num_granted: int = 0


class FallbackPolicy:
    """Says who asks for the second choice: workers whose first choice was refused while they waited for a minute.

    Once somebody had to, new workers ask for the second choice at once for ten minutes. `why` says what was refused
    then, on one line that is safe in logs. After `give_up` nobody asks for the second choice. Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._watched_at: float | None = None
        self._moved_at: float | None = None
        self._last_at_s: dict[str, int] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        self._is_given_up = False
        self.why = ""

    def give_up(self) -> None:
        """The second choice can be had even less than the first."""
        self._is_given_up = True

    @property
    def skips_first_choice(self) -> bool:
        """Whether a worker that is asked for now need not try the first choice."""
        if self._is_given_up:
            return False
        return self._moved_at is not None and self._clock() - self._moved_at < _RETRY_AFTER_S

    def watch(self, report: LaunchReport) -> None:
        """Take note of new refusals; call it every few seconds while workers wait."""
        now = self._clock()
        is_new_watch = self._watched_at is None or now - self._watched_at > _GAP_S
        self._watched_at = now
        for refusal in sorted(report.refusals, key=lambda each: each.at_s):
            if refusal.at_s <= self._last_at_s.get(refusal.node_type, -1):
                continue
            self._last_at_s[refusal.node_type] = refusal.at_s
            if not is_new_watch:
                self._refused[refusal.node_type] = (now, refusal.reason)

    def late(self, asked_at: Mapping[str, float]) -> list[str]:
        """Of the workers that wait for their first choice, by name, those that need not wait longer for it."""
        now = self._clock()
        refused_at = max((at for at, _ in self._refused.values()), default=None)
        if self._is_given_up or refused_at is None or now - refused_at > _FRESH_S:
            return []
        return [name for name, at in asked_at.items() if now - at >= _WAIT_S and refused_at > at]

    def move(self, placeless: Sequence[str], num_fallen_back: int, report: LaunchReport) -> list[str]:
        """Decide who of the late ones that have no place asks for the second choice now.

        Nodes on their way are left to them, as many workers as nodes, where `num_fallen_back` others that have no place
        do not take them.
        """
        num_coming = report.num_granted + sum(
            number for node_type, number in report.num_requested.items() if node_type not in self._refused
        )
        moved = list(placeless)[max(0, num_coming - num_fallen_back) :]
        if moved:
            self._moved_at = self._clock()
            self.why = self._describe()
        return moved

    def _describe(self) -> str:
        now = self._clock()
        recent = sorted((name, reason) for name, (at, reason) in self._refused.items() if now - at <= _WAIT_S)
        types = ", ".join(name for name, _ in recent)
        said = next((text for _, reason in recent if (text := _readable(reason))), "")
        return f"the cloud refuses nodes of type {types}" + (f" ({said})" if said else "")


def _readable(reason: str) -> str:
    """What the cloud said, without secrets, on one line; redacted before it is cut, so that no half of one is left."""
    text = redact_url(" ".join(_PREAMBLE.sub("", reason).split()))
    return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + "…"
