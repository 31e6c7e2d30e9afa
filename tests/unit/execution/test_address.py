from __future__ import annotations

import socket
from collections.abc import Iterator

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


SETTINGS = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100))
PING = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + bytes(8)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of what the next look at an address connects to."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.01)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: ours)
    with theirs:
        yield theirs
    assert ours.fileno() == -1, "it is closed"


def test_an_address_that_speaks_grpc_passes(there: socket.socket) -> None:
    there.sendall(SETTINGS)
    check_address("127.0.0.1:6379")
    assert there.recv(100).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", PING, SETTINGS[:8], b""])
def test_an_address_where_something_else_answers_is_refused(there: socket.socket, answer: bytes) -> None:
    there.sendall(answer)
    there.shutdown(socket.SHUT_WR)
    with pytest.raises(ConfigError, match=r"at 127\.0\.0\.1:8265 is not Ray; a head listens on 6379"):
        check_address("127.0.0.1:8265")


@pytest.mark.usefixtures("there")
def test_an_address_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="timed out; is the cluster up"):
        check_address("127.0.0.1:6379")


@pytest.mark.usefixtures("there")
def test_with_tls_it_is_enough_that_something_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    check_address("127.0.0.1:6379")
