"""How good an HDR reconstruction is, measured against ground truth. No torch; every metric is in docs/evaluation.md.

`evaluate_pair` measures one image, `baselines` are what every result stands beside, `statistics` compares methods.
"""

from pipeline.evaluation.metrics import FAST_METRICS, METRICS, Metric, evaluate_pair

__all__ = ["FAST_METRICS", "METRICS", "Metric", "evaluate_pair"]
