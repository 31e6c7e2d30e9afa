"""Broken copies of the launcher's files: what containers get of their machine, who joins, spot and on demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster_files import AWS, GCP, Break, appended, found_in_copy, set_to

TYPES = "available_node_types"
L4 = (TYPES, "gpu_l4_spot")
OPTIONS = ("docker", "run_options")
LAST_OPTION = "docker.run_options[7]"

FAULTS: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "the whole machine mounted": ([appended("-v /:/host", *OPTIONS)], (LAST_OPTION, "host_access")),
    "the whole machine mounted to be read": (
        [appended("--volume=//:/host:ro", *OPTIONS)],
        (LAST_OPTION, "host_access"),
    ),
    "settings of the machine mounted": (
        [appended("--mount type=bind,source=/etc/../etc/ssh,target=/x", *OPTIONS)],
        (LAST_OPTION, "host_access"),
    ),
    "sockets of the machine mounted": ([appended("-v/run/containerd:/x", *OPTIONS)], (LAST_OPTION, "host_access")),
    "keys of the machine's user mounted": ([appended("-v ~/.ssh:/x", *OPTIONS)], (LAST_OPTION, "host_access")),
    "mount that is two entries": (
        [appended("-v", *OPTIONS), appended("/:/host", *OPTIONS)],
        (LAST_OPTION, "host_access"),
    ),
    "processes of the machine": ([appended("--pid=host", *OPTIONS)], (LAST_OPTION, "host_access")),
    "memory of the machine": ([appended("--ipc host", *OPTIONS)], (LAST_OPTION, "host_access")),
    "users of the machine": ([appended("--userns=host", *OPTIONS)], (LAST_OPTION, "host_access")),
    "root by name": ([appended("--user root", *OPTIONS)], (LAST_OPTION, "root_user")),
    "root by number": ([appended("-u 0", *OPTIONS)], (LAST_OPTION, "root_user")),
    "root in one word": ([appended("-u0:0", *OPTIONS)], (LAST_OPTION, "root_user")),
    "worker that does not start Ray": (
        [set_to(["ray stop"], "worker_start_ray_commands")],
        ("worker_start_ray_commands", "no_join"),
    ),
    "worker that joins nobody": (
        [set_to(["ray start --num-cpus=1"], "worker_start_ray_commands")],
        ("worker_start_ray_commands[0]", "no_join"),
    ),
    "worker that joins what is not set": (
        [set_to(["ray start --address=$HEAD:6379"], "worker_start_ray_commands")],
        ("worker_start_ray_commands[0]", "no_join"),
    ),
    "worker that is a head": (
        [set_to(["ray start --head --address=$RAY_HEAD_IP:6379"], "worker_start_ray_commands")],
        ("worker_start_ray_commands[0]", "no_join"),
    ),
    "worker on another port": (
        [set_to(["ray start --address=$RAY_HEAD_IP:6380"], "worker_start_ray_commands")],
        ("worker_start_ray_commands[0]", "no_join"),
    ),
    "head on another port": (
        [set_to(["ray start --head --port 6380 --autoscaling-config=x"], "head_start_ray_commands")],
        ("worker_start_ray_commands[1]", "no_join"),
    ),
    "head that is none": (
        [set_to(["ray start --port=6379 --autoscaling-config=x"], "head_start_ray_commands")],
        ("head_start_ray_commands[0]", "no_join"),
    ),
    "head that never ends its command": (
        [set_to(["ray start --head --block --port=6379 --autoscaling-config=x; true"], "head_start_ray_commands")],
        ("head_start_ray_commands[0]", "never_ready"),
    ),
    "worker that never ends its command": (
        [set_to("ray start --address=$RAY_HEAD_IP:6379 --block > x 2>&1", "worker_start_ray_commands", 1)],
        ("worker_start_ray_commands[1]", "never_ready"),
    ),
    "GPUs that Docker keeps to itself": (
        [set_to(True, "docker", "disable_automatic_runtime_detection")],
        ("docker.disable_automatic_runtime_detection", "gpu_unsatisfiable"),
    ),
    "agent that drains at once": (
        [appended("hdrfleet node-agent --now", "worker_start_ray_commands")],
        ("worker_start_ray_commands[3]", "no_node_agent"),
    ),
    "agent for another cloud": (
        [appended("hdrfleet node-agent --cloud azure", "worker_start_ray_commands")],
        ("worker_start_ray_commands[3]", "no_node_agent"),
    ),
    "label of a market that it is not": (
        [set_to("on-demand", *L4, "labels", "hdrfleet-market")],
        (f"{TYPES}.gpu_l4_spot.labels.hdrfleet-market", "market"),
    ),
    "label of spot on demand": (
        [set_to("spot", TYPES, "gpu_l4_on_demand", "labels", "hdrfleet-market")],
        (f"{TYPES}.gpu_l4_on_demand.labels.hdrfleet-market", "market"),
    ),
    "label of no market": (
        [set_to("sopt", *L4, "labels", "hdrfleet-market")],
        (f"{TYPES}.gpu_l4_spot.labels.hdrfleet-market", "unknown_value"),
    ),
    "label under a wrong key": (
        [set_to("spot", *L4, "labels", "hdrfleet-markt")],
        (f"{TYPES}.gpu_l4_spot.labels.hdrfleet-markt", "unknown_key"),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
def test_fault_is_found_at_its_place(name: str, path: Path, tmp_path: Path) -> None:
    breaks, expected = FAULTS[name]
    assert expected in found_in_copy(path, tmp_path, *breaks)


def test_mount_of_a_folder_of_its_own_is_sound(tmp_path: Path) -> None:
    options = ["-v /mnt/nvme:/scratch", "--mount type=volume,source=cache,target=/c", "-v cache:/c", "--user 1000"]
    assert found_in_copy(AWS, tmp_path, *[appended(option, *OPTIONS) for option in options]) == []


def test_start_that_is_left_behind_is_sound(tmp_path: Path) -> None:
    start = "ray start --address=$RAY_HEAD_IP:6379 --block > /tmp/x 2>&1 &"
    assert found_in_copy(AWS, tmp_path, set_to(start, "worker_start_ray_commands", 1)) == []


@pytest.mark.parametrize("where", ["run_options", "worker_run_options"])
@pytest.mark.parametrize("option", ["--gpus all", "--gpus=all", "--runtime=nvidia"])
def test_gpus_that_docker_is_told_of_are_sound(option: str, where: str, tmp_path: Path) -> None:
    told = set_to(True, "docker", "disable_automatic_runtime_detection")
    given = appended(option, *OPTIONS) if where == "run_options" else set_to([option], "docker", where)
    assert found_in_copy(AWS, tmp_path, told, given) == []


def test_other_ports_on_both_sides_are_sound(tmp_path: Path) -> None:
    def renumbered(document: Any) -> None:
        for part in ("head", "worker"):
            commands = document[f"{part}_start_ray_commands"]
            document[f"{part}_start_ray_commands"] = [each.replace("6379", "6380") for each in commands]

    assert found_in_copy(AWS, tmp_path, renumbered) == []


def test_template_of_the_cloud_may_say_the_market(tmp_path: Path) -> None:
    def by_template(document: Any) -> None:
        node = document[TYPES]["gpu_l4_spot"]["node_config"]
        node["LaunchTemplate"] = {"LaunchTemplateId": "lt-1"}
        del node["InstanceMarketOptions"]

    assert found_in_copy(AWS, tmp_path, by_template) == []
