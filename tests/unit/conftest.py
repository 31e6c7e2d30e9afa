"""Unit tests touch no network, start no Ray and never sleep: trying to is an error, not a slow test."""

from __future__ import annotations

import socket
import sys
import time

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_sleep(seconds: float) -> None:
        raise AssertionError(f"a unit test slept for {seconds} s")

    def refuse_connect(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a unit test opened a connection to {address}")

    def refuse_ray(*_: object, **__: object) -> None:
        raise AssertionError("a unit test started Ray")

    monkeypatch.setattr(time, "sleep", refuse_sleep)
    monkeypatch.setattr(socket.socket, "connect", refuse_connect)
    monkeypatch.setenv("RAY_ADDRESS", "unit-tests-start-no-ray")
    if "ray" in sys.modules:
        monkeypatch.setattr(sys.modules["ray"], "init", refuse_ray)
