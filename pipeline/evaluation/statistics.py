"""From values per view to statements about methods: means over scenes, paired differences, bootstrap intervals.

The unit is the scene. Views of one scene share its lights and are averaged first; counting them as independent would
make intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.extras import load_extra

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
_MIN_SCENES = 2

DoubleArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ViewValues:
    """The metrics of one view by one method: `values` by metric name, NaN where undefined."""

    scene: str
    view: str
    method: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """`method` minus `baseline` in one metric, per scene.

    `mean` is over the `num_scenes` scenes in which both are defined; `low` and `high` bound it with 95 % confidence,
    NaN with fewer than two scenes. `share_cut` is how much smaller the method's mean is, as a share of the baseline's
    over the same scenes: 0.29 where an error falls by 29 %. `num_better` of `num_views` views are better than the
    baseline's; `worst_view` is where the difference is worst for the method, and `worst` its value.
    """

    metric: str
    method: str
    baseline: str
    mean: float
    low: float
    high: float
    num_scenes: int
    share_cut: float
    num_views: int
    num_better: int
    worst_view: str | None
    worst: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def scene_means(views: Sequence[ViewValues], method: str, metric: str) -> dict[str, float]:
    """Return the mean of a metric over the views of each scene; scenes where it is defined in no view are left out."""
    found: dict[str, list[float]] = {}
    for view in views:
        if view.method == method and np.isfinite(view.values[metric]):
            found.setdefault(view.scene, []).append(view.values[metric])
    return {scene: float(np.mean(values)) for scene, values in found.items()}


def mean_over_scenes(views: Sequence[ViewValues], method: str, metric: str) -> float:
    """Return the mean of the scenes' means, NaN where there is none."""
    means = list(scene_means(views, method, metric).values())
    return float(np.mean(means)) if means else float("nan")


def median_over_views(views: Sequence[ViewValues], method: str, metric: str) -> float:
    """Return the median of a metric over all views in which it is defined, NaN where there is none."""
    found = [view.values[metric] for view in views if view.method == method and np.isfinite(view.values[metric])]
    return float(np.median(found)) if found else float("nan")


def compare(
    views: Sequence[ViewValues], metric: str, method: str, baseline: str, *, higher_is_better: bool, seed: int = 0
) -> Difference:
    """Compare a method with a baseline over the same views. Views where either is undefined are left out of both.

    Raises ValueError where a method has not measured the same views. Raises ConfigError without scipy.
    """
    ours, theirs = ({v.view: v for v in views if v.method == name} for name in (method, baseline))
    if ours.keys() != theirs.keys():
        raise ValueError(f"{method} and {baseline} were not measured on the same views")
    by_view = {name: ours[name].values[metric] - theirs[name].values[metric] for name in ours}
    by_view = {name: value for name, value in by_view.items() if np.isfinite(value)}
    differences = _mean_by_scene([ours[name] for name in by_view], by_view)
    baselines = _mean_by_scene(
        [theirs[name] for name in by_view], {name: theirs[name].values[metric] for name in by_view}
    )
    mean = float(differences.mean()) if differences.size else float("nan")
    low, high = bootstrap_interval(differences, seed)
    sign = 1 if higher_is_better else -1
    worst_view = min(by_view, key=lambda name: sign * by_view[name]) if by_view else None
    return Difference(
        metric=metric,
        method=method,
        baseline=baseline,
        mean=mean,
        low=low,
        high=high,
        num_scenes=differences.size,
        share_cut=-mean / float(baselines.mean()) if baselines.any() else float("nan"),
        num_views=len(by_view),
        num_better=sum(sign * value > 0 for value in by_view.values()),
        worst_view=worst_view,
        worst=by_view[worst_view] if worst_view is not None else float("nan"),
    )


def _mean_by_scene(views: Sequence[ViewValues], values: Mapping[str, float]) -> DoubleArray:
    """Average values by view's name over the views of each scene; (scenes,)."""
    by_scene: dict[str, list[float]] = {}
    for view in views:
        by_scene.setdefault(view.scene, []).append(values[view.view])
    return np.array([np.mean(found) for found in by_scene.values()], np.float64)


def bootstrap_interval(differences: DoubleArray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences, (N,), by resampling them 9,999 times.

    Bias-corrected and accelerated (BCa; B. Efron, "Better Bootstrap Confidence Intervals", JASA 1987), through
    scipy.stats.bootstrap. The same seed gives the same interval. NaN for fewer than two values; equal values give
    that value twice. Raises ConfigError without scipy.
    """
    if differences.size < _MIN_SCENES:
        return float("nan"), float("nan")
    spread = float(np.ptp(differences))
    if spread <= 1e-12 * float(np.abs(differences).max(initial=0)):
        return float(differences[0]), float(differences[0])
    stats: Any = load_extra("scipy.stats", "scipy")
    result = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
