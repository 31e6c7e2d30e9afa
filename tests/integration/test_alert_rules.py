"""Prometheus' own tools on infra/observability: the files are well formed, and each alert fires when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql_expressions import BROKEN, BY_US, SOUND

from jobs.observability import FOLDER, RULES, alerts

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


def test_our_parser_takes_what_prometheus_takes(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    for expression in [*SOUND, *BROKEN.keys() - BY_US]:
        rules = [{"record": "a:b", "expr": expression}]
        path.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
        assert (promtool("check", "rules", path).returncode == 0) is (expression in SOUND), expression
