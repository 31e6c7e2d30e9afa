"""What an evaluation found: means, medians and differences of every method, as JSON and as a table of views."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from pipeline.evaluation import Metric
from pipeline.evaluation.statistics import (
    Difference,
    ViewValues,
    compare,
    mean_over_scenes,
    median_over_views,
    scene_means,
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured. `views` holds one entry per view and method; `clipped_fractions` are by view.

    `methods` are the networks, `baselines` what they are compared with; a network is compared with those before it too.
    `learnt` holds, by network, which of the scenes it is known to have learnt from.
    """

    settings: dict[str, object]
    methods: tuple[str, ...]
    baselines: tuple[str, ...]
    metrics: tuple[Metric, ...]
    views: tuple[ViewValues, ...]
    clipped_fractions: dict[str, float]
    learnt: dict[str, list[str]]

    @property
    def num_scenes(self) -> int:
        """How many scenes the views come from."""
        return len({view.scene for view in self.views})

    def references(self, method: str) -> tuple[str, ...]:
        """What a network is compared with: every baseline, and the networks given before it."""
        return (*self.baselines, *self.methods[: self.methods.index(method)])

    def mean(self, method: str, metric: Metric) -> float:
        """The mean over scenes of the scenes' means; NaN where it is defined nowhere."""
        return mean_over_scenes(self.views, method, metric.name)

    def median(self, method: str, metric: Metric) -> float:
        """The median over all views in which it is defined; NaN where there is none."""
        return median_over_views(self.views, method, metric.name)

    def differences(self) -> list[Difference]:
        """Every network against each of its references, in every metric."""
        return [
            compare(self.views, metric.name, method, reference, higher_is_better=metric.higher_is_better)
            for method in self.methods
            for reference in self.references(method)
            for metric in self.metrics
        ]

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes, NaN as it is."""
        everyone = (*self.methods, *self.baselines)
        by_scene: dict[str, dict[str, dict[str, float]]] = {}
        for name in everyone:
            for metric in self.metrics:
                for scene, mean in scene_means(self.views, name, metric.name).items():
                    by_scene.setdefault(scene, {}).setdefault(name, {})[metric.name] = mean
        return {
            "settings": self.settings,
            "num_scenes": self.num_scenes,
            "num_views": len(self.clipped_fractions),
            "learnt_scenes": self.learnt,
            "means": {name: {metric.name: self.mean(name, metric) for metric in self.metrics} for name in everyone},
            "medians": {name: {metric.name: self.median(name, metric) for metric in self.metrics} for name in everyone},
            "differences": [asdict(difference) for difference in self.differences()],
            "scenes": by_scene,
        }

    def to_table(self) -> pa.Table:
        """One row per view and method: scene, view, method, clipped_fraction, and a column per metric, null for NaN."""
        columns: dict[str, pa.Array] = {
            "scene": pa.array([view.scene for view in self.views], pa.string()),
            "view": pa.array([view.view for view in self.views], pa.string()),
            "method": pa.array([view.method for view in self.views], pa.string()),
            "clipped_fraction": pa.array([self.clipped_fractions[view.view] for view in self.views], pa.float64()),
        }
        for metric in self.metrics:
            values = np.array([view.values[metric.name] for view in self.views], np.float64)
            columns[metric.name] = pa.array(values, pa.float64(), mask=np.isnan(values))
        return pa.table(columns)
