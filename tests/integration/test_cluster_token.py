"""A head that is started as `ray_cluster.yaml` says lets in whoever has the token, and nobody else."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_files import AWS, documents
from commands import environment, hdrfleet
from photographs import jpeg, picture
from ray_nodes import Cluster, running_cluster

# What belongs to this machine, and is given by the test itself.
REPLACED = ("--port", "--object-manager-port", "--autoscaling-config")
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--workers", "1", "--quiet")
WAIT_FOR_A_CORE = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while not ray.cluster_resources().get("CPU"):
    time.sleep(0.2)
print(sorted((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes()))
"""


def token_environment(folder: Path, token: str) -> dict[str, str]:
    """The environment that the file gives its containers, with the token where this machine has it."""
    path = folder / f"{token}.txt"
    path.write_text(token * 8)
    path.chmod(0o600)
    (config,) = documents(AWS)
    options = [option.split()[1] for option in config["docker"]["run_options"] if option.startswith("--env ")]
    given = dict(option.split("=", 1) for option in options)
    assert given.keys() >= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    return given | {"RAY_AUTH_TOKEN_PATH": str(path)}


def head_options() -> list[str]:
    """The options of `ray start` that the file gives its head."""
    (config,) = documents(AWS)
    (command,) = [each for each in config["head_start_ray_commands"] if "ray start" in each]
    words = shlex.split(command.partition("ray start --head")[2])
    options = [word for word in words if not word.startswith(REPLACED)]
    assert {"--dashboard-host=127.0.0.1", "--num-cpus=0", "--num-gpus=0"} == set(options)
    return options


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    right = token_environment(tmp_path, "right-token")
    with running_cluster(tmp_path, right, *head_options()) as cluster:
        cluster.nodes.append(cluster.start(f"--address={cluster.address}", "--num-cpus=1", "--num-gpus=0"))
        yield cluster, right


@pytest.mark.long
@pytest.mark.timeout(400)
def test_only_the_token_gets_in(guarded: tuple[Cluster, dict[str, str]], tmp_path: Path) -> None:
    cluster, right = guarded
    photos, home = tmp_path / "photos", tmp_path / "home"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(jpeg(picture(64, 48, seed=1)))
    waited = subprocess.run(
        [sys.executable, "-c", WAIT_FOR_A_CORE, cluster.address],
        env=environment(home, right),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert waited.stdout.split("\n")[0] == "[(0, 0), (1.0, 0)]", "the head offers what only workers should"

    for env in (token_environment(tmp_path, "wrong-token"), {}):
        refused = hdrfleet(
            *("convert", photos, tmp_path / "refused", *OPTIONS, "--address", cluster.address), home=home, env=env
        )
        assert refused.returncode == 2, refused.stderr
        assert "cannot use Ray at" in refused.stderr
        assert not list(tmp_path.glob("refused/images/*"))

    done = hdrfleet(
        *("convert", photos, tmp_path / "out", *OPTIONS, "--address", cluster.address), home=home, env=right
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("out/images/*")] == ["a.jpg.exr"]
