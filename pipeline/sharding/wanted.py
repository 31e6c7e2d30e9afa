"""Which sources a pass over a listing is for, and where they lie."""

from __future__ import annotations

from collections.abc import Collection


class WantedSources:
    """The sources that a pass is for, and every folder that one of them lies in."""

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = sources
        self._folders = {folder for source in sources for folder in _folders_above(source)}

    def __contains__(self, source: str) -> bool:
        """Whether the pass is for this source."""
        return source in self._sources

    def lies_below(self, folder: str) -> bool:
        """Whether a wanted source lies somewhere below `folder`, which is named as sources are."""
        return folder in self._folders


def _folders_above(source: str) -> list[str]:
    segments = source.split("/")
    return ["/".join(segments[:number]) for number in range(1, len(segments))]
