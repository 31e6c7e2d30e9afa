"""A Ray head whose real autoscaler (v2) starts and stops fake nodes: raylets on this machine, stopped by pid."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from commands import end
from servers.ports import free_ports
from servers.ray_head import named_after

_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
_START_TIMEOUT_S = 90
_IDLE_MINUTES = 0.25
_FAKE_NODES = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@dataclass(frozen=True)
class AutoscaledCluster:
    """`address` is host:port; `env` is what a client needs; `folder` names every process of the cluster."""

    address: str
    env: Mapping[str, str]
    folder: str

    def raylets(self) -> list[psutil.Process]:
        """Those of fake nodes, the oldest first; the head's own is not among them."""
        found = []
        for process in named_after(self.folder):
            with contextlib.suppress(psutil.Error):  # it may end while it is looked at
                if "raylet/raylet" in " ".join(process.cmdline()[:1]):
                    found.append((process.create_time(), process.pid, process))
        return [process for *_, process in sorted(found)[1:]]


@contextmanager
def autoscaled_cluster(
    home: Path,
    *,
    max_gpu_nodes: int = 3,
    has_spot: bool = True,
    max_nodes: int | None = None,
    gate: Path | None = None,
    node_env: Mapping[str, str] | None = None,
) -> Iterator[AutoscaledCluster]:
    """Start a head without GPUs, whose autoscaler adds up to `max_gpu_nodes` nodes of one core and one fake GPU.

    Without `has_spot`, the node types are those of a cloud that refuses every spot machine: `spot`, which Ray prefers,
    and `on-demand`, told apart by the label `market`. With `max_nodes` they are those two, neither refused, and so many
    nodes may be up at a time. With `gate`, no node comes before that file is there.
    `node_env` is in the environment of all nodes' workers.
    """
    from ray._private.services import get_node_ip_address

    home.mkdir(parents=True, exist_ok=True)
    address = f"{get_node_ip_address()}:{free_ports(1)[0]}"
    (home / "cluster.json").write_text(json.dumps(_config(address, max_gpu_nodes, has_spot, max_nodes, gate)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_NUM_"))}
    env = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
    }
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as short:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"),
            *(f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={home / 'cluster.json'}"),
            *("--num-cpus=2", "--num-gpus=0", "--object-store-memory=150000000", f"--temp-dir={short}"),
            "--disable-usage-stats",
        ]
        with (home / "head.log").open("wb") as log:
            path = os.pathsep.join([str(Path.cwd()), *sys.path])
            started = subprocess.Popen(
                command,
                env={**kept, **env, **(node_env or {}), "PYTHONPATH": path},
                cwd=home,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_up(address, started, home / "head.log")
            yield AutoscaledCluster(address, {"RAY_AUTH_MODE": "disabled"}, short)
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(20)
            end(named_after(short))


def _config(
    address: str, max_gpu_nodes: int, has_spot: bool, max_nodes: int | None, gate: Path | None
) -> dict[str, Any]:
    empty_lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
    commands = ("setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands")
    resources = {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000}
    gpu = {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": max_gpu_nodes}
    spot = gpu | {"priority": 40, "labels": {"market": "spot"}}
    on_demand = gpu | {"priority": 10, "labels": {"market": "on-demand"}}
    provider = _FAKE_NODES if gate is None else "servers.held_provider.HeldProvider"
    return {
        **{name: [] for name in (*empty_lists, *commands, "worker_start_ray_commands")},
        "cluster_name": "fake",
        "max_workers": max_nodes or 8,
        "idle_timeout_minutes": _IDLE_MINUTES,
        "upscaling_speed": 100.0,
        "provider": {
            "type": "external",
            "module": provider if has_spot else "servers.refusing_provider.RefusingProvider",
            "gate": str(gate),
            "refused_types": ["spot"],
            "head_node_id": _HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "auth": {"ssh_user": "x"},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            **({"gpu": gpu} if has_spot and max_nodes is None else {"spot": spot, "on-demand": on_demand}),
        },
        "head_node_type": "ray.head.default",
    }


def _wait_until_up(address: str, started: subprocess.Popen[bytes], log: Path) -> None:
    from ray._raylet import GcsClient

    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and started.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            GcsClient(address=address)  # raises where nothing answers
            return
        time.sleep(0.3)
    raise AssertionError(f"Ray's head did not start: {log.read_text(errors='replace')[-2000:]}")
