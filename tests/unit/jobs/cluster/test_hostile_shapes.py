"""Whatever stands where something else belongs, a check answers with findings and never with a crash."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from cluster_files import AWS, GCP, KUBERAY, OBSERVABILITY, TEMPLATE, documents
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.cluster.cloudformation import find_open
from jobs.cluster.dockerfile_rules import check_dockerfile
from jobs.cluster.grafana import check_dashboard
from jobs.cluster.kubernetes import check_kubernetes, is_kubernetes
from jobs.cluster.named_secrets import find_named
from jobs.cluster.prometheus import check_prometheus
from jobs.cluster.prometheus_rules import check_expression, check_rules
from jobs.cluster.ray_yaml import check_ray_cluster, is_ray_cluster
from jobs.cluster.secrets import find_shapes
from pipeline.errors import ConfigError

JUNK: list[Any] = [None, True, 7, -1, 0.5, "", "x", "0.0.0.0/0", [], ["x"], [None], [["x"]], {}, {"x": 1}]


def places(value: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, item in items for each in [(*keys, key), *places(item, (*keys, key))]]


def check(document: Any, folder: Path) -> None:
    if is_ray_cluster(document):
        check_ray_cluster(document)
    elif is_kubernetes(document):
        with contextlib.suppress(ConfigError):  # a patch of a file that is not there
            check_kubernetes([document], [], folder)
    elif isinstance(document, dict):
        list(find_open(document))
        list(check_prometheus(document, folder))
        list(check_rules(document))
        list(check_dashboard(document))
    list(find_named([document]))
    list(find_shapes("", [document]))


FILES = [AWS, GCP, TEMPLATE, *sorted(KUBERAY.glob("*.yaml")), *sorted(OBSERVABILITY.iterdir())]
PATCH = KUBERAY / "gcs-fault-tolerance.yaml"
NOWHERE = Path("/nowhere")  # with nothing beside the file: reading that takes longer than all checks
READ = {path: documents(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
@given(data=st.data())
@settings(max_examples=40)
def test_no_shape_makes_a_check_crash(path: Path, data: st.DataObject) -> None:
    for document in copy.deepcopy(READ[path]):
        for _ in range(2):
            keys = data.draw(st.sampled_from(places(document)))
            parent = document
            for key in keys[:-1]:
                parent = parent[key]
            parent[keys[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
        check(document, path.parent if path == PATCH else NOWHERE)


@pytest.mark.parametrize("junk", JUNK, ids=repr)
@pytest.mark.parametrize("key", ["SpotInstanceType", "InstanceInterruptionBehavior"])
def test_no_shape_of_a_spot_option_makes_the_check_crash(key: str, junk: Any) -> None:
    """Two draws of hundreds seldom meet these."""
    (document,) = copy.deepcopy(READ[AWS])
    types = document["available_node_types"].values()
    (spot, *_) = [each["node_config"] for each in types if "InstanceMarketOptions" in each["node_config"]]
    spot["InstanceMarketOptions"]["SpotOptions"][key] = junk
    check(document, NOWHERE)


@given(st.text(st.sampled_from("sumrate by (up{a=~'b'}[5m:]) offset @ 1 + ^ or \"#$\\"), max_size=60))
def test_no_text_makes_the_expressions_crash(text: str) -> None:
    list(check_expression("", text))
    list(check_expression("", text * 20))


@given(st.text(st.sampled_from("FROMRUNUSER abc:@$={}\\#\n\"'/.1"), max_size=200))
def test_no_text_makes_the_dockerfile_rules_crash(text: str) -> None:
    check_dockerfile(text)
