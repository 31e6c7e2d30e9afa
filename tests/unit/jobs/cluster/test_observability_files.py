"""Broken copies of Prometheus' configuration, of the alert rules and of the dashboard: each fault is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster_files import OBSERVABILITY, Break, appended, documents, found_in_copy, found_in_text, set_to, without
from promql_expressions import BROKEN, SOUND

from jobs.cluster.promql import PromqlError, metrics_of, parse_expression
from jobs.cluster.validate import find_files, validate_file
from pipeline.errors import ConfigError

CONFIG = OBSERVABILITY / "prometheus.yml"
RULES = OBSERVABILITY / "alert-rules.yml"
DASHBOARD = OBSERVABILITY / "grafana-dashboard.json"
SCRAPE = ("scrape_configs", 0)
RULE = ("groups", 0, "rules", 0)
R = "groups[0].rules[0]"


def dropped(names: str) -> dict[str, object]:
    return {"source_labels": ["__name__"], "regex": names, "action": "drop"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("scrape_configs:", "scrape_configz:", ("scrape_configz", "unknown_key")),
        ("scrape_configs:", "scrape_configz:", ("scrape_configs", "missing_key")),
        ("scrape_interval", "scrape_intervall", ("global.scrape_intervall", "unknown_key")),
        ("scrape_interval: 15s", "scrape_interval: 15", ("global.scrape_interval", "wrong_type")),
        (
            "refresh_interval: 15s",
            "refresh_interval: 15x",
            ("scrape_configs[0].file_sd_configs[0].refresh_interval", "wrong_type"),
        ),
        ("file_sd_configs", "file_sd_config", ("scrape_configs[0].file_sd_config", "unknown_key")),
        ("file_sd_configs", "file_sd_config", ("scrape_configs[0]", "missing_key")),
        ("job_name: ray", "jobname: ray", ("scrape_configs[0].job_name", "missing_key")),
        ("discovery.json", "discovery.txt", ("scrape_configs[0].file_sd_configs[0].files[0]", "unknown_value")),
        ("- files:", "- file:", ("scrape_configs[0].file_sd_configs[0].files", "missing_key")),
        ("- alert-rules.yml", "- alert-rule.yml", ("rule_files[0]", "missing_file")),
        ("- alert-rules.yml", "- 7", ("rule_files[0]", "wrong_type")),
        ("rule_files:\n  - alert-rules.yml", "rule_files: alert-rules.yml", ("rule_files", "wrong_type")),
    ],
)
def test_fault_of_the_configuration_is_found(old: str, new: str, expected: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text())
    assert expected in found_in_text(CONFIG, tmp_path, old, new)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (
            appended({"job_name": "ray", "static_configs": [{"targets": ["a:1"]}]}, "scrape_configs"),
            ("scrape_configs[1].job_name", "not_unique"),
        ),
        (
            set_to([{"target": ["a:1"]}], *SCRAPE, "static_configs"),
            ("scrape_configs[0].static_configs[0].target", "unknown_key"),
        ),
        (
            set_to([{"labels": {}}], *SCRAPE, "static_configs"),
            ("scrape_configs[0].static_configs[0].targets", "missing_key"),
        ),
        (
            set_to([{"targets": ["http://a:1"]}], *SCRAPE, "static_configs"),
            ("scrape_configs[0].static_configs[0].targets[0]", "unknown_value"),
        ),
        (set_to("20s", *SCRAPE, "scrape_timeout"), ("scrape_configs[0].scrape_timeout", "unknown_value")),
        (set_to("htps", *SCRAPE, "scheme"), ("scrape_configs[0].scheme", "unknown_value")),
        (
            set_to([{"action": "dropp"}], *SCRAPE, "relabel_configs"),
            ("scrape_configs[0].relabel_configs[0].action", "unknown_value"),
        ),
        (
            set_to([{"regexp": "x"}], *SCRAPE, "metric_relabel_configs"),
            ("scrape_configs[0].metric_relabel_configs[0].regexp", "unknown_key"),
        ),
        (
            set_to([dropped("ray_hdrfleet_.*")], *SCRAPE, "metric_relabel_configs"),
            ("scrape_configs[0].metric_relabel_configs[0].regex", "promql"),
        ),
        (
            set_to([dropped("ray_(hdrfleet|node)_.*_total")], *SCRAPE, "metric_relabel_configs"),
            ("scrape_configs[0].metric_relabel_configs[0].regex", "promql"),
        ),
        (
            set_to([{**dropped("ray_node_.*"), "action": "keep"}], *SCRAPE, "metric_relabel_configs"),
            ("scrape_configs[0].metric_relabel_configs[0].regex", "promql"),
        ),
        (
            set_to([{"source_labels": ["__name__"], "action": "drop"}], *SCRAPE, "metric_relabel_configs"),
            ("scrape_configs[0].metric_relabel_configs[0].action", "promql"),
        ),
        (
            set_to(
                [{"source_labels": ["__name__"], "regex": "ray_(.*)", "target_label": "__name__"}],
                *(*SCRAPE, "metric_relabel_configs"),
            ),
            ("scrape_configs[0].metric_relabel_configs[0].regex", "promql"),
        ),
        (set_to({"password": "hunter2"}, *SCRAPE, "basic_auth"), ("scrape_configs[0].basic_auth.password", "secret")),
        (set_to({"alertmanager": []}, "alerting"), ("alerting.alertmanager", "unknown_key")),
    ],
)
def test_fault_that_comes_in_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text())
    assert expected in found_in_copy(CONFIG, tmp_path, apply)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (set_to("5m", *RULE, "forr"), (f"{R}.forr", "unknown_key")),
        (set_to("5mm", *RULE, "for"), (f"{R}.for", "wrong_type")),
        (set_to(5, *RULE, "for"), (f"{R}.for", "wrong_type")),
        (without(*RULE, "expr"), (f"{R}.expr", "missing_key")),
        (without(*RULE, "alert"), (R, "missing_key")),
        (set_to("a:b", *RULE, "record"), (f"{R}.alert", "unknown_key")),
        (set_to("increse(up[5m]) > 0", *RULE, "expr"), (f"{R}.expr", "promql")),
        (set_to("ray_hdrfleet_image_total > 0", *RULE, "expr"), (f"{R}.expr", "promql")),
        (set_to("hdrfleet_images_total > 0", *RULE, "expr"), (f"{R}.expr", "promql")),
        (set_to("{{ $labels.job_id }", *RULE, "annotations", "summary"), (f"{R}.annotations.summary", "promql")),
        (set_to(7, *RULE, "labels", "severity"), (f"{R}.labels.severity", "wrong_type")),
        (set_to("x", *RULE, "labels", "se-verity"), (f"{R}.labels.se-verity", "unknown_value")),
        (without("groups", 0, "name"), ("groups[0].name", "missing_key")),
        (set_to([], "groups", 0, "rules"), ("groups[0].rules", "missing_key")),
        (set_to("soon", "groups", 0, "interval"), ("groups[0].interval", "wrong_type")),
        (set_to([], "groups"), ("groups", "missing_key")),
        (set_to([], "group"), ("group", "unknown_key")),
        (
            appended({"name": "hdrfleet", "rules": [{"record": "a", "expr": "1"}]}, "groups"),
            ("groups[1].name", "not_unique"),
        ),
        (
            appended({"record": "a-b", "expr": "1"}, "groups", 0, "rules"),
            ("groups[0].rules[7].record", "unknown_value"),
        ),
    ],
)
def test_fault_of_the_rules_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    assert expected in found_in_copy(RULES, tmp_path, apply)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (set_to([], "panels"), ("panels", "missing_key")),
        (without("panels"), ("panels", "missing_key")),
        (without("panels", 0, "datasource"), ("panels[0].datasource", "missing_key")),
        (set_to({"type": "prometheus"}, "panels", 0, "datasource"), ("panels[0].datasource.uid", "missing_key")),
        (set_to([], "templating", "list"), ("panels[0].datasource.uid", "unknown_variable")),
        (without("templating", "list", 1, "datasource"), ("templating.list[1].datasource", "missing_key")),
        (set_to([], "panels", 0, "targets"), ("panels[0].targets", "missing_key")),
        (set_to("", "panels", 0, "targets", 0, "expr"), ("panels[0].targets[0].expr", "missing_key")),
        (set_to("rate(x)", "panels", 0, "targets", 0, "expr"), ("panels[0].targets[0].expr", "promql")),
        (
            set_to("sum(hdrfleet_images_total)", "panels", 0, "targets", 0, "expr"),
            ("panels[0].targets[0].expr", "promql"),
        ),
        (set_to('x{a="$job"}', "panels", 0, "targets", 0, "expr"), ("panels[0].targets[0].expr", "unknown_variable")),
        (set_to(2, "panels", 0, "id"), ("panels[1].id", "not_unique")),
        (without("panels", 0, "type"), ("panels[0].type", "missing_key")),
        (set_to({"x": 1}, "panels", 0, "type"), ("panels[0].type", "missing_key")),
        (without("title"), ("title", "missing_key")),
        (
            set_to([{"type": "row", "panels": [{"type": "stat", "id": 99}]}], "panels"),
            ("panels[0].panels[0].targets", "missing_key"),
        ),
    ],
)
def test_fault_of_the_dashboard_is_found(apply: Break, expected: tuple[str, str], tmp_path: Path) -> None:
    assert expected in found_in_copy(DASHBOARD, tmp_path, apply)


@pytest.mark.parametrize("path", [CONFIG, RULES, DASHBOARD], ids=lambda path: path.name)
def test_copy_without_a_fault_is_sound(path: Path, tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text())
    assert found_in_copy(path, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DASHBOARD.read_text()[:-20], "line 5"),
        ('{"panels": [1,]}', "line 1: "),
        ('{"title": 1, "title": 2}', "the key 'title' occurs twice"),
        ("[" * 100_000, "no JSON"),
        ("", "line 1: Expecting value; this is no JSON"),
    ],
    ids=["cut", "comma", "twice", "deep", "empty"],
)
def test_dashboard_that_is_no_json_is_refused_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / DASHBOARD.name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        validate_file(path, [], is_named=False)


def test_dashboard_is_known_by_its_name_even_when_it_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my-dashboard.json"
    path.write_text("{}")
    (tmp_path / "package.json").write_text("{}")
    assert find_files([tmp_path]) == [(path, False)]
    assert [each.place for each in validate_file(path, []).findings] == ["title", "schemaVersion", "panels"]


def test_dashboard_of_another_name_is_known_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**documents(DASHBOARD)[0], "panels": []}))
    assert [each.place for each in validate_file(path, []).findings] == ["panels"]


@pytest.mark.parametrize(
    "rule",
    [
        dropped("ray_node_.*"),
        {**dropped("ray_.*"), "action": "keep"},
        {**dropped("ray_.*"), "source_labels": ["job"]},
        {**dropped("(?^x)")},
        {"source_labels": ["__name__"], "regex": "ray_(.*)", "target_label": "short"},
    ],
)
def test_rule_that_leaves_hdrfleet_s_metrics_is_sound(rule: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text())
    assert found_in_copy(CONFIG, tmp_path, set_to([rule], *SCRAPE, "metric_relabel_configs")) == []


def test_other_targets_may_be_kept_to_what_they_have(tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text())
    kept = {**dropped("node_.*"), "action": "keep"}
    other = {"job_name": "x", "static_configs": [{"targets": ["a:1"]}], "metric_relabel_configs": [kept]}
    assert found_in_copy(CONFIG, tmp_path, appended(other, "scrape_configs")) == []


@pytest.mark.parametrize("name", ["prometheus.yml", "alert-rules.yml"])
def test_file_with_no_known_key_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("grops: []\n")
    assert "grops" in [each.place for each in validate_file(path, []).findings]


@pytest.mark.parametrize("expression", SOUND)
def test_expression_is_taken(expression: str) -> None:
    parse_expression(expression)


@pytest.mark.parametrize("expression", BROKEN, ids=lambda text: text[:20])
def test_expression_is_refused(expression: str) -> None:
    with pytest.raises(PromqlError) as refused:
        parse_expression(expression)
    assert BROKEN[expression] in str(refused.value)


def test_metrics_of_an_expression_are_named() -> None:
    assert metrics_of(parse_expression('sum by (a) (rate(b{c="d"}[5m])) / on(e) f')) == {"b", "f"}


@pytest.mark.parametrize("name", ["ray_hdrfleet_image_total", "hdrfleet_images_total"])
def test_alert_on_a_metric_that_is_not_there_is_told_with_the_one_that_was_meant(name: str, tmp_path: Path) -> None:
    (document,) = documents(RULES)
    rule: dict[str, Any] = document["groups"][0]["rules"][0]
    rule["expr"] = f"increase({name}[5m]) == 0"
    path = tmp_path / RULES.name
    path.write_text(json.dumps(document))
    (finding,) = validate_file(path, []).findings
    assert finding.message == (
        f"hdrfleet has no metric {name}, and so this never has a value; did you mean ray_hdrfleet_images_total?"
    )
