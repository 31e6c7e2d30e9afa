from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.cluster_simulation import bounds, scenarios
from bench.simulated_cluster import Result, Setup, Simulation
from pipeline.config import ShardingConfig
from pipeline.execution.scaling import ScalingLimits

SMALL = Setup(400, limits=ScalingLimits(max_workers=20))


def simulate(setup: Setup) -> Result:
    result = Simulation(setup).run()
    assert result.done == dict.fromkeys(range(setup.num_shards), 1)
    assert result.paid_s == pytest.approx(result.useful_s + result.starting_s + result.repeated_s + result.idle_s)
    best = bounds(replace(setup, start_s=0.0), result)  # a start may be shorter than the mean one
    assert result.paid_s > best.worker_s
    return result


def test_each_shard_is_done_once_and_every_worker_goes() -> None:
    result = simulate(SMALL)
    assert (result.num_started, result.num_lost, result.num_given_back) == (20, 0, 0)
    assert Counter(delta > 0 for _, delta, _ in result.reasons)[True] == 1
    assert result.workers[-1][1:] == (0, 0)
    assert result.makespan_s < 1.1 * bounds(SMALL, result).makespan_s


def test_lost_workers_are_replaced_and_their_shards_done_once() -> None:
    result = simulate(replace(SMALL, losses_per_h=6.0))
    assert result.num_lost > 20
    assert result.num_given_back >= result.num_lost / 2
    assert result.num_started > 20 + result.num_lost / 2
    assert result.repeated_s > 0


def test_splitting_the_tail_ends_a_job_of_few_large_shards_sooner() -> None:
    few = replace(SMALL, num_shards=23, size_spread=0.8, images_per_shard=4000)
    assert simulate(few).makespan_s < 0.9 * simulate(replace(few, splits_tail=False)).makespan_s


def test_a_deadline_takes_fewer_workers_and_is_met() -> None:
    deadline = simulate(replace(SMALL, deadline_s=3000.0, losses_per_h=0.5))
    assert deadline.most_workers < 20
    assert deadline.makespan_s < 3000


def test_a_budget_bounds_what_is_paid() -> None:
    free = simulate(SMALL)
    tight = 1.05 * free.useful_s
    result = simulate(replace(SMALL, limits=ScalingLimits(max_workers=20, budget_worker_s=1.3 * free.useful_s)))
    assert result.paid_s <= 1.3 * free.useful_s
    short = Simulation(replace(SMALL, limits=ScalingLimits(max_workers=20, budget_worker_s=tight / 2))).run()
    assert short.paid_s <= tight / 2
    assert 0 < short.num_done < 400


def test_the_published_scenarios_run_at_a_thousandth_of_their_size() -> None:
    for setup in scenarios(100_000, 10, ShardingConfig().max_images).values():
        simulate(setup)
