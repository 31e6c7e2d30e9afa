"""Answers of metadata servers, sound and strange."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.preemption.notices import (
    Notice,
    StrangeAnswerError,
    instance_action,
    maintenance_event,
    preempted,
    rebalance_recommendation,
)
from jobs.preemption.order import DrainOrder

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"action": "terminate", "time": "2017-09-18T08:22:00Z"}', Notice("aws", "terminate", 1_505_722_920.0)),
        ('{"action": "stop", "time": "2017-09-18T08:22:00"}', Notice("aws", "stop", 1_505_722_920.0)),
        ('{"action": "hibernate"}', Notice("aws", "hibernate", NOW_S + 120)),
        ('{"action": "terminate", "time": "soon"}', Notice("aws", "terminate", NOW_S + 120)),
        ('{"action": "terminate", "time": [1]}', Notice("aws", "terminate", NOW_S + 120)),
    ],
)
def test_what_ec2_is_about_to_do(body: str, expected: Notice) -> None:
    assert instance_action(body.encode(), NOW_S) == expected


@pytest.mark.parametrize("body", ["", "null", "[]", "<html>", '{"time": "2017-09-18T08:22:00Z"}', '{"action": 7}'])
def test_an_action_that_is_none_is_strange(body: str) -> None:
    with pytest.raises(StrangeAnswerError, match="spot/instance-action answered"):
        instance_action(body.encode(), NOW_S)


def test_a_recommendation_names_no_end() -> None:
    body = b'{"noticeTime": "2020-10-27T08:22:00Z"}'
    assert rebalance_recommendation(body) == Notice("aws", "rebalance", None)
    with pytest.raises(StrangeAnswerError):
        rebalance_recommendation(b"{}")


def test_what_compute_engine_says() -> None:
    assert preempted(b"FALSE", NOW_S) is None
    assert preempted(b"TRUE\n", NOW_S) == Notice("gcp", "preempted", NOW_S + 30)
    assert maintenance_event(b"NONE") is None
    assert maintenance_event(b"MIGRATE_ON_HOST_MAINTENANCE") is None
    assert maintenance_event(b"TERMINATE_ON_HOST_MAINTENANCE") == Notice("gcp", "maintenance", None)
    for read in (lambda body: preempted(body, NOW_S), maintenance_event):
        with pytest.raises(StrangeAnswerError):
            read(b"<html>captive portal</html>")


@given(
    st.one_of(st.binary(), st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps).map(str.encode))
)
def test_no_answer_does_more_than_be_strange(body: bytes) -> None:
    readers = (
        lambda: instance_action(body, NOW_S),
        lambda: rebalance_recommendation(body),
        lambda: preempted(body, NOW_S),
        lambda: maintenance_event(body),
    )
    for read in readers:
        try:
            notice = read()
        except StrangeAnswerError:
            continue
        assert notice is None or notice.kind


def test_an_earlier_end_counts_and_the_same_one_again_does_not() -> None:
    soon, later, some_time = (Notice("aws", "terminate", end) for end in (100.0, 200.0, None))
    assert soon.replaces(None)
    assert some_time.replaces(None)
    assert soon.replaces(later)
    assert soon.replaces(some_time)
    assert not later.replaces(soon)
    assert not some_time.replaces(soon)
    assert not some_time.replaces(some_time)
    assert not Notice("gcp", "preempted", 98.0).replaces(soon)


def test_an_order_arrives_as_it_was_given() -> None:
    order = DrainOrder(12.5, "10.0.0.1:6379", None, "aws: 'stop'", 11.0, until_gone=True)
    assert DrainOrder.from_text(order.to_text()) == order
