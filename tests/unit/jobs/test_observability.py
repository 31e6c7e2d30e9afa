"""What stands in infra/observability is what the metric definitions make of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from jobs.observability import DASHBOARD, FOLDER, RULES, alerts, generated, main
from pipeline.execution.metrics import DEFINITIONS, MetricKind

OPERATIONS = (FOLDER.parent.parent / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", generated())
def test_the_checked_in_file_is_the_generated_one(name: str) -> None:
    assert (FOLDER / name).read_text() == generated()[name], "run `python -m jobs.observability`"


def test_the_files_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    main(tmp_path / "new")
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == generated()


def test_every_metric_has_a_panel_and_every_panel_fits_its_metric() -> None:
    panels = json.loads(generated()[DASHBOARD])["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    kinds = {each.name: each.kind for each in DEFINITIONS}
    shown = set()
    for expr in expressions:
        for name, window in re.findall(r"ray_(hdrfleet_\w+)\{[^}]*\}(\[[^]]+\])?", expr):
            metric = name.removesuffix("_bucket")
            shown.add(metric)
            assert bool(window) == (kinds[metric] is not MetricKind.GAUGE), expr
    assert shown == set(kinds)


def test_panels_do_not_overlap() -> None:
    panels = json.loads(generated()[DASHBOARD])["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_metrics_and_alerts_are_documented() -> None:
    rules = yaml.safe_load(generated()[RULES])["groups"][0]["rules"]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names) == len(alerts())
    for name in (*names, *(each.name for each in DEFINITIONS)):
        assert f"`{name}`" in OPERATIONS, name


def test_rules_name_only_metrics_that_are_defined() -> None:
    names = {each.name for each in DEFINITIONS}
    for alert in alerts():
        asked = set(re.findall(r"ray_(hdrfleet_\w+)", alert.expr))
        assert asked
        assert asked <= names, alert.name
