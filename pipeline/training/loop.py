"""The training loop: plain PyTorch in one process, or one of several that share each batch. No Ray here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from pipeline.errors import DivergedError, InterruptedJobError
from pipeline.models.hdrunet import HDRUNet
from pipeline.training import schedule
from pipeline.training.batches import Batches, Patch
from pipeline.training.checkpoints import Best, Checkpoints, TrainingState
from pipeline.training.config import TrainingConfig
from pipeline.training.events import CheckpointDamaged, CheckpointSaved, Observer, Started, StepDone, Validated
from pipeline.training.learner import Learner
from pipeline.training.peers import Peers

_LEARNER_FIELDS = ("network", "average", "num_updates", "optimiser", "scaler", "random_state")


@dataclass(frozen=True, slots=True)
class Validation:
    """What validation measured. `score` decides which weights are the best: lower is better."""

    metrics: Mapping[str, float]
    score: float


Validator = Callable[[HDRUNet], Validation]
"""Measures the averaged weights, a network in evaluation mode on the training device, on held-out patches."""


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """Where a run ended. `num_steps_now` counts the steps of this start alone."""

    step: int
    num_steps_now: int
    elapsed_s: float
    num_skipped: int
    best: Best | None


class Trainer:
    """Lets a learner learn until the steps or the time budget are used up, and keeps what it learnt in `checkpoints`.

    The first of the `peers` validates, writes and tells `observe` what happens; all of them compute. `should_stop` is
    asked before each step; when it says so, a checkpoint is written and InterruptedJobError raised.
    """

    def __init__(
        self,
        config: TrainingConfig,
        learner: Learner,
        batches: Batches,
        checkpoints: Checkpoints,
        *,
        peers: Peers,
        validate: Validator | None = None,
        observe: Observer = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._learner, self._batches, self._checkpoints = config, learner, batches, checkpoints
        self._peers, self._should_stop = peers, should_stop
        self._validate = validate if peers.is_first else None
        self._observe = observe if peers.is_first else lambda _: None
        self._step = self._num_skipped = self._num_skipped_in_a_row = 0
        self._validated_step = self._saved_step = -1
        self._best: Best | None = None
        self._started = monotonic()

    def run(self) -> TrainingOutcome:
        """Train to the end; carry on where the newest checkpoint stands.

        Raises InterruptedJobError when asked to stop, DivergedError after too many skipped steps in a row, and
        DestinationError when no checkpoint of an earlier start is usable.
        """
        self._resume()
        first_step = self._step
        batches = self._batches.start_at(self._step)
        while True:
            elapsed_s, stop = self._peers.agree(self._elapsed_s(), self._should_stop())
            done = schedule.progress(self._config, self._step, elapsed_s)
            if done >= 1:
                break
            if stop:
                self._save()
                raise InterruptedJobError(f"stopped after step {self._step:,} of {self._config.steps:,}")
            began = monotonic()
            batch = next(batches)
            self._take_step(batch, done, began, data_wait_s=monotonic() - began)
        self._finish(first_step)
        return TrainingOutcome(self._step, self._step - first_step, self._elapsed_s(), self._num_skipped, self._best)

    def _take_step(self, batch: Patch, done: float, began: float, *, data_wait_s: float) -> None:
        config = self._config
        rate = schedule.learning_rate(config, self._step, done)
        result = self._learner.learn(batch, rate)
        self._step += 1
        self._num_skipped += result.is_skipped
        self._num_skipped_in_a_row = self._num_skipped_in_a_row + 1 if result.is_skipped else 0
        elapsed_s = self._elapsed_s()
        self._observe(
            StepDone(
                step=self._step,
                num_steps=config.steps,
                done=schedule.progress(config, self._step, elapsed_s),
                elapsed_s=elapsed_s,
                loss=result.loss,
                parts=result.parts,
                learning_rate=rate,
                grad_norm=result.grad_norm,
                num_patches=config.batch_size,
                seconds=monotonic() - began,
                data_wait_s=data_wait_s,
                is_skipped=result.is_skipped,
                num_skipped=self._num_skipped,
            )
        )
        if self._num_skipped_in_a_row > config.max_skipped_in_a_row:
            raise DivergedError(
                f"the loss or its gradient was not finite for {self._num_skipped_in_a_row} steps up to step "
                f"{self._step:,}; start in another OUT with a lower learning rate, or with --precision fp32"
            )
        if config.validate_every_steps and self._step % config.validate_every_steps == 0:
            self._run_validation()
        if self._step % config.checkpoint_every_steps == 0:
            self._save()

    def _run_validation(self) -> None:
        if self._validate is None or self._validated_step == self._step:
            return
        self._validated_step = self._step
        validation = self._validate(self._learner.averaged_network)
        is_best = math.isfinite(validation.score) and (self._best is None or validation.score < self._best.score)
        if is_best:
            self._best = Best(validation.score, self._step)
            self._checkpoints.save_best(self._state())
        self._observe(Validated(self._step, self._elapsed_s(), validation.metrics, validation.score, is_best))

    def _finish(self, first_step: int) -> None:
        if self._step > first_step and self._config.validate_every_steps:
            self._run_validation()
        self._save()
        if self._peers.is_first:
            self._checkpoints.save_final(self._state())

    def _save(self) -> None:
        if not self._peers.is_first or self._saved_step == self._step:
            return
        num_bytes = self._checkpoints.save(self._state())
        self._saved_step = self._step
        self._observe(CheckpointSaved(self._step, self._elapsed_s(), num_bytes))

    def _resume(self) -> None:
        """Go on from the newest usable checkpoint: the first peer chooses it, the others load the same one."""
        state = None
        if self._peers.is_first:
            state = self._checkpoints.load_newest(lambda step, why: self._observe(CheckpointDamaged(step, why)))
        step = self._peers.agree_on_step(state.step if state else None)
        if step is not None:
            state = state or self._checkpoints.load(step)
            self._learner.restore({name: getattr(state, name) for name in _LEARNER_FIELDS})
            self._step, self._saved_step, self._num_skipped = state.step, state.step, state.num_skipped
            self._best = state.best
        elapsed_s = state.elapsed_s if state else 0.0
        self._started = monotonic() - elapsed_s
        self._observe(Started(self._step, elapsed_s))

    def _state(self) -> TrainingState:
        return TrainingState(
            step=self._step,
            elapsed_s=self._elapsed_s(),
            num_skipped=self._num_skipped,
            best=self._best,
            **self._learner.state(),
        )

    def _elapsed_s(self) -> float:
        """Seconds in the loop, of all starts together."""
        return monotonic() - self._started
