"""A real Ray head with its job server, token authentication on, on loopback and random ports; stopped by pid."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from commands import end
from servers.ports import free_ports

_START_TIMEOUT_S = 90
_DASHBOARD = ("--dashboard-host=127.0.0.1", "--include-dashboard=true", "--disable-usage-stats")


@dataclass(frozen=True)
class RayHead:
    """`url` is the job server's, `env` what a client of it needs in its environment, `session` where Ray writes."""

    url: str
    token: str
    process: psutil.Process
    env: Mapping[str, str]
    session: Path


@contextmanager
def ray_head(home: Path, env: Mapping[str, str], *, num_cpus: int = 2) -> Iterator[RayHead]:
    """Start a head whose jobs inherit `env`, and end it with everything below it."""
    home.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(32)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_NUM_", "AWS_"))}
    client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    port, dashboard, agent, ray_client = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as short:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *_DASHBOARD),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}"),
            f"--dashboard-agent-listen-port={agent}",  # jobs are started there; the default is one for all of a machine
            *(f"--ray-client-server-port={ray_client}", f"--num-cpus={num_cpus}", "--num-gpus=0"),
            *("--object-store-memory=150000000", f"--temp-dir={short}"),
        ]
        with (home / "head.log").open("wb") as log:
            started = subprocess.Popen(
                command,
                env={**kept, **client, **env, "HOME": str(home), "PATH": path},
                cwd=home,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = psutil.Process(started.pid)
        try:
            url = f"http://127.0.0.1:{dashboard}"
            _wait_until_up(url, token, started, home / "head.log")
            yield RayHead(url, token, process, client, Path(short))
        finally:
            below = process.children(recursive=True) if process.is_running() else []
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(20)
            # Jobs' processes are adopted by init when the head goes; their command line or folder names this session.
            end([*below, *named_after(short)])


def _wait_until_up(url: str, token: str, started: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and started.poll() is None:
        try:
            answer = requests.get(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, timeout=5)
            if answer.status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.3)
    raise AssertionError(f"Ray's head did not start: {log.read_text()[-2000:]}")


def named_after(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if folder in " ".join(process.cmdline()) or process.cwd().startswith(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found
