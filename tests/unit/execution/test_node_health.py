from __future__ import annotations

import pytest

from pipeline.errors import DeviceLostError, WorkerLostError
from pipeline.execution.node_health import FailedStarts, NodeHealth, Place

LOST = DeviceLostError("cuda:0: CUDA error: an ECC error")


def test_the_third_worker_in_a_row_that_loses_one_device_bars_its_node() -> None:
    health = NodeHealth(num_workers=4)
    place = Place("a", "1")
    assert [health.lost_device(place, LOST) for _ in range(4)] == [False, False, True, False]
    assert set(health.barred) == {"a"}
    assert isinstance(health.error, DeviceLostError)
    assert str(health.error) == (
        "cuda:0: CUDA error: an ECC error; 3 workers in a row failed there with nothing done in between"
    )
    ((node, reason),) = health.news()
    assert node == "a"
    assert reason.startswith("3 workers in a row failed there")
    assert reason.endswith("device_lost: cuda:0: CUDA error: an ECC error")
    assert not health.news()


def test_work_on_the_same_card_counts_as_recovery_and_on_another_card_does_not() -> None:
    health = NodeHealth(num_workers=4)
    for other in ("1", "0"):
        health.lost_device(Place("a", "1"), LOST)
        health.lost_device(Place("a", "1"), LOST)
        health.converted(Place("a", other))
    assert health.lost_device(Place("a", "1"), LOST)


def test_workers_that_share_a_device_lose_it_at_once() -> None:
    health, place = NodeHealth(num_workers=4), Place("a", "0")
    for is_last in (False, False, True):
        started = [health.started(place) for _ in range(4)]
        found = [health.lost_device(place, LOST, since) for since in started]
        assert found == [is_last, False, False, False]
    assert set(health.barred) == {"a"}


def test_losses_that_an_image_explains_count_against_no_device() -> None:
    health, place, shard, other = NodeHealth(num_workers=4), Place("a", "0"), (1, 7, 0), (1, 8, 0)
    for held in ([shard], [shard, other]):
        health.lost_device(place, LOST, held=held)
    health.explained(Place("a", "1"), shard)
    assert [health.lost_device(place, LOST, held=[other]) for _ in range(3)] == [False, False, True]


def test_a_device_that_was_lost_through_an_image_was_sound() -> None:
    health, place = NodeHealth(num_workers=1), Place("a", "0")
    for _ in range(20):
        assert not health.lost_device(place, LOST)
        assert not health.lost_device(place, LOST)
        health.explained(place, (1, 7, 0))
    assert not health.barred


def test_three_starts_in_a_row_bar_a_node_and_a_success_between_them_does_not() -> None:
    health = NodeHealth(num_workers=4)
    for _ in range(5):
        assert not health.failed_start("a", LOST)
        assert not health.failed_start("a", LOST)
        health.started(Place("a"))
    assert not health.failed_start("b", LOST)
    assert not health.failed_start("b", LOST)
    assert health.failed_start("b", LOST)
    assert set(health.barred) == {"b"}


@pytest.mark.parametrize(
    ("nodes", "is_everywhere"),
    [("a", False), ("aaaa", False), ("ababab", False), ("abc", True), ("aabc", True), ("ab ", True), ("  ", False)],
)
def test_starts_that_fail_on_one_node_say_nothing_of_others(nodes: str, is_everywhere: bool) -> None:
    failed = FailedStarts()
    for number, node in enumerate(nodes):
        failed.count(node.strip(), 7.0 + number)
    assert (failed.num, failed.since, failed.is_everywhere) == (len(nodes), 7.0, is_everywhere)
    failed.forget()
    assert (failed.num, failed.is_everywhere) == (0, False)


def test_what_happened_at_no_known_node_bars_none_and_has_a_bound() -> None:
    health = NodeHealth(num_workers=1)
    for _ in range(13):
        assert not health.failed_start("", LOST)
    with pytest.raises(DeviceLostError, match="14 workers failed, and none has done anything since"):
        health.lost_device(Place(), LOST)
    assert not health.barred


def test_nodes_that_come_and_are_all_bad_end_the_job_with_the_error_itself() -> None:
    health = NodeHealth(num_workers=2)
    for number in range(15):
        health.lost_device(Place(f"node-{number}"), LOST)
    with pytest.raises(DeviceLostError, match="an ECC error; 16 workers failed"):
        health.lost_device(Place("another"), LOST)
    assert not health.barred


def test_nodes_that_failed_and_left_end_no_job_of_which_others_do_the_work() -> None:
    """Spot machines come and go for days: what they cost is not added up for ever."""
    health = NodeHealth(num_workers=2)
    for number in range(100):
        health.failed_start(f"node-{number}", LOST)
        health.lost_device(Place(f"node-{number}", "0"), LOST)
        health.converted(Place("sound"))
    assert not health.barred


def test_a_node_that_goes_down_with_what_others_convert_is_barred() -> None:
    health = NodeHealth(num_workers=2)
    for worker in ("w1", "w1", "w2"):
        health.doubted("a", worker, health.num_done("a"))
    assert not health.barred  # two leases of one worker are one death
    before = health.num_done("a")
    health.converted(Place("a"))
    for worker in ("w3", "w4"):
        health.doubted("a", worker, health.num_done("a"))
    health.doubted("a", "w2", before)  # it has worked since
    assert not health.barred
    health.doubted("a", "w5", health.num_done("a"))
    assert set(health.barred) == {"a"}
    assert isinstance(health.error, WorkerLostError)
