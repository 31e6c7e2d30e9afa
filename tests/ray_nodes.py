"""A Ray cluster of raylets on this machine, each of which can be lost, frozen or asked for a token."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import ray
from commands import descendants, end, environment, wait_until
from servers.ports import free_ports

START_TIMEOUT_S = 90


class Cluster:
    """A head without cores, and nodes of one core each: raylets on this machine.

    The head has the address `host`; `inside` stands in front of its command, as what enters a network namespace does.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        env: Mapping[str, str] | None = None,
        head_options: Sequence[str] = ("--num-cpus=0",),
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        self.address = f"{host}:{free_ports(1)[0]}"
        quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
        self._env = environment(home, {**quick, **(env or {})})
        self._home = home
        self.nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.head = self.start(
            *("--head", f"--port={port}", *head_options, "--include-dashboard=false", f"--temp-dir={folder}"),
            host=host,
            inside=inside,
        )

    def start(
        self, *options: str, host: str = "127.0.0.1", inside: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a head or a node with these options of `ray start`; the caller keeps it in `nodes`.

        `env` is for its workers, too.
        """
        command = [
            *(*inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={host}"),
            *("--object-store-memory=80000000", "--disable-usage-stats", *options),
        ]
        with (self._home / "ray.log").open("ab") as log:
            return subprocess.Popen(
                command, env={**self._env, **(env or {})}, stdout=log, stderr=log, start_new_session=True
            )

    def add_nodes(self, number: int, env: Mapping[str, str] | None = None) -> None:
        """Start so many, one after the other: together they stumble over each other's files on one machine."""
        self.wait_for_head_node()
        for _ in range(number):
            self.nodes.append(self._join(env))

    def _join(self, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        known = self._num_known()
        for _ in range(3):  # Ray gives a raylet 30 s to start, which a machine that is busy may exceed
            process = self.start(f"--address={self.address}", "--num-cpus=1", env=env)
            wait_until(
                lambda process=process: process.poll() is not None or self._num_known() > known,
                "one more node",
                START_TIMEOUT_S,
            )
            if process.poll() is None:
                return process
        raise AssertionError("no node starts")

    def wait_for_head(self) -> None:
        host, _, port = self.address.rpartition(":")

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return True
            return False

        wait_until(answers, "the head answers", START_TIMEOUT_S)

    def wait_for_head_node(self) -> None:
        """It answers before it can be given work."""
        wait_until(lambda: self._num_known() > 0, "the head is a node itself", START_TIMEOUT_S)

    def _num_known(self) -> int:
        """Nodes that the head has heard of, the dead among them."""
        from ray._raylet import GcsClient

        return len(GcsClient(address=self.address).get_all_node_info(timeout=10))

    def lose(self, number: int) -> None:
        """End so many nodes with all that runs on them, as a power cut would."""
        for process in [self.nodes.pop() for _ in range(number)]:
            _kill_group(process)

    def freeze(self, process: psutil.Process) -> list[psutil.Process]:
        """Stop the node of this process, with all that runs there, as a machine that hangs; `resume` wakes each."""
        nodes = [psutil.Process(node.pid) for node in self.nodes]
        (frozen,) = [
            all_of for all_of in ([node, *node.children(recursive=True)] for node in nodes) if process in all_of
        ]
        for process in frozen:
            process.suspend()
        return frozen

    def close(self) -> None:
        for process in [*self.nodes, self.head]:
            _kill_group(process)


@contextlib.contextmanager
def running_cluster(tmp_path: Path, env: Mapping[str, str] | None = None, *head_options: str) -> Iterator[Cluster]:
    """A head, without cores but for its options; nodes that are added have `env`, and so have their workers."""
    home = tmp_path / "home"
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="hf-") as short:  # paths of Ray's sockets have to be short
        made = Cluster(Path(short), home, env, *([head_options] if head_options else []))
        try:
            made.wait_for_head()
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def node_beside(options: Sequence[str], log: Path) -> Iterator[str]:
    """One more node of the Ray that this process is connected to; gives its id, and ends it."""
    address = ray.get_runtime_context().gcs_address
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}"),
        *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000", *options),
    ]

    def living() -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    before = living()
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: len(living() - before) == 1, "one more node", START_TIMEOUT_S)
        (node,) = living() - before
        yield node
    finally:
        end([*descendants(started.pid), psutil.Process(started.pid)])
    wait_until(lambda: node not in living(), "the node is gone", START_TIMEOUT_S)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a node's processes: its own group, and those that raylets put into sessions of their own."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(20)
