"""A cloud that has no machine of some types: Ray's fake nodes, but for launches that are refused."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class RefusingProvider(FakeMultiNodeProvider):  # type: ignore[misc]  # untyped in Ray
    """Refuses the node types of the provider's setting `refused_types`, as AWS's provider does without capacity."""

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """As Ray's own, where the cloud has such machines. Raises NodeLaunchException where it has none."""
        if tags[TAG_RAY_USER_NODE_TYPE] in self.provider_config["refused_types"]:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no such machine is to be had", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
