"""Which nodes of a cluster are on this machine, asked of the cluster without being one of its drivers or workers."""

from __future__ import annotations

import psutil
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RayError

from pipeline.errors import SystemicError, first_line

_TIMEOUT_S = 5.0


class ClusterSilentError(SystemicError):
    """The cluster cannot be found, does not answer, or does not let us in."""

    code = "cluster_silent"


def cluster_address(address: str | None) -> str:
    """Where the control plane (GCS) is, host:port: `address`, else RAY_ADDRESS, else what the last `ray start` joined.

    Raises ClusterSilentError where none of them says so.
    """
    if address not in {None, "auto"}:
        return str(address)
    try:
        found = canonicalize_bootstrap_address("auto")
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise ClusterSilentError(f"no Ray node was found here: {first_line(error)}") from error
    if not found:
        raise ClusterSilentError("no Ray node was found here")
    return str(found)


def addresses_here() -> frozenset[str]:
    """The IP addresses of this machine, or of this pod."""
    return frozenset(each.address for addresses in psutil.net_if_addrs().values() for each in addresses)


class LocalNodes:
    """The nodes of the cluster at `address` (host:port) that are at `ip_addresses`.

    Raises ClusterSilentError where the cluster does not answer. A process that uses this should be one that can be
    spared: Ray's client ends it when the control plane stays away (gcs_rpc_server_reconnect_timeout_s).
    """

    def __init__(self, address: str, ip_addresses: frozenset[str]) -> None:
        self._ip_addresses = ip_addresses
        try:
            self._client = GcsClient(address=address)
        except (RayError, RuntimeError, ValueError) as error:
            raise ClusterSilentError(f"Ray does not answer at {address}: {first_line(error)}") from error

    def alive(self) -> frozenset[str]:
        """The ids of those that are alive, in hexadecimal."""
        try:
            nodes = self._client.get_all_node_info(
                timeout=_TIMEOUT_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE
            ).values()
        except (RayError, RuntimeError, ValueError) as error:
            raise ClusterSilentError(f"Ray does not answer: {first_line(error)}") from error
        return frozenset(
            node.node_id.hex()
            for node in nodes
            if node.node_manager_address in self._ip_addresses and node.state == GcsNodeInfo.GcsNodeState.ALIVE
        )
