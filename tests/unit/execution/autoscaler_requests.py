"""Requests as Ray's autoscaler reports them."""

from __future__ import annotations

from collections.abc import Mapping

from ray.core.generated.autoscaler_pb2 import ResourceRequest


def fill(request: ResourceRequest, resources: Mapping[str, float], labels: Mapping[str, str]) -> None:
    """Make it one for these resources, on a node with these labels."""
    request.resources_bundle.update(resources)
    if labels:
        selector = request.label_selectors.add()
        for key, value in labels.items():
            selector.label_constraints.add(label_key=key, label_values=[value])
