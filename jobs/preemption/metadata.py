"""Metadata servers of clouds: one small HTTP client, and what to ask AWS and Google.

http.client, because it knows no proxies, follows no redirects and keeps no state: a metadata server is one hop away.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from jobs.preemption.notices import (
    Notice,
    StrangeAnswerError,
    instance_action,
    maintenance_event,
    preempted,
    rebalance_recommendation,
)
from pipeline.errors import ConfigError, HdrfleetError

DEFAULT_URL = "http://169.254.169.254"
_TIMEOUT_S = 2.0
_DETECTION_TIMEOUT_S = 0.9
_DETECT_EVERY_S = 60.0
_MAX_BODY_BYTES = 65_536

_TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path
_TOKEN_TTL_S = 21_600
# A token that ends within a poll is renewed ahead of it.
_TOKEN_MARGIN_S = 60.0
_ACTION_PATH = "/latest/meta-data/spot/instance-action"
_REBALANCE_PATH = "/latest/meta-data/events/recommendations/rebalance"

_GCP_INSTANCE = "/computeMetadata/v1/instance"
_GCP_FLAVOR = {"Metadata-Flavor": "Google"}


class MetadataError(HdrfleetError):
    """A metadata server did not answer, or refused."""

    code = "metadata_unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; names of `headers` are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Server(Protocol):
    """Something that answers requests."""

    def ask(self, method: str, path: str, headers: Mapping[str, str], *, wait_s: float = 0.0) -> Answer:
        """Send one request and wait `wait_s` beyond the usual time at most. Raises MetadataError."""


class NoticeSource(Protocol):
    """Where notices come from."""

    def poll(self, wait_s: float) -> Notice | None:
        """The notice that stands, if any; may wait up to `wait_s` for a change.

        Raises MetadataError and StrangeAnswerError.
        """


class MetadataServer:
    """The metadata server at `url` (http://host:port). Raises ConfigError for another kind of URL."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = _TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port or 80
        except ValueError as error:
            raise ConfigError(f"--metadata-url: {url!r}: {error}") from error
        if parts.scheme != "http" or not self._host or parts.path.strip("/") or parts.query or parts.username:
            raise ConfigError(f"--metadata-url: {url!r} is no metadata server; write for example {DEFAULT_URL}")
        self._timeout_s = timeout_s

    def ask(self, method: str, path: str, headers: Mapping[str, str], *, wait_s: float = 0.0) -> Answer:
        """See `Server.ask`. Of a long answer only the beginning is read."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s + wait_s)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            said = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(_MAX_BODY_BYTES), said)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MetadataError(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()


class AwsNotices:
    """EC2's metadata through IMDSv2: every request carries a token, which is renewed before it ends.

    With `rebalance`, recommendations count too. `clock` is monotonic, `now` the time of day, both in seconds.
    """

    def __init__(
        self,
        server: Server,
        *,
        rebalance: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._server = server
        self._rebalance = rebalance
        self._clock, self._now = clock, now
        self._token = ""
        self._renew_at = 0.0

    def poll(self, wait_s: float) -> Notice | None:  # noqa: ARG002 - EC2 answers at once
        """See `NoticeSource.poll`."""
        body = self._get(_ACTION_PATH)
        if body is not None:
            return instance_action(body, self._now())
        body = self._get(_REBALANCE_PATH) if self._rebalance else None
        return None if body is None else rebalance_recommendation(body)

    def renew_token(self) -> None:
        """Get a new token. Raises MetadataError where this is no EC2 machine, or does not let us."""
        answer = self._server.ask("PUT", _TOKEN_PATH, {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)})
        token = answer.body.decode("ascii", errors="replace").strip()
        if answer.status != http.client.OK or not token.isascii() or not token.isprintable() or not token:
            raise MetadataError(f"PUT {_TOKEN_PATH}: status {answer.status} and no token")
        self._token = token
        self._renew_at = self._clock() + _TOKEN_TTL_S - _TOKEN_MARGIN_S

    def _get(self, path: str) -> bytes | None:
        """The body, or None where there is nothing (404)."""
        if not self._token or self._clock() >= self._renew_at:
            self.renew_token()
        answer = self._ask(path)
        if answer.status == http.client.UNAUTHORIZED:  # the server forgot it, as after a move to another host
            self.renew_token()
            answer = self._ask(path)
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status != http.client.OK:
            raise MetadataError(f"GET {path}: status {answer.status}")
        return answer.body

    def _ask(self, path: str) -> Answer:
        return self._server.ask("GET", path, {"X-aws-ec2-metadata-token": self._token})


class GcpNotices:
    """Compute Engine's metadata. `now` is the time of day in seconds."""

    def __init__(self, server: Server, *, now: Callable[[], float] = time.time) -> None:
        self._server = server
        self._now = now
        self._etag = ""

    def poll(self, wait_s: float) -> Notice | None:
        """See `NoticeSource.poll`. The first one does not wait: what stands already is no change."""
        query, wait_s = "", float(int(wait_s))
        if self._etag and wait_s >= 1:
            asked = {"wait_for_change": "true", "timeout_sec": int(wait_s), "last_etag": self._etag}
            query = f"?{urlencode(asked)}"
        answer = self._get(f"{_GCP_INSTANCE}/preempted{query}", wait_s if query else 0.0)
        self._etag = answer.headers.get("etag", "")
        return preempted(answer.body, self._now()) or maintenance_event(
            self._get(f"{_GCP_INSTANCE}/maintenance-event", 0.0).body
        )

    def _get(self, path: str, wait_s: float) -> Answer:
        answer = self._server.ask("GET", path, _GCP_FLAVOR, wait_s=wait_s)
        if answer.status != http.client.OK:
            raise MetadataError(f"GET {path.partition('?')[0]}: status {answer.status}")
        if answer.headers.get("metadata-flavor") != "Google":
            raise StrangeAnswerError(f"{path.partition('?')[0]} was answered by something that is not Google's")
        return answer


def detect_cloud(url: str = DEFAULT_URL) -> str:
    """`aws`, `gcp` or `none`, by what answers at `url`; within two seconds where nothing does."""
    server = MetadataServer(url, timeout_s=_DETECTION_TIMEOUT_S)
    try:
        answer = server.ask("GET", "/computeMetadata/v1/", _GCP_FLAVOR)
        if answer.headers.get("metadata-flavor") == "Google":
            return "gcp"
    except MetadataError:
        pass
    try:
        AwsNotices(server).renew_token()
    except MetadataError:
        return "none"
    return "aws"


def notices_of(cloud: str, url: str = DEFAULT_URL, *, rebalance: bool = False) -> NoticeSource | None:
    """The source for `aws` or `gcp`, whose metadata server is at `url`; None for `none`."""
    if cloud == "aws":
        return AwsNotices(MetadataServer(url), rebalance=rebalance)
    return GcpNotices(MetadataServer(url)) if cloud == "gcp" else None


class DetectedNotices:
    """Those of whatever cloud answers at `url`; where none does, somebody looks again after a minute.

    `on_detected` is told what was found, `none` included, whenever that changes.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        rebalance: bool = False,
        on_detected: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._rebalance = url, rebalance
        self._on_detected = on_detected
        self._clock = clock
        self._cloud = ""
        self._look_at = clock()
        self._source: NoticeSource | None = None

    def poll(self, wait_s: float) -> Notice | None:
        """See `NoticeSource.poll`."""
        if self._source is None and self._clock() >= self._look_at:
            self._look_at = self._clock() + _DETECT_EVERY_S
            found = detect_cloud(self._url)
            if found != self._cloud:
                self._on_detected(found)
            self._cloud = found
            self._source = notices_of(found, self._url, rebalance=self._rebalance)
        return self._source.poll(wait_s) if self._source else None
