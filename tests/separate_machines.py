"""A Ray cluster whose nodes have addresses of their own, on a switch from which one can be cut off, and a job on it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from commands import environment, wait_until
from network_namespaces import Machine, Switch
from ray_nodes import Cluster
from watched_run import FOLDER, NODE, PACE, Engines

TESTS = Path(__file__).resolve().parent
# A healthy raylet answers in time on a machine that is busy, and one that is cut off is dead after 15 s.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
_PACE_S = 0.3
# Ray gives a raylet 30 s to start, which a machine that is busy may exceed; Python takes its time before that.
_START_ATTEMPTS, _START_S = 3, 180


@dataclass
class Node:
    """A raylet of one core on a machine."""

    machine: Machine
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return self.machine.address

    def has_workers(self) -> bool:
        """Whether actors live there, whatever the head believes."""
        return any("ray::RayWorker" in " ".join(_words(process)) for process in self.machine.processes())


def _words(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


class SeparateCluster:
    """A head without cores that asks for a token; nodes are added. `root` is the test's folder."""

    def __init__(self, switch: Switch, short: Path, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.switch, self._root = switch, root
        self.engines = Engines(root / "engines")
        token = root / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
        self.env = {
            **QUICK,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PYTHONPATH": path,
            FOLDER: str(self.engines.folder),
            PACE: str(_PACE_S),
            **(env or {}),
        }
        home = root / "ray-home"  # the environment of S3 has its own beside it
        home.mkdir()
        self.head = switch.add()
        self._ray = Cluster(short, home, self.env, host=self.head.address, inside=self.head.inside)
        self.address = self._ray.address
        self._watch_log = root / "nodes.log"
        self._num_before: dict[str, int] = {}
        with self._watch_log.open("wb") as log:
            self._watch = subprocess.Popen(
                [*self.head.inside, sys.executable, "-m", "node_watch", self.address],
                env=environment(root / "watch-home", self.env),
                stdout=log,
                stderr=log,
            )
        assert self._comes_up(self.head.address, self._ray.head), "Ray's head has not started"

    def add_node(self, machine: Machine | None = None, env: Mapping[str, str] | None = None) -> Node:
        """One more node, on a machine of its own unless it is given; there once the head knows it.

        Its workers inherit `env`.
        """
        machine = machine or self.switch.add()
        for _ in range(_START_ATTEMPTS):
            self._num_before[machine.address] = self._num_states(machine.address)
            process = self._ray.start(
                *(f"--address={self.address}", "--num-cpus=1"),
                host=machine.address,
                inside=machine.inside,
                env={NODE: machine.address, **(env or {})},
            )
            self._ray.nodes.append(process)
            if self._comes_up(machine.address, process):
                break
            machine.end_all()
        else:
            raise AssertionError(f"no node started at {machine.address} in {_START_ATTEMPTS} attempts")
        return Node(machine, process)

    def states(self, address: str) -> list[tuple[float, str]]:
        """When (on the monotonic clock) the head took the node at an address, the last one there, for ALIVE or DEAD."""
        lines = [line.split() for line in self._watch_log.read_text().splitlines()]
        assert self._watch.poll() is None, self._watch_log.read_text()
        states = [(float(words[0]), words[3]) for words in lines if len(words) == 4 and words[2] == address]
        return states[self._num_before.get(address, 0) :]

    def wait_until_dead(self, node: Node, timeout_s: float = 150) -> float:
        """When the head declared a node dead."""
        wait_until(lambda: self.states(node.address)[-1][1] == "DEAD", f"{node.address} is taken for dead", timeout_s)
        return self.states(node.address)[-1][0]

    def convert(self, *arguments: str | Path, num_workers: int) -> Job:
        """Start a conversion whose driver is on the head."""
        words = (*arguments, "--address", self.address, "--workers", str(num_workers), "--log-format", "json")
        return Job(self.head.inside, words, self._root / "convert", self.env)

    def close(self) -> None:
        self._watch.kill()
        self._watch.wait(20)
        self._ray.close()

    def _num_states(self, address: str) -> int:
        return self._num_before.get(address, 0) + len(self.states(address))

    def _comes_up(self, address: str, process: subprocess.Popen[bytes]) -> bool:
        """Whether the head knows it before its start gives up."""
        wait_until(lambda: bool(self.states(address)) or process.poll() is not None, f"a node at {address}", _START_S)
        return process.poll() is None


class Job:
    """`hdrfleet convert` with the engine of `watched_run`, in a process of its own that is ended with the context."""

    def __init__(
        self, inside: list[str], arguments: tuple[str | Path, ...], folder: Path, env: Mapping[str, str]
    ) -> None:
        folder.mkdir()
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*inside, sys.executable, "-m", "watched_run", "convert", *map(str, arguments)],
                env=environment(folder / "home", env),
                stdout=log,
                stderr=log,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith('{"time"')]
        return [line for line in lines if line["event"] == name]

    def require_running(self) -> None:
        assert self.process.poll() is None, self._log.read_text()

    def require_done(self, timeout_s: float) -> None:
        assert self.process.wait(timeout_s) == 0, self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(20)
