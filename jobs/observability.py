"""`python -m jobs.observability [FOLDER]`: writes the dashboard and the alert rules from the metric definitions.

They are checked in under `infra/observability`; a test compares. Queries name metrics by their definitions alone, so
that a metric that is renamed or dropped cannot leave a panel or a rule behind.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.execution import metrics as m
from pipeline.execution.metrics import MetricDefinition

FOLDER = Path(__file__).resolve().parent.parent / "infra" / "observability"
DASHBOARD, RULES = "grafana-dashboard.json", "alert-rules.yml"
_PREFIX = "ray_"  # Ray's agents put it before every name
_JOB = 'job_id=~"$job_id"'
_PANEL_HEIGHT, _PANEL_WIDTH, _NUM_COLUMNS = 8, 8, 24


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel, with Grafana's variables in it, and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph; `unit` is one of Grafana's."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule. `wait` is how long `expr` has to hold."""

    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    action: str


def _series(metric: MetricDefinition, matcher: str = _JOB, suffix: str = "") -> str:
    return f"{_PREFIX}{metric.name}{suffix}{{{matcher}}}" if matcher else f"{_PREFIX}{metric.name}{suffix}"


def _per_second(metric: MetricDefinition) -> Query:
    """The rate of a counter, for each value of its own label."""
    rate = f"rate({_series(metric)}[$__rate_interval])"
    return (
        Query(f"sum by ({metric.tag}) ({rate})", f"{{{{{metric.tag}}}}}")
        if metric.tag
        else Query(f"sum({rate})", metric.unit)
    )


def _now(metric: MetricDefinition) -> Query:
    """The sum of a gauge, for each value of its own label."""
    if metric.tag:
        return Query(f"sum by ({metric.tag}) ({_series(metric)})", f"{{{{{metric.tag}}}}}")
    return Query(f"sum({_series(metric)})", metric.unit)


def _quantile(metric: MetricDefinition, share: float) -> Query:
    """A quantile of a histogram from its buckets: Ray makes up its sum, so there is no true mean."""
    buckets = f"rate({_series(metric, suffix='_bucket')}[$__rate_interval])"
    by = f"le, {metric.tag}" if metric.tag else "le"
    return Query(f"histogram_quantile({share:g}, sum by ({by}) ({buckets}))", f"{{{{{metric.tag}}}}}")


def _in_an_hour(metric: MetricDefinition) -> Query:
    """What a counter grew by, that with which a series began included.

    A series of an error code begins at its first failure, and that of a driver's first starts may have had no report at
    0 before: `increase` sees nothing in either. What a series of this hour had at first is therefore added, under a
    label of its own, which keeps the two apart until they are summed.
    """
    series = f"{_series(metric)}[1h]"
    began = f"min_over_time({series}) unless present_over_time({series} offset 1h)"
    grown = f'increase({series}) or label_replace({began}, "part", "first", "", "")'
    return (
        Query(f"sum by ({metric.tag}) ({grown})", f"{{{{{metric.tag}}}}}")
        if metric.tag
        else Query(f"sum({grown})", metric.unit)
    )


def _busy_share() -> Query:
    # Counters of workers that are gone stay, so the workers that are there are counted by the driver.
    ready = _series(m.WORKERS, f'{_JOB}, state="ready"')
    return Query(f"sum(rate({_series(m.DEVICE_BUSY)}[$__rate_interval])) / sum({ready})", "share")


def panels() -> tuple[Panel, ...]:
    """The graphs of the dashboard, in their order."""

    def panel(title: str, unit: str, metric: MetricDefinition, *queries: Query) -> Panel:
        return Panel(title, unit, metric.description, queries)

    return (
        panel("Images per second", "ops", m.IMAGES, _per_second(m.IMAGES)),
        panel("Megapixels per second", "none", m.MEGAPIXELS, _per_second(m.MEGAPIXELS)),
        panel("Device busy", "percentunit", m.DEVICE_BUSY, _busy_share()),
        panel("Workers", "none", m.WORKERS, _now(m.WORKERS)),
        panel("Scaling, workers in the last hour", "none", m.SCALED_WORKERS, _in_an_hour(m.SCALED_WORKERS)),
        panel("Workers lost in the last hour", "none", m.WORKERS_LOST, _in_an_hour(m.WORKERS_LOST)),
        panel("Failures in the last hour", "none", m.FAILURES, _in_an_hour(m.FAILURES)),
        panel("Seconds per stage, median", "s", m.STAGE_SECONDS, _quantile(m.STAGE_SECONDS, 0.5)),
        panel("Seconds per stage, 95th percentile", "s", m.STAGE_SECONDS, _quantile(m.STAGE_SECONDS, 0.95)),
        panel("Read", "Bps", m.READ_BYTES, _per_second(m.READ_BYTES)),
        panel("Written", "Bps", m.WRITTEN_BYTES, _per_second(m.WRITTEN_BYTES)),
        panel("Waiting between stages", "bytes", m.QUEUE_BYTES, _now(m.QUEUE_BYTES)),
        panel("Shards per second", "ops", m.SHARDS_COMPLETED, _per_second(m.SHARDS_COMPLETED)),
        panel("Shards split in the last hour", "none", m.SHARDS_SPLIT, _in_an_hour(m.SHARDS_SPLIT)),
        panel("Leases held", "none", m.LEASES_HELD, _now(m.LEASES_HELD)),
        panel("Leases returned in the last hour", "none", m.LEASES_RETURNED, _in_an_hour(m.LEASES_RETURNED)),
        panel("Requests tried again per second", "ops", m.STORE_RETRIES, _per_second(m.STORE_RETRIES)),
        panel("Drivers taken over in the last hour", "none", m.DRIVER_LEASE_LOST, _in_an_hour(m.DRIVER_LEASE_LOST)),
    )


def alerts() -> tuple[Alert, ...]:
    """The alert rules; each speaks of one job."""

    def total(metric: MetricDefinition, what: str, matcher: str = "", window: str = "") -> str:
        series = _series(metric, matcher) + (f"[{window}]" if window else "")
        return f"sum by (job_id) ({f'{what}({series})' if what else series})"

    working = f"{total(m.LEASES_HELD, '')} > 0"
    ready, starting = (total(m.WORKERS, "", f'state="{state}"') for state in ("ready", "starting"))
    not_ok = total(m.IMAGES, "rate", 'outcome!="ok"', "10m")
    return (
        Alert(
            "HdrfleetNoProgress",
            f"{total(m.IMAGES, 'increase', window='15m')} == 0 and {working}",
            *("5m", "critical", "no image was finished for 15 minutes, though workers hold shards"),
            "Look at the busy share and at requests tried again; a stuck worker is replaced after --image-timeout.",
        ),
        Alert(
            "HdrfleetNoWorkers",
            f"{ready} == 0 and {starting} > 0",
            *("20m", "critical", "workers were asked for 20 minutes ago and none is ready"),
            "Ask the autoscaler (`ray status`) whether a node type can give what a worker asks for.",
        ),
        Alert(
            "HdrfleetFailureRate",
            f"{not_ok} / {total(m.IMAGES, 'rate', window='10m')} > 0.1",
            *("10m", "warning", "more than a tenth of the images fail"),
            'Ask for the codes: hdrfleet query DST "select error_code, count(*) from manifest group by 1".',
        ),
        Alert(
            "HdrfleetStoreRetries",
            f"{total(m.STORE_RETRIES, 'rate', window='10m')} > 1",
            *("10m", "warning", "more than one request a second has to be tried again"),
            "The store throttles or fails: fewer workers, or docs/storage.md.",
        ),
        Alert(
            "HdrfleetWorkersLost",
            f"{total(m.WORKERS_LOST, 'increase', window='30m')} > 3",
            *("0m", "warning", "more than three workers were lost within half an hour"),
            "Spot losses explain themselves; otherwise see quarantined rows and the nodes' memory.",
        ),
        Alert(
            "HdrfleetLeaseLost",
            f"{total(m.DRIVER_LEASE_LOST, 'increase', window='15m')} > 0",
            *("0m", "critical", "the driver stopped, because another one has taken over its destination"),
            "See who owns it: hdrfleet status DST. Run one hdrfleet at a time on a destination.",
        ),
        Alert(
            "HdrfleetDeviceIdle",
            f"{total(m.DEVICE_BUSY, 'rate', window='15m')} / {ready} < 0.3 and {working}",
            *("15m", "warning", "devices compute for less than a third of their time"),
            "See which stage is slow; more decode and encode cores, or a store that is nearer.",
        ),
    )


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    per_row = _NUM_COLUMNS // _PANEL_WIDTH
    return {
        "uid": "hdrfleet",
        "title": "hdrfleet",
        "tags": ["hdrfleet"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_data_source(), _job_variable()]},
        "panels": [_as_json(index, each, per_row) for index, each in enumerate(panels())],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _job_variable() -> dict[str, Any]:
    return {
        "name": "job_id",
        "label": "Job",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values({_series(m.SHARDS_COMPLETED, '')}, job_id)",
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "refresh": 2,
    }


def _as_json(index: int, panel: Panel, per_row: int) -> dict[str, Any]:
    row, column = divmod(index, per_row)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": _PANEL_HEIGHT, "w": _PANEL_WIDTH, "x": column * _PANEL_WIDTH, "y": row * _PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": query.expr, "legendFormat": query.legend}
            for number, query in enumerate(panel.queries)
        ],
    }


def rules() -> dict[str, Any]:
    """The alert rules as Prometheus reads them."""
    return {
        "groups": [
            {
                "name": "hdrfleet",
                "rules": [
                    {
                        "alert": each.name,
                        "expr": each.expr,
                        "for": each.wait,
                        "labels": {"severity": each.severity},
                        "annotations": {
                            "summary": f"Job {{{{ $labels.job_id }}}}: {each.summary}.",
                            "description": each.action,
                        },
                    }
                    for each in alerts()
                ],
            }
        ]
    }


def generated() -> dict[str, str]:
    """The text of every generated file, by its name."""
    head = "# Generated by `python -m jobs.observability`; change that, or the metric definitions, instead.\n"
    return {
        DASHBOARD: json.dumps(dashboard(), indent=2) + "\n",
        RULES: head + yaml.safe_dump(rules(), sort_keys=False, width=1000),
    }


def main(folder: Path = FOLDER) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in generated().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
