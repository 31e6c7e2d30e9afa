"""The loop: resuming changes nothing, stops are clean, the best is kept, divergence ends a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from training_runs import NumberedPatches, memory_store, tiny_config, tiny_trainer

from pipeline.errors import DivergedError, InterruptedJobError
from pipeline.models.checkpoint import load_weights
from pipeline.models.hdrunet import HDRUNet
from pipeline.storage import ObjectStore
from pipeline.training.checkpoints import BEST_WEIGHTS, FINAL_WEIGHTS, Best, Checkpoints
from pipeline.training.events import (
    CheckpointDamaged,
    CheckpointSaved,
    Started,
    StepDone,
    TrainingEvent,
    Validated,
)
from pipeline.training.loop import Validation
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import training_loss


class Killed(Exception):
    """Stands for SIGKILL: nothing of the run's own gets to react."""


def killed_after(step: int) -> Callable[[TrainingEvent], None]:
    def observe(event: TrainingEvent) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise Killed

    return observe


def final_state(store: ObjectStore, step: int) -> dict[str, Tensor]:
    checkpoint = Checkpoints(store, config_digest=tiny_config().digest(), keep=9).load(step)
    moments = {
        f"optimiser.{index}.{name}": value
        for index, values in checkpoint.optimiser["state"].items()
        for name, value in values.items()
    }
    average = {f"average.{name}": value for name, value in checkpoint.average.items()}
    return {**checkpoint.network, **average, **moments}


def steps_of(events: list[TrainingEvent]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[ObjectStore, list[TrainingEvent]]:
    store, events = memory_store("loop-uninterrupted"), list[TrainingEvent]()
    tiny_trainer(tiny_config(), store, observe=events.append).run()
    return store, events


@pytest.mark.parametrize("killed_at", [1, 4, 6])
def test_a_killed_and_resumed_run_ends_exactly_where_an_uninterrupted_one_does(
    killed_at: int, uninterrupted: tuple[ObjectStore, list[TrainingEvent]]
) -> None:
    (straight, expected), broken = uninterrupted, memory_store(f"loop-broken-{killed_at}")
    with pytest.raises(Killed):
        tiny_trainer(tiny_config(), broken, observe=killed_after(killed_at)).run()
    events: list[TrainingEvent] = []
    patches = NumberedPatches()
    outcome = tiny_trainer(tiny_config(), broken, patches=patches, observe=events.append).run()

    resumed_at = killed_at // 4 * 4 if killed_at % 4 else killed_at - 4  # the kill came before the save of its step
    assert isinstance(events[0], Started)
    assert events[0].step == resumed_at
    assert killed_at - resumed_at <= tiny_config().checkpoint_every_steps
    assert patches.taken == list(range(2 * resumed_at, 16))
    assert (outcome.step, outcome.num_steps_now) == (8, 8 - resumed_at)
    there, here = final_state(straight, 8), final_state(broken, 8)
    assert list(there) == list(here)
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert straight.read(FINAL_WEIGHTS) == broken.read(FINAL_WEIGHTS)
    losses = {event.step: event.loss for event in steps_of(expected)}
    assert all(event.loss == losses[event.step] for event in steps_of(events))


def test_a_stop_writes_a_checkpoint_and_loses_nothing() -> None:
    store = memory_store("loop-stop")
    done: list[TrainingEvent] = []
    trainer = tiny_trainer(tiny_config(), store, observe=done.append, should_stop=lambda: len(steps_of(done)) == 3)
    with pytest.raises(InterruptedJobError, match="stopped after step 3 of 8"):
        trainer.run()
    assert isinstance(done[-1], CheckpointSaved)
    patches = NumberedPatches()
    assert tiny_trainer(tiny_config(), store, patches=patches).run().num_steps_now == 5
    assert patches.taken[0] == 6


def test_a_finished_run_does_nothing_until_it_is_extended() -> None:
    store = memory_store("loop-extended")
    tiny_trainer(tiny_config(), store).run()
    before = store.read(FINAL_WEIGHTS)
    patches = NumberedPatches()
    outcome = tiny_trainer(tiny_config(), store, patches=patches).run()
    assert (outcome.step, outcome.num_steps_now, patches.taken) == (8, 0, [])
    assert store.read(FINAL_WEIGHTS) == before
    assert tiny_trainer(tiny_config(steps=11), store).run().num_steps_now == 3
    assert store.read(FINAL_WEIGHTS) != before


def test_a_time_budget_ends_the_run_and_counts_all_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.training.loop.monotonic", lambda: now[0])

    def a_step_takes_ten_seconds(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            now[0] += 10

    store = memory_store("loop-budget")
    config = tiny_config(steps=1000, time_budget_s=45.0)
    first = tiny_trainer(config, store, observe=a_step_takes_ten_seconds).run()
    assert (first.step, first.elapsed_s) == (5, 50.0)
    now[0] += 10_000  # between starts, no time counts
    longer = tiny_config(steps=1000, time_budget_s=75.0)
    assert tiny_trainer(longer, store, observe=a_step_takes_ten_seconds).run().step == 8


def poisoned_from(first: int, last: int) -> tuple[Callable[..., tuple[Tensor, dict[str, Tensor]]], list[int]]:
    calls: list[int] = []

    def loss(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
        calls.append(len(calls) + 1)
        value, parts = training_loss(output, truth, ldr, config)
        return (value * math.inf if first <= calls[-1] <= last else value), parts

    return loss, calls


def test_skipped_steps_are_counted_and_a_run_survives_a_few() -> None:
    store, events = memory_store("loop-skips"), list[TrainingEvent]()
    loss, _ = poisoned_from(3, 4)
    outcome = tiny_trainer(tiny_config(max_skipped_in_a_row=2), store, loss=loss, observe=events.append).run()
    assert outcome.num_skipped == 2
    assert [event.step for event in steps_of(events) if event.is_skipped] == [3, 4]
    state = Checkpoints(store, config_digest=tiny_config().digest(), keep=3).load(8)
    assert (state.num_skipped, state.num_updates) == (2, 6)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.network.values())


def test_too_many_in_a_row_end_the_run_and_the_last_checkpoint_is_sound() -> None:
    store = memory_store("loop-diverged")
    loss, calls = poisoned_from(6, 10**9)
    with pytest.raises(DivergedError, match="not finite for 3 steps up to step 8"):
        tiny_trainer(tiny_config(steps=99, max_skipped_in_a_row=2), store, loss=loss).run()
    assert calls[-1] == 8
    kept = Checkpoints(store, config_digest=tiny_config().digest(), keep=3)
    assert kept.steps() == [4]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.load(4).network.values())


def scripted(scores: list[float]) -> Callable[[HDRUNet], Validation]:
    left = iter(scores)

    def validate(network: HDRUNet) -> Validation:
        assert not network.training
        return Validation({"loss": 1.0}, next(left))

    return validate


def test_the_best_average_is_kept_across_a_restart() -> None:
    store, events = memory_store("loop-best"), list[TrainingEvent]()
    config = tiny_config(validate_every_steps=2)
    trainer = tiny_trainer(config, store, validate=scripted([3.0, 1.0, math.nan, 2.0]), observe=events.append)
    assert trainer.run().best == Best(1.0, 4)
    assert [event.is_best for event in events if isinstance(event, Validated)] == [True, True, False, False]
    best = load_weights("best", store.read(BEST_WEIGHTS)).state
    at_best = Checkpoints(store, config_digest=config.digest(), keep=9).load(4).average
    assert all(torch.equal(best[name], tensor) for name, tensor in at_best.items())
    longer = tiny_config(validate_every_steps=2, steps=12)
    assert tiny_trainer(longer, store, validate=scripted([1.5, 0.5])).run().best == Best(0.5, 12)


def test_the_end_is_validated_once_even_off_the_beat() -> None:
    events: list[TrainingEvent] = []
    config = tiny_config(steps=5, validate_every_steps=3)
    trainer = tiny_trainer(config, memory_store("loop-end"), validate=scripted([2.0, 1.0]), observe=events.append)
    trainer.run()
    assert [event.step for event in events if isinstance(event, Validated)] == [3, 5]


def test_a_damaged_checkpoint_is_reported_and_its_steps_are_taken_again(
    uninterrupted: tuple[ObjectStore, list[TrainingEvent]],
) -> None:
    store, events = memory_store("loop-damaged"), list[TrainingEvent]()
    for info in uninterrupted[0].list():
        store.create(info.key, uninterrupted[0].read(info.key))
    expected = store.read(FINAL_WEIGHTS)
    store.replace("checkpoints/step-00000008.weights.pt", b"torn")
    outcome = tiny_trainer(tiny_config(), store, observe=events.append).run()
    assert isinstance(events[0], CheckpointDamaged)
    assert events[0].step == 8
    assert (outcome.step, outcome.num_steps_now) == (8, 4)
    assert store.read(FINAL_WEIGHTS) == expected


def test_events_say_what_a_step_was(uninterrupted: tuple[ObjectStore, list[TrainingEvent]]) -> None:
    _, events = uninterrupted
    steps = steps_of(events)
    assert [event.step for event in steps] == list(range(1, 9))
    assert [event.done for event in steps] == pytest.approx([step / 8 for step in range(1, 9)])
    assert all(set(event.parts) == {"tanh_l1", "log"} for event in steps)
    assert all(event.loss == pytest.approx(event.parts["tanh_l1"] + 0.25 * event.parts["log"]) for event in steps)
    assert all(event.grad_norm > 0 and event.num_patches == 2 for event in steps)
    assert steps[0].learning_rate < steps[2].learning_rate > steps[-1].learning_rate
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [4, 8]
