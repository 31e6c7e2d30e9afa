"""Handlers that Ray's core takes away as it disconnects: a signal that comes then must not end the process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, wait_until

from pipeline.execution.kept_handler import keeping_handler

# Signals are sent while Ray's processes are being stopped: when the first of them has gone.
SESSION = """
import os, signal, threading, time
import psutil
from pipeline.config import ExecutionConfig
from pipeline.execution.ray_session import ray_session

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("heard"))

def send(there):
    while all(each.is_running() and each.status() != "zombie" for each in there):
        time.sleep(0.001)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)

with ray_session(ExecutionConfig(executor="ray")):
    sender = threading.Thread(target=send, args=(psutil.Process().children(),))
    sender.start()
sender.join(30)
print(*sorted(set(heard)))
"""


def test_a_handler_that_is_taken_away_beneath_python_is_put_back() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(number))
    reset = ctypes.CDLL(None).signal
    reset.argtypes, reset.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    get = ctypes.pythonapi.PyOS_getsig
    get.restype = ctypes.c_void_p
    try:
        handler = get(signal.SIGUSR1)
        with keeping_handler(signal.SIGUSR1):
            reset(signal.SIGUSR1, None)
            wait_until(lambda: get(signal.SIGUSR1) == handler, "it is there again", 20)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: len(heard) == 1, "it is called", 20)
        assert get(signal.SIGUSR1) == handler
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.timeout(150)
def test_a_signal_while_ray_is_stopped_reaches_the_handler(tmp_path: Path) -> None:
    env = environment(tmp_path / "home", {})
    ended = subprocess.run(
        [sys.executable, "-c", SESSION], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "heard\n"), ended.stderr
