from __future__ import annotations

import socket

import pytest

from pipeline.errors import ConfigError
from pipeline.execution.address import check_address


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_names_need_no_look(address: str | None) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["nonsense", "http://host:80", "host", "host:99999", "host:", ":1", "a b:1:2"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no Ray address"):
        check_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://head:10001", "[::1]:6379"])
def test_an_address_where_nothing_listens_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def refuse(target: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(target)
        assert timeout <= 10
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConfigError, match="Connection refused"):
        check_address(address)
    assert asked[0][0] in {"10.0.0.1", "head", "::1"}


def test_an_address_that_answers_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: ours)
    check_address("127.0.0.1:6379")
    assert ours.fileno() == -1
    theirs.close()
