"""A cloud that is slow: Ray's fake nodes, which come when a test lets them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

_HELD_S = 180.0


class HeldProvider(FakeMultiNodeProvider):  # type: ignore[misc]  # untyped in Ray
    """Starts no machine before the file of the provider's setting `gate` is there, or three minutes are over."""

    def create_node_with_resources_and_labels(self, *what: Any, **named: Any) -> None:
        """As Ray's own, later. The autoscaler counts the machines as on their way meanwhile."""
        deadline = time.monotonic() + _HELD_S
        while not Path(self.provider_config["gate"]).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        super().create_node_with_resources_and_labels(*what, **named)
