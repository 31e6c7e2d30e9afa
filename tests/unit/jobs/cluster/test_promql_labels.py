"""Labels and their values in expressions about hdrfleet's metrics: what never has a value is found, the rest is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import OBSERVABILITY, broken_copy, documents, found_in_copy, set_to

from jobs.cluster.promql import PromqlError, parse_expression
from jobs.cluster.promql_labels import ANYTHING, check_labels
from jobs.cluster.scrape_labels import labels_added
from jobs.cluster.validate import validate_file

CONFIG = OBSERVABILITY / "prometheus.yml"
RULES = OBSERVABILITY / "alert-rules.yml"
DASHBOARD = OBSERVABILITY / "grafana-dashboard.json"
WORKERS = "ray_hdrfleet_workers"
EXPR = ("groups", 0, "rules", 0, "expr")


def faults(expression: str, added: frozenset[str] | None = None) -> list[str]:
    return check_labels(parse_expression(expression), added)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (f'{WORKERS}{{state="redy"}}', f"state of {WORKERS} is never 'redy'; it is ready or starting"),
        (f'{{__name__="{WORKERS}", state="redy"}}', "never 'redy'"),
        (f'{WORKERS}{{state=~"read|start"}}', "never 'read|start'"),
        (f'{WORKERS}{{state=""}}', "never ''"),
        (f'{WORKERS}{{role="worker"}}', "role of ray_hdrfleet_workers is never 'worker'; it is driver"),
        (
            f'{WORKERS}{{stat="ready"}}',
            f"{WORKERS} has no label stat, and so this never has a value; did you mean state?",
        ),
        (f'{WORKERS}{{State=~"rea.*"}}', "did you mean state?"),
        (f"sum by (jobid) ({WORKERS})", "sum by (jobid): no series there has this label; did you mean job_id?"),
        (f"max_over_time(sum by (jobid) ({WORKERS})[1h:1m])", "did you mean job_id?"),
        (f"sum by (state) (sum by (job_id) ({WORKERS}))", "sum by (state): no series there has this label"),
        (f"sum by (job_id) (sum({WORKERS}))", "sum by (job_id): no series there has this label"),
        (f"sum by (job_id) ({WORKERS}) > on (jobid) sum by (job_id) ({WORKERS})", "on (jobid): no series of one side"),
        (f'absent({WORKERS}{{state="redy"}})', "never 'redy'"),
        (f'0 < -({WORKERS}{{state="redy"}}) or vector(1)', "never 'redy'"),
        (f'topk(3, {WORKERS}{{state="redy"}})', "never 'redy'"),
        ('rate(ray_hdrfleet_images_total{outcome="OK"}[5m])', "outcome of ray_hdrfleet_images_total is never 'OK'"),
        ('rate(ray_hdrfleet_stage_seconds_sum{stage="inferr"}[5m])', "never 'inferr'"),
    ],
)
def test_what_never_has_a_value_is_said(expression: str, said: str) -> None:
    (found,) = faults(expression)[:1]
    assert said in found


@pytest.mark.parametrize(
    "expression",
    [
        f'{WORKERS}{{state="ready", role="driver", job_id="x"}}',
        f'{WORKERS}{{state!="redy", stat!="x", state!~"redy", stat!~"x.+"}}',
        f'{WORKERS}{{stat="", stat=~".*", state=~"re.*|x"}}',
        f'{WORKERS}{{state=~"[[:alpha:]]+y"}}',
        f'{WORKERS}{{job="ray", instance=~"10.*", NodeAddress="a", SessionName="b", Version="c", WorkerId="d"}}',
        f'{WORKERS}{{Component="core_worker", namespace="x", pod="y", ray_io_cluster="z", exported_job="a"}}',
        f'{WORKERS}{{region="eu", tenant="x"}}',
        f"sum by (job_id, state, region, job) ({WORKERS})",
        f'sum by (jobid) (label_replace({WORKERS}, "jobid", "$1", "job_id", "(.*)"))',
        f'sum by (stat) (label_join({WORKERS}, "stat", "-", "state", "role"))',
        f'sum by (jobid) (count_values by (job_id) ("jobid", {WORKERS}))',
        f"sum without (jobid) ({WORKERS})",
        f"sum by (state) (topk(3, {WORKERS}))",
        "histogram_quantile(0.5, sum by (le, stage) (rate(ray_hdrfleet_stage_seconds_bucket[5m])))",
        'sum by (jobid) (up{stat="redy"})',
        f"sum by (job_id) ({WORKERS}) unless on (jobid) up",
        f"sum by (job_id) ({WORKERS}) or vector(0)",
        f"sum by (anything) (job:workers:sum) * on (job_id) group_left (code) {WORKERS}",
        f'{WORKERS}{{state=~"{ANYTHING}", {ANYTHING}="x"}}',
        f"sum by ({ANYTHING}) ({WORKERS})",
        'ray_hdrfleet_image_failures_total{code="whatever"}',
        '{__name__=~"ray_hdrfleet_.*", stat="x"}',
    ],
)
def test_what_may_have_a_value_is_sound(expression: str) -> None:
    assert faults(expression) == []


def test_no_other_label_is_there_where_all_that_are_added_are_known() -> None:
    assert faults(f'{WORKERS}{{region="eu"}}', frozenset({"region"})) == []
    assert faults(f'{WORKERS}{{phase="ready"}}', frozenset({"region"})) == [
        f"{WORKERS} has no label phase, and so this never has a value"
    ]


def test_label_that_was_taken_away_is_not_there() -> None:
    (found,) = faults(f"max by (job_id) (sum without (job_id) ({WORKERS}))", frozenset())
    assert found == "max by (job_id): no series there has this label"


def test_long_chain_is_looked_at_to_its_end() -> None:
    chain = " + ".join([WORKERS] * 200)
    assert faults(f'{WORKERS}{{job_id=~"(a+|b-){{1,}}.+*"}} + {chain}') == []
    assert len(faults(f'{WORKERS}{{state="x"}} + {chain}')) == 1


@pytest.mark.parametrize("operator", ["+", " and ", "^", " == "])
def test_chain_that_nobody_wrote_is_refused(operator: str) -> None:
    with pytest.raises(PromqlError, match="more than 200 operators"):
        parse_expression(operator.join(["a"] * 20_000))


@pytest.mark.parametrize(
    ("scrape", "added"),
    [
        ({"static_configs": [{"targets": ["a:1"], "labels": {"region": "eu"}}]}, {"region"}),
        ({"relabel_configs": [{"source_labels": ["a"], "target_label": "zone"}]}, {"zone"}),
        ({"metric_relabel_configs": [{"target_label": "zone"}]}, {"zone"}),
        ({"file_sd_configs": [{"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}]}, set()),
        ({"file_sd_configs": [{"files": ["targets.json"]}]}, None),
        ({"http_sd_configs": [{"url": "http://x"}]}, None),
        ({"metric_relabel_configs": [{"action": "labelmap", "regex": "x_(.*)"}]}, None),
    ],
)
def test_labels_that_a_configuration_adds(scrape: dict[str, Any], added: set[str] | None, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [{"job_name": "ray", **scrape}]}))
    assert labels_added(tmp_path) == added


def test_labels_of_files_that_are_elsewhere_or_broken_are_not_known(tmp_path: Path) -> None:
    assert labels_added(tmp_path) is None
    (tmp_path / "broken.yml").write_text("a: b: c")
    assert labels_added(tmp_path) is None
    (tmp_path / "prometheus.yml").write_text("scrape_config_files: [more.yml]")
    assert labels_added(tmp_path) is None


@pytest.mark.parametrize(
    ("expression", "num_found"),
    [(f'{WORKERS}{{state="redy"}} > 0', 1), (f'{WORKERS}{{phase="x"}}', 1), (f'{WORKERS}{{region="eu"}}', 0)],
)
def test_rules_are_checked_with_the_configuration_beside_them(expression: str, num_found: int, tmp_path: Path) -> None:
    broken_copy(CONFIG, tmp_path, set_to({"external_labels": {"region": "eu"}}, "global"))
    found = found_in_copy(RULES, tmp_path, set_to(expression, *EXPR))
    assert found == [("groups[0].rules[0].expr", "promql")] * num_found


@pytest.mark.parametrize(
    ("expression", "num_found"),
    [
        ('sum(ray_hdrfleet_workers{job_id=~"$job_id", state="redy"})', 1),
        ('sum by (jobid) (ray_hdrfleet_workers{job_id=~"$job_id"})', 1),
        ('sum by (phase) (ray_hdrfleet_workers{job_id=~"$job_id"})', 1),
        ('sum by ($job_id) (ray_hdrfleet_workers{state=~"$job_id"})', 0),
    ],
)
def test_panels_are_checked_with_their_variables_as_anything(expression: str, num_found: int, tmp_path: Path) -> None:
    shutil.copy(CONFIG, tmp_path)
    found = found_in_copy(DASHBOARD, tmp_path, set_to(expression, "panels", 0, "targets", 0, "expr"))
    assert found == [("panels[0].targets[0].expr", "promql")] * num_found


def test_what_ships_is_checked_with_all_labels_known() -> None:
    assert labels_added(OBSERVABILITY) == frozenset()
    assert documents(DASHBOARD)
    assert [validate_file(path, []).findings for path in (RULES, DASHBOARD)] == [(), ()]
