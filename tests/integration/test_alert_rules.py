"""Prometheus' own tools on infra/observability: the files are well formed, and each alert fires when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql_expressions import BROKEN, BY_US, SOUND

from jobs.observability import FOLDER, RULES, alerts, panels
from pipeline.execution.metrics import FAILURES, SCALED_WORKERS, WORKERS_LOST, MetricDefinition

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)

# What makes each alert fire within an hour, and what is close to it and does not. Values are by the minute.
FIRING: dict[str, dict[str, str]] = {
    "HdrfleetNoProgress": {"images_total{job_id=X, outcome=ok}": "5x60", "leases_held{job_id=X}": "2x60"},
    "HdrfleetNoWorkers": {"workers{job_id=X, state=ready}": "0x60", "workers{job_id=X, state=starting}": "2x60"},
    "HdrfleetFailureRate": {
        "images_total{job_id=X, outcome=ok}": "0+80x60",
        "images_total{job_id=X, outcome=failed}": "0+20x60",
    },
    "HdrfleetStoreRetries": {"store_retries_total{job_id=X, role=worker}": "0+90x60"},
    "HdrfleetWorkersLost": {"workers_lost_total{job_id=X}": "0x40 1 2 3 5 5x20"},
    "HdrfleetLeaseLost": {"driver_lease_lost_total{job_id=X}": "0x55 1 1x10"},
    "HdrfleetDeviceIdle": {
        "device_busy_seconds_total{job_id=X}": "0+10x60",
        "workers{job_id=X, state=ready}": "1x60",
        "leases_held{job_id=X}": "2x60",
    },
}
QUIET: dict[str, dict[str, str]] = {
    "HdrfleetNoProgress": {"images_total{job_id=X, outcome=ok}": "0+1x60", "leases_held{job_id=X}": "2x60"},
    "HdrfleetNoWorkers": {"workers{job_id=X, state=ready}": "1x60", "workers{job_id=X, state=starting}": "2x60"},
    "HdrfleetFailureRate": {
        "images_total{job_id=X, outcome=ok}": "0+80x60",
        "images_total{job_id=X, outcome=failed}": "0+5x60",
    },
    "HdrfleetStoreRetries": {"store_retries_total{job_id=X, role=worker}": "0+30x60"},
    "HdrfleetWorkersLost": {"workers_lost_total{job_id=X}": "0x40 1 2 3x20"},
    "HdrfleetLeaseLost": {"driver_lease_lost_total{job_id=X}": "0x60"},
    "HdrfleetDeviceIdle": {
        "device_busy_seconds_total{job_id=X}": "0+50x60",
        "workers{job_id=X, state=ready}": "1x60",
        "leases_held{job_id=X}": "2x60",
    },
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def case(alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    def named(text: str) -> str:
        name, labels = text.removesuffix("}").split("{")
        pairs = [pair.split("=") for pair in labels.split(", ")]
        quoted = ", ".join(f'{label}="{"j" if value == "X" else value}"' for label, value in pairs)
        return f"ray_hdrfleet_{name}{{{quoted}}}"

    (rule,) = [each for each in alerts() if each.name == alert]
    expected = {
        "exp_labels": {"job_id": "j", "severity": rule.severity},
        "exp_annotations": {"summary": f"Job j: {rule.summary}.", "description": rule.action},
    }
    return {
        "interval": "1m",
        "input_series": [{"series": named(name), "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "59m", "alertname": alert, "exp_alerts": [expected] if fires else []}],
    }


def test_prometheus_accepts_the_rules_and_the_scrape_configuration() -> None:
    for done in (promtool("check", "rules", FOLDER / RULES), promtool("check", "config", FOLDER / "prometheus.yml")):
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("alert", [each.name for each in alerts()])
@pytest.mark.parametrize("fires", [True, False])
def test_an_alert_fires_when_it_should_and_not_close_to_it(alert: str, fires: bool, tmp_path: Path) -> None:
    series = (FIRING if fires else QUIET)[alert]
    tests = {"rule_files": [str(FOLDER / RULES)], "tests": [case(alert, series, fires=fires)]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


# Samples by the minute of series of one counter, and what the last hour of them is at 2:00 (`_` is no sample).
HOURS: dict[str, tuple[dict[str, str], int]] = {
    "a series that begins at its first event": ({"code=a": "_x90 1x30"}, 1),
    "and is seen once": ({"code=a": "_x120 1"}, 1),
    "and goes on": ({"code=a": "_x70 1 1 1 2x50"}, 2),
    "two codes on two nodes": ({"code=a": "_x70 2x60", "code=b": "_x100 1x30", "code=a, node=n": "_x110 4x9"}, 7),
    "one that begins at 0": ({"code=a": "_x70 0x5 3x60"}, 3),
    "one whose 0 was never reported": ({"code=a": "_x70 3x60"}, 3),
    "one whose node has gone since": ({"code=a": "_x70 1x5 stale _x60"}, 1),
    "one that is older than an hour": ({"code=a": "5x60 5x60"}, 0),
    "older, and more of it": ({"code=a": "5x90 7x60"}, 2),
    "older, and not scraped an hour ago": ({"code=a": "5x40 _x30 5x60"}, 0),
}


@pytest.mark.parametrize("case", HOURS)
@pytest.mark.parametrize("metric", [FAILURES, SCALED_WORKERS, WORKERS_LOST], ids=lambda metric: metric.name)
def test_a_panel_counts_an_event_that_a_series_begins_with(case: str, metric: MetricDefinition, tmp_path: Path) -> None:
    """Though Prometheus sees no increase in it."""
    series, expected = HOURS[case]
    (query,) = [each for panel in panels() for each in panel.queries if f"{metric.name}{{" in each.expr]
    assert "last hour" in next(panel.title for panel in panels() if query in panel.queries)

    def named(labels: str) -> str:
        pairs = [pair.split("=") for pair in f"job_id=j, {labels}".replace("code", str(metric.tag)).split(", ")]
        return f"ray_{metric.name}{{" + ", ".join(f'{label}="{value}"' for label, value in pairs) + "}"

    counted = {
        "interval": "1m",
        "input_series": [{"series": named(labels), "values": values} for labels, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"round(sum({query.expr.replace('$job_id', '.+')}))",
                "eval_time": "2h",
                "exp_samples": [{"labels": "{}", "value": expected}],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"tests": [counted]}))
    done = promtool("test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_our_parser_takes_what_prometheus_takes(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    for expression in [*SOUND, *BROKEN.keys() - BY_US]:
        rules = [{"record": "a:b", "expr": expression}]
        path.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
        assert (promtool("check", "rules", path).returncode == 0) is (expression in SOUND), expression
