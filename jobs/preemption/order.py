"""What a drainer is told to do: the one value that passes from the agent to its child process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

# Where nobody said when the machine ends, or only a look was asked for.
UNBOUNDED_S = 3600.0


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """Drain the Ray nodes of this machine, or only look which they are.

    `address` is the cluster's (host:port; None: what `ray start` joined here), `node_ip` that of the nodes (None: every
    address of this machine). The work is over at `stop_at`, in seconds since 1970; `ends_at` is what the cluster is
    told (None: nobody said when). With `until_gone` it is over as soon as the nodes have finished and left.
    """

    stop_at: float
    address: str | None = None
    node_ip: str | None = None
    message: str = ""
    ends_at: float | None = None
    until_gone: bool = False
    only_look: bool = False

    def to_text(self) -> str:
        """The order as one argument of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> DrainOrder:
        """The inverse of `to_text`."""
        return cls(**json.loads(text))
