from __future__ import annotations

import pytest

from jobs.cluster.findings import is_everybody


@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "96.0.0.0/6", "2000::/3", "1.2.3.4/0"]
)
def test_half_of_the_world_is_everybody(cidr: str) -> None:
    assert is_everybody(cidr)


@pytest.mark.parametrize(
    "cidr", ["10.0.0.0/8", "192.168.1.7/32", "2001:db8::/32", "", "REPLACE", None, ["0.0.0.0/0"], 8]
)
def test_a_network_of_ones_own_is_not(cidr: object) -> None:
    assert not is_everybody(cidr)
