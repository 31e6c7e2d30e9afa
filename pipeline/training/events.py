"""What a training run tells about itself while it runs: frozen values, passed to an observer. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step is done; values are means over all workers.

    `step` counts finished steps, `done` is the share of the run behind it. `loss` is what was minimised and `parts`
    its named parts, `grad_norm` the gradient's norm before clipping. `seconds` is the duration of the step,
    `data_wait_s` of that for the data. `num_skipped` counts the skipped steps of the whole run.
    """

    step: int
    num_steps: int
    done: float
    elapsed_s: float
    loss: float
    parts: Mapping[str, float]
    learning_rate: float
    grad_norm: float
    num_patches: int
    seconds: float
    data_wait_s: float
    is_skipped: bool
    num_skipped: int


@dataclass(frozen=True, slots=True)
class Validated:
    """The averaged weights were measured on held-out patches; `score` (lower is better) decides `is_best`."""

    step: int
    elapsed_s: float
    metrics: Mapping[str, float]
    score: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """A checkpoint is durable: a run that is killed from here on resumes at this step or a later one."""

    step: int
    elapsed_s: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Started:
    """The loop starts after `step` finished steps, 0 or a checkpoint's; what was logged for later ones is void."""

    step: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class CheckpointDamaged:
    """A checkpoint cannot be used; the one before it will be."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class ViewsTaken:
    """Before the first step: `num_views` of the `num_wanted` photographs of the pool are taken."""

    num_views: int
    num_wanted: int


@dataclass(frozen=True, slots=True)
class WorkersAwaited:
    """There are no workers yet, or no new ones for lost ones; `text` says in one line what they wait for."""

    text: str


TrainingEvent = StepDone | Validated | CheckpointSaved | Started | CheckpointDamaged | ViewsTaken | WorkersAwaited
Observer = Callable[[TrainingEvent], None]
