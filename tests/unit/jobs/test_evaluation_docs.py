"""docs/evaluation.md defines every metric and baseline there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.evaluate import ALL_METRICS
from pipeline.evaluation.baselines import BASELINES

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs/evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*(name for name in ALL_METRICS if not name.startswith("aligned_")), *BASELINES])
def test_every_metric_and_baseline_is_defined(name: str) -> None:
    assert f"\n| `{name}` |" in DOCUMENT
