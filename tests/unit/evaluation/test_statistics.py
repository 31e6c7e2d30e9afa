"""Scenes are the unit, differences are paired, intervals cover what they promise."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from pipeline.evaluation.statistics import (
    ViewValues,
    bootstrap_interval,
    compare,
    mean_over_scenes,
    median_over_views,
    scene_means,
)


def views(method: str, values: dict[str, list[float]], metric: str = "m") -> list[ViewValues]:
    return [
        ViewValues(scene, f"{scene}#{number}", method, {metric: value})
        for scene, found in values.items()
        for number, value in enumerate(found)
    ]


def test_views_are_averaged_within_their_scene_first() -> None:
    found = views("a", {"beach": [1, 2, 3], "attic": [10]})
    assert scene_means(found, "a", "m") == {"beach": 2, "attic": 10}
    assert mean_over_scenes(found, "a", "m") == 6


def test_undefined_values_are_left_out() -> None:
    found = views("a", {"beach": [1, math.nan], "attic": [math.nan]})
    assert scene_means(found, "a", "m") == {"beach": 1}
    assert math.isnan(mean_over_scenes(views("a", {"attic": [math.nan]}), "a", "m"))


def test_differences_are_paired_and_name_the_worst_view() -> None:
    found = views("ours", {"beach": [30, 20], "attic": [25, 26]}) + views(
        "base", {"beach": [20, 22], "attic": [24, 24]}
    )
    difference = compare(found, "m", "ours", "base", higher_is_better=True)
    assert difference.mean == pytest.approx((4 + 1.5) / 2)
    assert (difference.worst_view, difference.worst) == ("beach#1", -2)
    assert difference.num_scenes == 2
    assert difference.low <= difference.mean <= difference.high
    lower = compare(found, "m", "ours", "base", higher_is_better=False)
    assert (lower.worst_view, lower.worst) == ("beach#0", 10)


def test_views_are_counted_and_the_cut_is_that_of_the_means_over_scenes() -> None:
    found = views("ours", {"beach": [1.0, 3.0, 2.0], "attic": [2.0, math.nan]}) + views(
        "base", {"beach": [2.0, 2.0, 2.0], "attic": [6.0, 9.0]}
    )
    difference = compare(found, "m", "ours", "base", higher_is_better=False)
    assert (difference.num_better, difference.num_views) == (2, 4), "equal is not better, undefined does not count"
    assert difference.share_cut == pytest.approx(1 - (2 + 2) / (2 + 6))
    assert compare(found, "m", "ours", "base", higher_is_better=True).num_better == 1


def test_nothing_is_cut_from_nothing() -> None:
    found = views("ours", {"beach": [1.0]}) + views("base", {"beach": [0.0]})
    assert math.isnan(compare(found, "m", "ours", "base", higher_is_better=False).share_cut)


def test_medians_are_over_views() -> None:
    found = views("a", {"beach": [1, 2, 3], "attic": [10, math.nan]})
    assert median_over_views(found, "a", "m") == 2.5
    assert math.isnan(median_over_views(found, "b", "m"))


def test_a_view_that_is_undefined_for_one_is_left_out_for_both() -> None:
    found = views("ours", {"beach": [30, math.nan]}) + views("base", {"beach": [20, 0]})
    difference = compare(found, "m", "ours", "base", higher_is_better=True)
    assert difference.mean == 10
    assert math.isnan(difference.low), "one scene has no interval"
    assert not difference.is_significant


def test_nothing_to_compare_is_no_value() -> None:
    found = views("ours", {"beach": [math.nan]}) + views("base", {"beach": [0]})
    difference = compare(found, "m", "ours", "base", higher_is_better=True)
    assert difference.num_scenes == 0
    assert math.isnan(difference.mean)
    assert difference.worst_view is None


def test_methods_must_have_seen_the_same_views() -> None:
    with pytest.raises(ValueError, match="same views"):
        compare(views("ours", {"a": [1]}) + views("base", {"b": [1]}), "m", "ours", "base", higher_is_better=True)


def test_the_seed_decides_the_interval() -> None:
    values = np.random.default_rng(0).normal(1, 1, 12)
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1)
    assert bootstrap_interval(values, 1) != bootstrap_interval(values, 2)


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [0.0, 0.0], [1e-9, 1e-9]])
def test_equal_differences_are_certain(values: list[float]) -> None:
    assert bootstrap_interval(np.array(values)) == (values[0], values[0])


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 1.0], [0.0] * 9 + [5.0]])
def test_few_or_odd_differences_still_have_a_finite_interval(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(np.array(values))
    assert 0 <= low <= np.mean(values) <= high <= max(values)


def test_intervals_cover_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.gamma(2.0, 1.0, 20) - 2.0)
        hits += low <= 0 <= high
    # 95 % nominal; BCa on 20 skewed values covers somewhat less. Four standard errors around 0.92.
    assert 0.84 <= hits / 200 <= 1.0
    assert hits < 200


def test_a_clear_difference_is_significant_and_noise_is_not() -> None:
    rng = np.random.default_rng(2)
    base = {f"s{i}": [float(rng.normal())] for i in range(15)}
    better = {scene: [values[0] + 1 + float(rng.normal(0, 0.2))] for scene, values in base.items()}
    found = views("base", base) + views("better", better)
    assert compare(found, "m", "better", "base", higher_is_better=True).is_significant
    other = {scene: [values[0] + (1 if index % 2 else -1)] for index, (scene, values) in enumerate(base.items())}
    found = views("base", base) + views("other", other)
    assert not compare(found, "m", "other", "base", higher_is_better=True).is_significant
