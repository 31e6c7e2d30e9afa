"""Ray on this machine: nobody else reaches it, and its token is its owner's alone."""

from __future__ import annotations

import ipaddress
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

# A session with a worker in it, and every address that one of its processes listens on.
SESSION = """
import json, os
import psutil, ray
from pipeline.config import ExecutionConfig
from pipeline.execution.ray_session import ray_session

@ray.remote
class Worker:
    def address(self):
        return ray.util.get_node_ip_address()

with ray_session(ExecutionConfig(executor="ray")):
    worker = Worker.remote()
    told = ray.get(worker.address.remote(), timeout=90)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        [process.name(), connection.laddr.ip]
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
print(json.dumps({"told": told, "listening": listening}))
"""


@pytest.mark.timeout(180)
def test_a_local_session_listens_on_loopback_alone_and_makes_a_private_token(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    del variables["RAY_AUTH_MODE"]  # as on a laptop where nobody thought of it
    run = subprocess.run(
        [sys.executable, "-c", SESSION], env=variables, capture_output=True, text=True, timeout=150, check=False
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    names = {name for name, _ in seen["listening"]}
    assert {"gcs_server", "raylet", "ray::Worker"} <= names
    beyond = [(name, ip) for name, ip in seen["listening"] if not is_loopback(ip)]
    assert beyond == []
    assert seen["told"] == "127.0.0.1"
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in run.stdout + run.stderr


def is_loopback(ip: str) -> bool:
    """Whether an address is loopback, also one of IPv4 in IPv6's form."""
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
