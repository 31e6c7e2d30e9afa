"""What a worker has of its node, by what Ray was told of both."""

from __future__ import annotations

import pytest

from pipeline.config import build_config
from pipeline.execution.base import NodeShare
from pipeline.execution.ray_worker import node_share


@pytest.mark.parametrize(
    ("offers", "has", "num_cores", "expected"),
    [
        ({"CPU": 8, "GPU": 1}, {"CPU": 1, "GPU": 1}, 8, NodeShare(1, 8)),
        ({"CPU": 96, "GPU": 8}, {"CPU": 1, "GPU": 1}, 96, NodeShare(8, 12)),
        ({"CPU": 8, "GPU": 1}, {"CPU": 1, "GPU": 0.5}, 8, NodeShare(2, 4)),
        ({"CPU": 8, "GPU": 1}, {"CPU": 1, "GPU": 1 / 3}, 8, NodeShare(3, 8 / 3)),
        ({"CPU": 96, "GPU": 1}, {"CPU": 1, "GPU": 1}, 7, NodeShare(1, 7)),  # Ray was told more than the container has
        ({"GPU": 1}, {"GPU": 1}, 8, NodeShare(1, 8)),  # nobody counts cores
        ({"CPU": 16}, {"CPU": 4}, 16, NodeShare(4, 4)),
        ({"CPU": 2}, {"CPU": 2}, 2, NodeShare(1, 2)),
        ({"CPU": 2}, {}, 2, NodeShare(1, 2)),
    ],
)
def test_the_cores_of_a_node_are_shared_by_its_workers(
    offers: dict[str, float], has: dict[str, float], num_cores: float, expected: NodeShare
) -> None:
    share = node_share(offers, has, 1, num_cores)
    assert (share.num_workers, share.num_cores) == (expected.num_workers, pytest.approx(expected.num_cores))


@pytest.mark.parametrize(
    ("device", "num_cores", "configured", "expected"),
    [
        ("cuda:0", 8, None, 7),
        ("cuda:0", 2.7, None, 2),
        ("cuda:0", 1, None, 2),
        ("cuda:0", 96, None, 16),
        ("cpu", 96, None, 2),
        ("cpu", 96, 5, 5),
        ("cuda:0", 8, 1, 1),
    ],
)
def test_encode_threads_follow_the_cores_beside_a_gpu(
    device: str, num_cores: float, configured: int | None, expected: int
) -> None:
    config = build_config(source={"url": "/a"}, destination={"url": "/b"}, execution={"num_encode_threads": configured})
    assert config.execution.encode_threads(device, num_cores) == expected
