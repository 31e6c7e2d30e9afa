"""The labels that Prometheus adds to what it scrapes, as the configurations in a folder have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.cluster.documents import documents_in
from jobs.cluster.findings import listing, mapping, reach
from jobs.cluster.prometheus import is_prometheus
from jobs.cluster.prometheus_relabel import LIST_OF_RAY

_RULES = ("relabel_configs", "metric_relabel_configs")
_TELLS_ALL = frozenset({"static_configs", "file_sd_configs", *_RULES})


def labels_added(folder: Path) -> frozenset[str] | None:
    """The labels that the configurations in a folder add; None where there is none, or one may add any."""
    found: set[str] = set()
    configs = [each for path, each in documents_in(folder) if is_prometheus(each, path) and "groups" not in each]
    for config in configs:
        found |= mapping(reach(config, "global", "external_labels")).keys()
        for scrape in map(mapping, listing(config.get("scrape_configs"))):
            if _may_add_any(scrape):
                return None
            found |= _labels_of(scrape)
    is_told = bool(configs) and not any(config.get("scrape_config_files") for config in configs)
    return frozenset(found) if is_told else None


def _may_add_any(scrape: dict[str, Any]) -> bool:
    """Whether labels come from what is not in the file: labelmap, other lists of targets, services that are asked."""
    for name in _RULES:
        if any(mapping(each).get("action") == "labelmap" for each in listing(scrape.get(name))):
            return True
    files = [
        str(name) for each in listing(scrape.get("file_sd_configs")) for name in listing(mapping(each).get("files"))
    ]
    is_asked = any(key.endswith("_sd_configs") and key not in _TELLS_ALL for key in scrape)
    return is_asked or any(Path(name).name != LIST_OF_RAY for name in files)  # which holds the label job alone


def _labels_of(scrape: dict[str, Any]) -> set[str]:
    found = {str(mapping(each).get("target_label")) for name in _RULES for each in listing(scrape.get(name))}
    for group in listing(scrape.get("static_configs")):
        found |= mapping(mapping(group).get("labels")).keys()
    return found
