"""What AWS and Google are asked, with servers that know their own rules and a clock that is set by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest

from jobs.preemption.metadata import Answer, AwsNotices, GcpNotices, MetadataError, MetadataServer
from jobs.preemption.notices import Notice, StrangeAnswerError
from pipeline.errors import ConfigError

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


class Imds:
    """EC2's: a token is asked for with a lifetime, and every other request has to bring one that is valid."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_at: dict[str, float] = {}
        self.documents: dict[str, bytes] = {}
        self.num_tokens = 0
        self.num_refused = 0
        self.status: int | None = None

    def ask(self, method: str, path: str, headers: Mapping[str, str], *, wait_s: float = 0.0) -> Answer:
        assert wait_s == 0
        if self.status is not None:
            return Answer(self.status, b"", {})
        if (method, path) == ("PUT", "/latest/api/token"):
            self.num_tokens += 1
            token = f"token-{self.num_tokens}=="
            self._ends_at[token] = self._clock() + int(headers["X-aws-ec2-metadata-token-ttl-seconds"])
            return Answer(200, token.encode(), {})
        if self._clock() >= self._ends_at.get(headers.get("X-aws-ec2-metadata-token", ""), 0.0):
            self.num_refused += 1
            return Answer(401, b"", {})
        return Answer(200, self.documents[path], {}) if path in self.documents else Answer(404, b"<html>", {})

    def forget(self) -> None:
        self._ends_at.clear()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def imds(clock: Clock) -> Imds:
    return Imds(clock)


def test_one_token_serves_until_it_is_about_to_end(imds: Imds, clock: Clock) -> None:
    source = AwsNotices(imds, clock=clock)
    for _ in range(6 * 720):  # a day in steps of 20 s
        assert source.poll(5) is None
        clock.s += 20
    assert imds.num_tokens == 5
    assert imds.num_refused == 0


def test_a_token_that_the_server_forgot_is_replaced_at_once(imds: Imds, clock: Clock) -> None:
    source = AwsNotices(imds, clock=clock, now=clock)
    assert source.poll(5) is None
    imds.forget()
    imds.documents[ACTION] = b'{"action": "terminate"}'
    assert source.poll(5) == Notice("aws", "terminate", clock.s + 120)
    assert (imds.num_tokens, imds.num_refused) == (2, 1)


def test_recommendations_count_only_where_they_are_wanted_and_an_action_counts_more(imds: Imds, clock: Clock) -> None:
    imds.documents[REBALANCE] = b'{"noticeTime": "2020-10-27T08:22:00Z"}'
    assert AwsNotices(imds, clock=clock).poll(5) is None
    wanting = AwsNotices(imds, rebalance=True, clock=clock)
    assert wanting.poll(5) == Notice("aws", "rebalance", None)
    imds.documents[ACTION] = json.dumps({"action": "stop", "time": "2017-09-18T08:22:00Z"}).encode()
    assert wanting.poll(5) == Notice("aws", "stop", 1_505_722_920.0)


@pytest.mark.parametrize("status", [403, 500, 200])
def test_a_server_that_gives_no_token_is_an_error_and_may_come_back(imds: Imds, clock: Clock, status: int) -> None:
    source = AwsNotices(imds, clock=clock)
    imds.status = status
    with pytest.raises(MetadataError, match=f"status {status} and no token"):
        source.poll(5)
    imds.status = None
    assert source.poll(5) is None


class Gce:
    """Google's: the flavour is asked for and given, and with an etag the answer may wait for a change."""

    def __init__(self) -> None:
        self.values = {"preempted": b"FALSE", "maintenance-event": b"NONE"}
        self.flavor = {"metadata-flavor": "Google"}
        self.waits: list[tuple[str, float]] = []

    def ask(self, method: str, path: str, headers: Mapping[str, str], *, wait_s: float = 0.0) -> Answer:
        if headers.get("Metadata-Flavor") != "Google":
            return Answer(403, b"", {})
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        if "wait_for_change" in query:
            assert query["wait_for_change"] == ["true"]
            self.waits.append((query["last_etag"][0], float(query["timeout_sec"][0])))
            assert wait_s >= float(query["timeout_sec"][0])
        value = self.values.get(parts.path.removeprefix("/computeMetadata/v1/instance/"))
        return Answer(404, b"", {}) if value is None else Answer(200, value, {"etag": value.hex(), **self.flavor})


def test_what_stands_already_is_asked_without_waiting_and_changes_are_waited_for(clock: Clock) -> None:
    gce = Gce()
    source = GcpNotices(gce, now=clock)
    assert source.poll(5) is None
    assert gce.waits == []
    assert source.poll(5.7) is None
    assert gce.waits == [(b"FALSE".hex(), 5.0)]
    assert source.poll(0.5) is None  # too short for a server that counts in seconds
    assert len(gce.waits) == 1
    gce.values["preempted"] = b"TRUE"
    assert source.poll(5) == Notice("gcp", "preempted", clock.s + 30)


def test_a_host_that_is_to_be_maintained(clock: Clock) -> None:
    gce = Gce()
    gce.values["maintenance-event"] = b"TERMINATE_ON_HOST_MAINTENANCE"
    assert GcpNotices(gce, now=clock).poll(5) == Notice("gcp", "maintenance", None)


def test_somebody_elses_answer_is_not_believed(clock: Clock) -> None:
    gce = Gce()
    gce.values["preempted"], gce.flavor = b"TRUE", {}
    with pytest.raises(StrangeAnswerError, match="not Google's"):
        GcpNotices(gce, now=clock).poll(5)
    del gce.values["preempted"]
    with pytest.raises(MetadataError, match="status 404"):
        GcpNotices(gce, now=clock).poll(5)


@pytest.mark.parametrize(
    "url",
    ["", "169.254.169.254", "https://169.254.169.254", "http://", "http://a:b", "http://a/latest", "http://u@a"],
)
def test_a_url_of_no_metadata_server_is_bad_usage(url: str) -> None:
    with pytest.raises(ConfigError, match="--metadata-url"):
        MetadataServer(url)
