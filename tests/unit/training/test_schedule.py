"""The learning rate, the share that is done, and the decay of the average."""

from __future__ import annotations

import pytest
from training_runs import tiny_config

from pipeline.training.schedule import average_decay, learning_rate, progress


def test_steps_and_time_both_end_a_run() -> None:
    config = tiny_config(steps=1000, time_budget_s=60.0)
    assert progress(config, 0, 0.0) == 0
    assert progress(config, 500, 6.0) == 0.5
    assert progress(config, 100, 45.0) == 0.75
    assert progress(config, 1000, 0.0) == 1
    assert progress(config, 3, 61.0) == 1
    assert progress(tiny_config(steps=1000), 3, 1e9) == 0.003


def test_warm_up_is_linear_and_the_cosine_ends_at_its_floor() -> None:
    config = tiny_config(learning_rate=0.1, warmup_steps=9, final_learning_rate_share=0.02)
    assert [learning_rate(config, step, 0.0) for step in range(4)] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert learning_rate(config, 100, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.1 * 0.51)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.002)
    assert learning_rate(tiny_config(learning_rate=0.1, warmup_steps=0), 0, 0.0) == pytest.approx(0.1)


def test_a_time_budget_ends_at_a_low_rate_however_few_steps_it_allowed() -> None:
    config = tiny_config(steps=10**6, time_budget_s=100.0, warmup_steps=2)
    rates = [learning_rate(config, step, progress(config, step, step * 1.0)) for step in range(3, 101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(config.learning_rate * config.final_learning_rate_share)


def test_young_averages_forget_faster() -> None:
    config = tiny_config(ema_decay=0.999)
    decays = [average_decay(config, number) for number in (0, 10, 1000, 10**6)]
    assert decays == pytest.approx([0.1, 0.55, 1001 / 1010, 0.999])
