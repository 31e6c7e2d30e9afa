"""Metadata servers of EC2 and Compute Engine on loopback, as strict as theirs, which say what a test lets them say."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from servers.serving import serving

_GCP = "/computeMetadata/v1/"
_MAX_WAIT_S = 30.0


class MetadataState:
    """What a server knows; `requests` are the paths that were asked for, refused ones with their status before them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.values: dict[str, str] = {}
        self.tokens: dict[str, float] = {}
        self.requests: list[str] = []
        self.url = ""

    def say(self, path: str, value: str) -> None:
        with self.changed:
            self.values[path] = value
            self.changed.notify_all()

    def interrupt_on_ec2(self, *, left_s: float) -> None:
        ends_at = datetime.fromtimestamp(time.time() + left_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.say("/latest/meta-data/spot/instance-action", json.dumps({"action": "terminate", "time": ends_at}))

    def preempt_on_gce(self) -> None:
        self.say(f"{_GCP}instance/preempted", "TRUE")


class _Handler(BaseHTTPRequestHandler):
    state: MetadataState

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        self.state.requests.append(self.path if status == 200 else f"{status} {self.path}")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body.encode())), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())


class Ec2(_Handler):
    """Instance Metadata Service, version 2 alone."""

    def do_PUT(self) -> None:
        lifetime_s = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token":
            self._answer(404)
        elif not lifetime_s.isdecimal() or not 1 <= int(lifetime_s) <= 21_600:
            self._answer(400)
        else:
            token = secrets.token_urlsafe(32) + "=="
            self.state.tokens[token] = time.monotonic() + int(lifetime_s)
            self._answer(200, token)

    def do_GET(self) -> None:
        token = self.headers.get("X-aws-ec2-metadata-token", "")
        if time.monotonic() >= self.state.tokens.get(token, 0.0):
            self._answer(401)
        elif self.path in self.state.values:
            self._answer(200, self.state.values[self.path])
        else:
            self._answer(404, "<html>not found</html>")


class Gce(_Handler):
    """Compute Engine's metadata server."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        flavor = {"Metadata-Flavor": "Google"}
        if self.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in self.headers:
            self._answer(403)
        elif parts.path == _GCP:
            self._answer(200, "instance/\nproject/\n", flavor)
        elif parts.path not in self.state.values:
            self._answer(404, "", flavor)
        else:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            value = self._value(parts.path, query)
            self._answer(200, value, {**flavor, "ETag": _etag(value)})

    def _value(self, path: str, query: dict[str, str]) -> str:
        if query.get("wait_for_change") == "true":
            wait_s = min(_MAX_WAIT_S, float(query.get("timeout_sec", _MAX_WAIT_S)))
            seen = query.get("last_etag", _etag(self.state.values[path]))
            with self.state.changed:
                self.state.changed.wait_for(lambda: _etag(self.state.values[path]) != seen, timeout=wait_s)
        return self.state.values[path]


def _etag(value: str) -> str:
    return value.encode().hex()


@contextmanager
def metadata_server(handler: type[_Handler], port: int = 0) -> Iterator[MetadataState]:
    """Serve on loopback, on a random port unless one is given, until the block ends."""
    state = MetadataState()
    if handler is Gce:
        state.values = {f"{_GCP}instance/preempted": "FALSE", f"{_GCP}instance/maintenance-event": "NONE"}
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (handler,), {"state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield state
