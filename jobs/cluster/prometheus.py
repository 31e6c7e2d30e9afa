"""Prometheus' configuration: names, required fields, durations, and the files that it reads beside itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster import prometheus_keys as known
from jobs.cluster.findings import Finding, at, listing, mapping, one_of, text_duration_s
from jobs.cluster.prometheus_relabel import check_relabelling
from jobs.cluster.ray_yaml import unknown_keys

_DURATIONS = frozenset(
    {"scrape_interval", "scrape_timeout", "evaluation_interval", "rule_query_offset", "refresh_interval"}
)
_TELLING = frozenset({"scrape_configs", "scrape_config_files", "rule_files", "remote_write", "remote_read"})
_FILE_NAME = re.compile(r"prometheus[\w.-]*\.ya?ml")
_TARGETS_FILE = re.compile(r".*\.(?:json|ya?ml)")
_PATTERN = re.compile(r"[*?\[]")
_DEFAULT_INTERVAL_S, _DEFAULT_TIMEOUT_S = 60.0, 10.0
_LISTS = ("rule_files", "scrape_config_files", "scrape_configs", "remote_write", "remote_read")
_SCHEMES = frozenset({"http", "https"})


def is_prometheus(document: Any, path: Path) -> bool:
    """Whether a document is Prometheus' configuration: by a key, or, where keys are misspelt, by its file's name."""
    keys = mapping(document).keys()
    return "apiVersion" not in keys and bool(keys & _TELLING or (keys and _FILE_NAME.fullmatch(path.name)))


def check_prometheus(config: dict[str, Any], folder: Path) -> Iterator[Finding]:
    """Yield what is wrong with a configuration that lies in `folder`."""
    yield from unknown_keys("", config, known.TOP)
    for key in _LISTS:
        if not isinstance(config.get(key, []), list | None):
            yield Finding(key, "wrong_type", f"must be a list, and is {config[key]!r}")
    whole = mapping(config.get("global"))
    yield from unknown_keys("global", whole, known.GLOBAL)
    yield from _check_durations("global", whole)
    yield from unknown_keys("alerting", mapping(config.get("alerting")), known.ALERTING)
    if not (config.get("scrape_configs") or config.get("scrape_config_files")):
        yield Finding("scrape_configs", "missing_key", "is not set: Prometheus would ask nobody for metrics")
    yield from _check_rule_files(listing(config.get("rule_files")), folder)
    names: set[str] = set()
    for index, scrape in enumerate(listing(config.get("scrape_configs"))):
        place = at("scrape_configs", index)
        yield from _check_scrape(place, mapping(scrape), whole)
        name = str(mapping(scrape).get("job_name"))
        if name in names:
            yield Finding(at(place, "job_name"), "not_unique", f"{name} is another job's, too; Prometheus refuses that")
        names.add(name)


def _check_rule_files(files: list[Any], folder: Path) -> Iterator[Finding]:
    for index, name in enumerate(files):
        if not isinstance(name, str):
            yield Finding(at("rule_files", index), "wrong_type", "must be the name of a file")
        elif not _PATTERN.search(name) and not Path(name).is_absolute() and not (folder / name).exists():
            yield Finding(at("rule_files", index), "missing_file", f"{name} is not there, beside this file")


def _check_scrape(place: str, scrape: dict[str, Any], whole: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys(place, scrape, known.SCRAPE_CONFIG)
    yield from _check_durations(place, scrape)
    if not isinstance(scrape.get("job_name"), str) or not scrape["job_name"]:
        yield Finding(at(place, "job_name"), "missing_key", "Prometheus needs it")
    interval_s = _first_s(_DEFAULT_INTERVAL_S, scrape.get("scrape_interval"), whole.get("scrape_interval"))
    timeout_s = _first_s(min(_DEFAULT_TIMEOUT_S, interval_s), scrape.get("scrape_timeout"), whole.get("scrape_timeout"))
    if timeout_s > interval_s:
        yield Finding(at(place, "scrape_timeout"), "unknown_value", f"{timeout_s:g} s are above scrape_interval")
    if "scheme" in scrape and not one_of(scrape["scheme"], _SCHEMES):
        yield Finding(at(place, "scheme"), "unknown_value", f"is {scrape['scheme']!r}; write http or https")
    if not any(scrape.get(name) for name in known.DISCOVERY):
        yield Finding(
            place, "missing_key", "says of no target where it is; write static_configs or one of ..._sd_configs"
        )
    for index, group in enumerate(map(mapping, listing(scrape.get("static_configs")))):
        yield from _check_targets(at(place, "static_configs", index), group)
    for index, group in enumerate(map(mapping, listing(scrape.get("file_sd_configs")))):
        yield from _check_target_files(at(place, "file_sd_configs", index), group)
    yield from check_relabelling(place, scrape)


def _check_targets(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys(place, group, known.STATIC)
    if not listing(group.get("targets")):
        yield Finding(at(place, "targets"), "missing_key", "is no list of HOST:PORT")
    for index, target in enumerate(listing(group.get("targets"))):
        if "/" in str(target):
            yield Finding(at(place, "targets", index), "unknown_value", f"{target} has a '/'; write HOST:PORT alone")


def _check_target_files(place: str, group: dict[str, Any]) -> Iterator[Finding]:
    yield from unknown_keys(place, group, known.FILES)
    yield from _check_durations(place, group)
    if not listing(group.get("files")):
        yield Finding(at(place, "files"), "missing_key", "is no list of files")
    for index, name in enumerate(listing(group.get("files"))):
        if not _TARGETS_FILE.fullmatch(str(name)):
            yield Finding(at(place, "files", index), "unknown_value", f"{name}: Prometheus reads .json, .yml and .yaml")


def _check_durations(place: str, values: dict[str, Any]) -> Iterator[Finding]:
    for key in sorted(values.keys() & _DURATIONS):
        yield from check_duration(at(place, key), values[key])


def check_duration(place: str, value: Any) -> Iterator[Finding]:
    """Yield a finding unless `value` is a duration as Prometheus writes them."""
    if text_duration_s(value) is None:
        yield Finding(place, "wrong_type", f"{value!r} is no duration; write a number with ms, s, m, h, d, w or y")


def _first_s(default: float, *values: Any) -> float:
    return next((found for value in values if (found := text_duration_s(value)) is not None), default)
