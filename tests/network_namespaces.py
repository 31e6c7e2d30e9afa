"""Machines with addresses of their own on a switch: network namespaces that one can be cut off in.

A namespace lives as long as a process is in it, so nothing is named. Each has a holder, a shell that reads from the
process of the tests: when that is gone, even killed, it ends all that runs in there, and nothing is left.
The switch has no way out: what is in there reaches the other machines and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import psutil
import pytest

_COMMAND_TIMEOUT_S = 20
_END_TIMEOUT_S = 20
# Reserved for documentation (RFC 5737). Whoever has them outside is out of reach in here.
_SUBNET, _SWITCH = "192.0.2.", "192.0.2.254"
_HOLD = """
echo made
cat > /dev/null
namespace=$(readlink /proc/$$/ns/net)
for again in 1 2 3; do
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" = $$ ] || [ "$(readlink "$process/ns/net")" != "$namespace" ] || kill -9 "$pid"
    done
done 2> /dev/null
"""
# A hardware address that no machine has: the switch offers such packets to all, and none takes them.
_NOBODY = "02:00:00:00:00:01"
_LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 0), backlog=256) as listener, socket.socket(fileno=int(sys.argv[2])) as back:
    socket.send_fds(back, [b"1"], [listener.fileno()])
"""


class Machine:
    """A network namespace: its address, and what has to stand in front of a command that is to run there."""

    def __init__(self, address: str, create: list[str], enter: list[str]) -> None:
        self.address = address
        self._holder = subprocess.Popen(
            [*create, "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the tests, which then close it
        )
        self.pid = self._holder.pid
        self.inside = [*enter, f"--net=/proc/{self.pid}/ns/net"]
        self.said = self._first_line()

    @property
    def is_made(self) -> bool:
        return self.said == "made"

    def run(self, *command: str) -> None:
        """Run a short command there. Raises AssertionError with what it says where it fails."""
        done = subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"

    def listen(self) -> socket.socket:
        """A socket of this process that listens there, on a port that the system picks."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            os.set_inheritable(theirs.fileno(), True)
            command = [*self.inside, sys.executable, "-c", _LISTEN, self.address, str(theirs.fileno())]
            subprocess.run(command, pass_fds=(theirs.fileno(),), timeout=_COMMAND_TIMEOUT_S, check=True)
            _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptor)

    def processes(self) -> list[psutil.Process]:
        """Whatever runs there, but for what keeps the namespace."""
        namespace = _namespace(self.pid)
        holder = {self.pid, *(child.pid for child in psutil.Process(self.pid).children())} if namespace else set()
        pids = [pid for pid in psutil.pids() if pid not in holder and _namespace(pid) == namespace]
        found = []
        for pid in pids if namespace else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def end_all(self) -> None:
        """End all that runs there."""
        for _ in range(3):  # what was about to start others
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=_END_TIMEOUT_S)

    def close(self) -> None:
        """End all that runs there, and the namespace with it."""
        self.end_all()
        self._holder.kill()
        self._holder.communicate(timeout=_END_TIMEOUT_S)  # closes its input, with which its `cat` ends

    def _first_line(self) -> str:
        assert self._holder.stdout is not None
        ready, _, _ = select.select([self._holder.stdout], [], [], _COMMAND_TIMEOUT_S)
        return self._holder.stdout.readline().strip() if ready else "no answer"


class Switch:
    """Makes machines, and pulls their cables. Skips where neither root nor user namespaces allow it."""

    def __init__(self) -> None:
        for tool, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")):
            if shutil.which(tool) is None:
                pytest.skip(f"network namespaces need `{tool}` of {package}")
        is_root = os.geteuid() == 0
        self._machines: list[Machine] = []
        create = ["unshare", "--net"] if is_root else ["unshare", "--map-root-user", "--net"]
        self._own = Machine(_SWITCH, create, ["nsenter"])
        user = f"--user=/proc/{self._own.pid}/ns/user"
        self._enter = ["nsenter"] if is_root else ["nsenter", user, "--preserve-credentials"]
        self._own.inside = [*self._enter, f"--net=/proc/{self._own.pid}/ns/net"]
        try:
            assert self._own.is_made, self._own.said
            self._own.run("ip", "link", "add", "switch", "type", "bridge")
            self._own.run("ip", "link", "set", "switch", "up")
        except AssertionError as error:
            self._own.close()
            pytest.skip(f"no network namespace can be made, neither as root nor in a user namespace: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.ExitStack() as all_of:  # one that does not end keeps none of the others
            for machine in (self._own, *self._machines):
                all_of.callback(machine.close)

    def add(self) -> Machine:
        """One more machine, at the next address."""
        number = len(self._machines) + 1
        enter_first = [] if self._enter == ["nsenter"] else self._enter
        machine = Machine(f"{_SUBNET}{number}", [*enter_first, "unshare", "--net"], self._enter)
        self._machines.append(machine)
        assert machine.is_made, machine.said
        port, pid = _port(machine), str(machine.pid)
        self._own.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._own.run("ip", "link", "set", port, "master", "switch", "up")
        machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            machine.run("ip", "link", "set", interface, "up")
        # Whoever asks for its own address asks which one would be used towards somewhere far away.
        machine.run("ip", "route", "add", "default", "via", _SWITCH)
        return machine

    def cut(self, machine: Machine) -> None:
        """Pull its cable: all that runs on it goes on, and nothing passes any more. Connections are not told."""
        self._own.run("ip", "link", "set", _port(machine), "down")

    def mend(self, machine: Machine) -> None:
        """Put its cable back."""
        self._own.run("ip", "link", "set", _port(machine), "up")

    def lead_astray(self, machine: Machine, other: Machine) -> None:
        """Nothing that a machine sends to another one arrives any more, silently; all others are reached as before."""
        machine.run(*_neighbour("replace", other), "lladdr", _NOBODY, "nud", "permanent")

    def lead_back(self, machine: Machine, other: Machine) -> None:
        """The end of `lead_astray`: it asks again who has that address."""
        machine.run(*_neighbour("del", other))


def _neighbour(action: str, other: Machine) -> tuple[str, ...]:
    return ("ip", "neighbor", action, other.address, "dev", "eth0")


def _port(machine: Machine) -> str:
    return f"port{machine.address.removeprefix(_SUBNET)}"


def _namespace(pid: int) -> str:
    """What names the network namespace of a process; empty where that is gone or somebody else's."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""
