"""Broken copies of the files for Ray's launcher: each fault is found, at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster_files import AWS, GCP, Break, appended, broken_copy, documents, found_in_copy, set_to, without

from jobs.cluster.ray_accelerators import built_in_model, check_accelerators
from jobs.cluster.validate import validate_file

TYPES = "available_node_types"
L4 = (TYPES, "gpu_l4_spot")
NODE = (*L4, "node_config")
OPTIONS = ("docker", "run_options")
LAST_OPTION = "docker.run_options[7]"
SPOT_NODE = f"{TYPES}.gpu_l4_spot.node_config"


def before_ray_starts(text: str) -> Break:
    """A break that puts text ahead of `ray start` on the head, in the same command."""

    def apply(document: Any) -> None:
        commands = document["head_start_ray_commands"]
        commands[1] = commands[1].replace("ray start", f"{text} ray start")

    return apply


BOTH: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "label of another accelerator": (
        [set_to("A100", *L4, "labels", "ray.io/accelerator-type")],
        (f'{TYPES}.gpu_l4_spot.labels["ray.io/accelerator-type"]', "accelerator_type"),
    ),
    "wrong key": ([set_to(5, "idle_timeout_minute")], ("idle_timeout_minute", "unknown_key")),
    "wrong key of a node type": ([set_to(1, *L4, "max_worker")], (f"{TYPES}.gpu_l4_spot.max_worker", "unknown_key")),
    "wrong type": ([set_to("many", "max_workers")], ("max_workers", "ray_schema")),
    "wrong provider key": ([set_to("x", "provider", "regoin")], ("provider.regoin", "unknown_key")),
    "on demand before spot": (
        [set_to(41, TYPES, "gpu_l4_on_demand", "priority")],
        (f"{TYPES}.gpu_l4_on_demand.priority", "market"),
    ),
    "nodes that are stopped and not ended": (
        [set_to(True, "provider", "cache_stopped_nodes")],
        ("provider.cache_stopped_nodes", "nodes_stay"),
    ),
    "head type that is not there": ([set_to("heads", "head_node_type")], ("", "ray_refuses")),
    "head with a GPU": ([set_to(1, TYPES, "head", "resources", "GPU")], (f"{TYPES}.head.resources.GPU", "head_gpu")),
    "head that says nothing": ([set_to({}, TYPES, "head", "resources")], (f"{TYPES}.head.resources.CPU", "head_cpu")),
    "head started with CPUs": (
        [set_to(["ray start --head --num-cpus=8 --autoscaling-config=x"], "head_start_ray_commands")],
        ("head_start_ray_commands[0]", "head_cpu"),
    ),
    "heads as workers": ([set_to(2, TYPES, "head", "max_workers")], (f"{TYPES}.head.max_workers", "head_as_worker")),
    "more of one type than of all": (
        [set_to(99, *L4, "max_workers")],
        (f"{TYPES}.gpu_l4_spot.max_workers", "max_workers"),
    ),
    "lowest above highest": ([set_to(17, *L4, "min_workers")], (f"{TYPES}.gpu_l4_spot.min_workers", "max_workers")),
    "unsatisfiable GPU": (
        [set_to(4, *L4, "resources", "GPU")],
        (f"{TYPES}.gpu_l4_spot.resources.GPU", "gpu_unsatisfiable"),
    ),
    "GPU that is not offered": (
        [set_to(0, *L4, "resources", "GPU")],
        (f"{TYPES}.gpu_l4_spot.resources.GPU", "gpu_unsatisfiable"),
    ),
    "no CPU beside the GPU": (
        [set_to(0, *L4, "resources", "CPU")],
        (f"{TYPES}.gpu_l4_spot.resources.CPU", "cpu_unsatisfiable"),
    ),
    "public dashboard": (
        [set_to(["ray start --head --autoscaling-config=x --dashboard-host=0.0.0.0"], "head_start_ray_commands")],
        ("head_start_ray_commands[0]", "public_dashboard"),
    ),
    "Ray's own start command": (
        [without("head_start_ray_commands")],
        ("head_start_ray_commands[1]", "public_dashboard"),
    ),
    "every address": (
        [appended("ray start --address=x --node-ip-address=0.0.0.0", "worker_start_ray_commands")],
        ("worker_start_ray_commands[3]", "public_port"),
    ),
    "published port without a space": (
        [appended("-p8265:8265", *OPTIONS)],
        ("docker.run_options[7]", "public_port"),
    ),
    "published port behind a quote": (
        [appended("-p'8265:8265'", *OPTIONS)],
        ("docker.run_options[7]", "public_port"),
    ),
    "published port in long": (
        [appended("--publish=8265:8265", *OPTIONS)],
        ("docker.run_options[7]", "public_port"),
    ),
    "published port in long with a space": (
        [appended("--publish 8265:8265", *OPTIONS)],
        ("docker.run_options[7]", "public_port"),
    ),
    "all ports published": ([appended("--publish-all", *OPTIONS)], ("docker.run_options[7]", "public_port")),
    "rights in one word": ([appended("--cap-add=ALL", *OPTIONS)], ("docker.run_options[7]", "privileged")),
    "published port behind other options": (
        [appended("-itp 8265:8265", *OPTIONS)],
        ("docker.run_options[7]", "public_port"),
    ),
    "more rights": ([appended("--cap-add SYS_ADMIN", *OPTIONS)], ("docker.run_options[7]", "privileged")),
    "every system call": (
        [appended("--security-opt seccomp=unconfined", *OPTIONS)],
        ("docker.run_options[7]", "privileged"),
    ),
    "rights of root": ([without(*OPTIONS, 3)], ("docker.run_options", "privileged")),
    "token that is empty": ([set_to("--env RAY_AUTH_MODE=", *OPTIONS, 0)], ("docker.run_options", "no_token")),
    "token as the host has it": ([set_to("--env RAY_AUTH_MODE", *OPTIONS, 0)], ("docker.run_options", "no_token")),
    "token that is emptied": ([before_ray_starts("export RAY_AUTH_MODE=;")], ("docker.run_options", "no_token")),
    "token that is taken back": ([before_ray_starts("unset RAY_AUTH_MODE;")], ("docker.run_options", "no_token")),
    "token that is left out": ([before_ray_starts("env -u RAY_AUTH_MODE")], ("docker.run_options", "no_token")),
    "token that comes too late": (
        [
            before_ray_starts("export RAY_AUTH_MODE=''; true &&"),
            appended("export RAY_AUTH_MODE=token", "head_start_ray_commands"),
        ],
        ("docker.run_options", "no_token"),
    ),
    "open version in set-up": (
        [appended("pip install -U ray", "setup_commands")],
        ("setup_commands[0]", "unpinned_packages"),
    ),
    "open version on the machine": (
        [appended("python3 -m pip install 'ray[default]>=2.40'", "initialization_commands")],
        ("initialization_commands[1]", "unpinned_packages"),
    ),
    "open version on the head": (
        [appended("pip3 install hdrfleet", "head_setup_commands")],
        ("head_setup_commands[0]", "unpinned_packages"),
    ),
    "open version on workers": (
        [appended("pip install -U ray", "worker_setup_commands")],
        ("worker_setup_commands[0]", "unpinned_packages"),
    ),
    "open version at the start": (
        [appended("pip install -U ray", "worker_start_ray_commands")],
        ("worker_start_ray_commands[3]", "unpinned_packages"),
    ),
    "published port": ([appended("-p 8265:8265", *OPTIONS)], ("docker.run_options[7]", "public_port")),
    "privileged container": ([appended("--privileged", *OPTIONS)], ("docker.run_options[7]", "privileged")),
    "no token": ([set_to("--env RAY_AUTH_MODE=disabled", *OPTIONS, 0)], ("docker.run_options", "no_token")),
    "token not said": ([without(*OPTIONS, 0)], ("docker.run_options", "no_token")),
    "token that is not brought": ([set_to({}, "file_mounts")], ("file_mounts", "no_token")),
    "token in the file": (
        [appended("--env RAY_AUTH_TOKEN=0123456789abcdef", *OPTIONS)],
        ("docker.run_options[7]", "secret"),
    ),
    "no autoscaler": (
        [set_to(["ray start --head"], "head_start_ray_commands")],
        ("head_start_ray_commands", "no_autoscaler"),
    ),
    "autoscaler v1": (
        [appended("export RAY_enable_autoscaler_v2=0", "head_start_ray_commands")],
        ("head_start_ray_commands[2]", "autoscaler_v1"),
    ),
    "spot nodes without an agent": (
        [without("worker_start_ray_commands", 2)],
        ("worker_start_ray_commands", "no_node_agent"),
    ),
    "latest image": (
        [set_to("registry.example.com/hdrfleet:latest", "docker", "image")],
        ("docker.image", "image_unpinned"),
    ),
    "no tag": ([set_to("registry.example.com:5000/hdrfleet", "docker", "image")], ("docker.image", "image_unpinned")),
    "image of another release": (
        [set_to("registry.example.com/hdrfleet:9.9.9", "docker", "image")],
        ("docker.image", "image_version"),
    ),
    "image with another Ray": (
        [set_to("rayproject/ray:2.9.0-gpu", "docker", "image")],
        ("docker.image", "ray_version"),
    ),
    "broken digest": (
        [set_to("r.example.com/hdrfleet:0.1.0@sha256:12", "docker", "image")],
        ("docker.image", "image_digest"),
    ),
    "another Ray installed": (
        [appended("pip install -U 'ray[default]==2.9.0'", "setup_commands")],
        ("setup_commands[0]", "ray_version"),
    ),
    "Ray's own set-up": ([without("setup_commands")], ("setup_commands[1]", "ray_version")),
    "another hdrfleet installed": (
        [appended("pip install hdrfleet==9.9.9", "worker_setup_commands")],
        ("worker_setup_commands[0]", "package_version"),
    ),
    "AWS key": ([appended("export X=AKIAABCDEFGHIJKLMNOP", "setup_commands")], ("setup_commands[0]", "secret")),
    "private key": (
        [set_to("-----BEGIN OPENSSH PRIVATE KEY-----\nabc", "auth", "ssh_user")],
        ("auth.ssh_user", "secret"),
    ),
}

HEAD_NODE = (TYPES, "head", "node_config")
ON_AWS: dict[str, tuple[list[Break], tuple[str, str]]] = {
    "head on spot": (
        [set_to({"MarketType": "spot"}, *HEAD_NODE, "InstanceMarketOptions")],
        (f"{TYPES}.head.node_config", "head_on_spot"),
    ),
    "label of spot without spot": (
        [without(*NODE, "InstanceMarketOptions")],
        (f"{TYPES}.gpu_l4_spot.labels.hdrfleet-market", "market"),
    ),
    "no metadata": (
        [set_to("disabled", *NODE, "MetadataOptions", "HttpEndpoint")],
        (f"{TYPES}.gpu_l4_spot.node_config.MetadataOptions.HttpEndpoint", "no_metadata"),
    ),
    "spot machine that comes back": (
        [set_to("persistent", *NODE, "InstanceMarketOptions", "SpotOptions", "SpotInstanceType")],
        (f"{TYPES}.gpu_l4_spot.node_config.InstanceMarketOptions.SpotOptions.SpotInstanceType", "spot_returns"),
    ),
    "spot machine that is stopped": (
        [set_to("stop", *NODE, "InstanceMarketOptions", "SpotOptions", "InstanceInterruptionBehavior")],
        (
            f"{TYPES}.gpu_l4_spot.node_config.InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
            "spot_returns",
        ),
    ),
    "another machine": (
        [set_to("g4dn.2xlarge", *NODE, "InstanceType")],
        (f'{TYPES}.gpu_l4_spot.resources["accelerator_type:L4"]', "accelerator_type"),
    ),
    "wrong key of EC2": (
        [set_to("x", *NODE, "InstanceTyp")],
        (f"{TYPES}.gpu_l4_spot.node_config.InstanceTyp", "unknown_key"),
    ),
    "wrong key below": (
        [set_to("required", *NODE, "MetadataOptions", "HttpToken")],
        (f"{TYPES}.gpu_l4_spot.node_config.MetadataOptions.HttpToken", "unknown_key"),
    ),
    "wrong type of EC2": (
        [set_to("sg-1", *NODE, "SecurityGroupIds")],
        (f"{TYPES}.gpu_l4_spot.node_config.SecurityGroupIds", "wrong_type"),
    ),
    "machine that is not there": (
        [set_to("g6.2xlrge", *NODE, "InstanceType")],
        (f"{TYPES}.gpu_l4_spot.node_config.InstanceType", "unknown_value"),
    ),
    "machine without a GPU": (
        [set_to("m7i.2xlarge", *NODE, "InstanceType")],
        (f"{TYPES}.gpu_l4_spot.resources.GPU", "gpu_unsatisfiable"),
    ),
    "IMDSv1": (
        [set_to("optional", *NODE, "MetadataOptions", "HttpTokens")],
        (f"{TYPES}.gpu_l4_spot.node_config.MetadataOptions.HttpTokens", "imdsv2"),
    ),
    "IMDSv1 by silence": (
        [without(*NODE, "MetadataOptions")],
        (f"{TYPES}.gpu_l4_spot.node_config.MetadataOptions.HttpTokens", "imdsv2"),
    ),
    "too many hops": (
        [set_to(64, *NODE, "MetadataOptions", "HttpPutResponseHopLimit")],
        (f"{TYPES}.gpu_l4_spot.node_config.MetadataOptions.HttpPutResponseHopLimit", "imdsv2"),
    ),
    "Ray's security group": (
        [without(*NODE, "SecurityGroupIds")],
        (f"{TYPES}.gpu_l4_spot.node_config.SecurityGroupIds", "open_security_group"),
    ),
    "open security group": (
        [set_to({"IpPermissions": [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]}, "provider", "security_group")],
        ("provider.security_group.IpPermissions[0].IpRanges[0].CidrIp", "open_security_group"),
    ),
    "open by IPv6": (
        [set_to({"IpPermissions": [{"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]}, "provider", "security_group")],
        ("provider.security_group.IpPermissions[0].Ipv6Ranges[0].CidrIpv6", "open_security_group"),
    ),
    "Ray's role": (
        [without(*NODE, "IamInstanceProfile")],
        (f"{TYPES}.gpu_l4_spot.node_config.IamInstanceProfile", "broad_role"),
    ),
    "nodes that Ray stops by default": (
        [without("provider", "cache_stopped_nodes")],
        ("provider.cache_stopped_nodes", "nodes_stay"),
    ),
    "keys of AWS": (
        [set_to({"aws_access_key_id": "x"}, "provider", "aws_credentials")],
        ("provider.aws_credentials", "secret"),
    ),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
def test_fault_is_found_at_its_place(name: str, path: Path, tmp_path: Path) -> None:
    breaks, expected = BOTH[name]
    assert expected in found_in_copy(path, tmp_path, *breaks)


@pytest.mark.parametrize("name", ON_AWS)
def test_fault_on_aws_is_found_at_its_place(name: str, tmp_path: Path) -> None:
    breaks, expected = ON_AWS[name]
    assert expected in found_in_copy(AWS, tmp_path, *breaks)


def test_copy_without_a_fault_is_sound(tmp_path: Path) -> None:
    assert found_in_copy(AWS, tmp_path) == found_in_copy(GCP, tmp_path) == []


@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
def test_nodes_that_stay_without_work_are_a_note(path: Path, tmp_path: Path) -> None:
    report = validate_file(broken_copy(path, tmp_path, set_to(2, *L4, "min_workers")), [])
    assert report.findings == ()
    assert f"{TYPES}.gpu_l4_spot.min_workers: is 2: so many nodes are there, and cost" in " ".join(report.notes)
    assert "min_workers" not in " ".join(validate_file(path, []).notes)


@pytest.mark.parametrize(
    "apply",
    [
        set_to(40, TYPES, "gpu_l4_on_demand", "priority"),  # as the spot type: Ray chooses by what fits better
        set_to(39, TYPES, "gpu_a10g_on_demand", "resources", "accelerator_type:L4"),
    ],
)
def test_order_that_is_not_said_or_keeps_spot_first_is_sound(apply: Break, tmp_path: Path) -> None:
    found = found_in_copy(AWS, tmp_path, apply)
    assert [each for each in found if each[1] == "market"] == []


def test_stopped_nodes_are_kept_by_default_where_ray_keeps_them(tmp_path: Path) -> None:
    """AWS is refused by silence above, Google Cloud is not: as the two providers of the installed Ray have it."""
    import ray.autoscaler

    of_clouds = Path(ray.autoscaler.__file__).parent / "_private"
    for cloud, default in (("aws", True), ("gcp", False)):  # read, not imported: Google's needs Google's client
        source = (of_clouds / cloud / "node_provider.py").read_text()
        assert f'.get("cache_stopped_nodes", {default})' in source
    assert found_in_copy(GCP, tmp_path, without("provider", "cache_stopped_nodes")) == []


def test_cluster_without_any_gpu_is_refused(tmp_path: Path) -> None:
    def no_gpus(config: Any) -> None:
        config[TYPES] = {"head": config[TYPES]["head"]}

    assert found_in_copy(AWS, tmp_path, no_gpus) == [(TYPES, "gpu_unsatisfiable")]


def test_type_that_may_never_start_is_no_gpu(tmp_path: Path) -> None:
    def never(config: Any) -> None:
        for each in config[TYPES].values():
            each["max_workers"] = 0

    assert found_in_copy(AWS, tmp_path, never) == [(TYPES, "gpu_unsatisfiable")]


def test_digest_beside_the_tag_is_sound(tmp_path: Path) -> None:
    image = documents(AWS)[0]["docker"]["image"] + "@sha256:" + "0" * 64
    assert found_in_copy(AWS, tmp_path, set_to(image, "docker", "image")) == []


def test_what_only_looks_like_a_fault_is_no_finding(tmp_path: Path) -> None:
    from importlib.metadata import version

    harmless = [
        f"pip install 'ray[default]=={version('ray')}'",
        "pip install /tmp/mine-1.0-py3-none-any.whl",
        "echo 10.0.0.0.0 ::1 std::vector",
    ]
    assert found_in_copy(AWS, tmp_path, *[appended(command, "setup_commands") for command in harmless]) == []


@pytest.mark.parametrize("option", ["-p 127.0.0.1:8265:8265", "--publish='[::1]:8265:8265/tcp'", "-p127.0.0.1::8265"])
def test_port_that_the_node_alone_reaches_is_no_finding(option: str, tmp_path: Path) -> None:
    assert found_in_copy(AWS, tmp_path, appended(option, *OPTIONS)) == []
    both = found_in_copy(AWS, tmp_path, appended(f"{option} -p 8265:8265", *OPTIONS))
    assert both == [("docker.run_options[7]", "public_port")]


@pytest.mark.parametrize("option", ["-e RAY_AUTH_MODE=token", "-eRAY_AUTH_MODE=token", "--env=RAY_AUTH_MODE='token'"])
def test_token_is_seen_however_docker_is_told(option: str, tmp_path: Path) -> None:
    assert found_in_copy(AWS, tmp_path, set_to(option, *OPTIONS, 0)) == []


def test_token_by_a_file_of_variables_is_seen(tmp_path: Path) -> None:
    breaks = [
        set_to(["--env-file $HOME/.ray.env", "--cap-drop=ALL"], *OPTIONS),
        appended("echo RAY_AUTH_MODE=token >> ~/.ray.env", "initialization_commands"),
    ]
    mounted = set_to({"/home/hdrfleet/.ray/auth_token": "~/.ray/auth_token"}, "file_mounts")
    assert found_in_copy(AWS, tmp_path, *breaks, mounted) == []
    assert {code for _, code in found_in_copy(AWS, tmp_path, *breaks)} == {"no_token"}
    assert {
        code for _, code in found_in_copy(AWS, tmp_path, mounted, breaks[1], set_to(["--cap-drop=all"], *OPTIONS))
    } == {"no_token"}


@pytest.mark.parametrize("key", ["cluster_name", "provider"])
def test_cluster_file_that_lacks_a_key_is_still_one(key: str, tmp_path: Path) -> None:
    assert found_in_copy(AWS, tmp_path, without(key)) == [("", "ray_schema")]


def test_ec2_shapes_agree_with_botocores_own_validator() -> None:
    from botocore.validate import ParamValidator

    from jobs.cluster.aws_nodes import _run_instances, check_shape

    (config,) = documents(AWS)
    node = config[TYPES]["gpu_l4_spot"]["node_config"]
    cases: list[dict[str, Any]] = [
        {},
        {"Nope": 1},
        {"MetadataOptions": {"HttpTokns": "required"}},
        {"MetadataOptions": []},
        {"MetadataOptions": {"HttpPutResponseHopLimit": "1"}},
        {"SecurityGroupIds": [1]},
        {"EbsOptimized": "yes"},
        {"BlockDeviceMappings": [{"Ebs": {"VolumeSize": 1, "Size": 2}}]},
        {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": 1}]}]},
    ]
    for case in cases:
        asked = {**node, **case}
        report = ParamValidator().validate({**asked, "MinCount": 1, "MaxCount": 1}, _run_instances())
        assert bool(list(check_shape("", asked, _run_instances()))) == report.has_errors(), case


def test_nodes_that_nobody_takes_back_need_no_agent(tmp_path: Path) -> None:
    def on_demand(document: Any) -> None:
        for node_type in document[TYPES].values():
            node_type["node_config"].pop("InstanceMarketOptions", None)
            node_type["labels"]["hdrfleet-market"] = "on-demand"
        del document["worker_start_ray_commands"][2]

    assert found_in_copy(AWS, tmp_path, on_demand) == []


@pytest.mark.parametrize(
    ("provider", "node", "model"),
    [
        ("aws", {"InstanceType": "g6.2xlarge"}, "L4"),
        ("aws", {"InstanceType": "p4de.24xlarge"}, "A100"),
        ("aws", {"InstanceType": "m7i.xlarge"}, None),
        ("aws", {}, None),
        ("gcp", {"machineType": "zones/z/machineTypes/g2-standard-8"}, "L4"),
        ("gcp", {"machineType": "a3-ultragpu-8g"}, "H200"),
        ("gcp", {"machineType": "a3-highgpu-8g"}, "H100"),
        (
            "gcp",
            {"machineType": "n1-standard-8", "guestAccelerators": [{"acceleratorType": "x/nvidia-tesla-t4"}]},
            "T4",
        ),
        ("gcp", {"machineType": "n1-standard-8", "guestAccelerators": [{"acceleratorType": 4}]}, None),
        ("azure", {"machineType": "g2-standard-8"}, None),
    ],
)
def test_models_go_by_ray_s_names(provider: str, node: dict[str, Any], model: str | None) -> None:
    from ray.util.accelerators import accelerators

    assert built_in_model(provider, node) == model
    assert model is None or model in vars(accelerators).values()


def test_a_longer_name_of_the_same_model_is_no_fault() -> None:
    node = {"InstanceType": "p4d.24xlarge"}
    types = {"big": {"resources": {"accelerator_type:A100-40G": 1}, "node_config": node}}
    assert list(check_accelerators({"provider": {"type": "aws"}, "available_node_types": types})) == []
