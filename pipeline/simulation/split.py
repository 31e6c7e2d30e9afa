"""Which scenes are learnt from and which are kept to choose by: disjoint, and fixed once."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError, SceneError

Subset = Literal["train", "holdout"]
_HOLDOUT_SHARE = 0.2


def split_names(names: Iterable[str], holdout: Iterable[str] | None = None) -> dict[Subset, list[str]]:
    """Divide scene names into `train` and `holdout`.

    With `holdout`, exactly those names are kept back. Without it a fifth is, by a hash of the name, so that adding
    scenes moves none; names that differ in trailing numbers only (`studio_01`, `studio_07`) are often one place and
    stay together. Raises SceneError where a held-out name is not there, or one side is empty.
    """
    names = list(names)
    kept = {name for name in names if _is_held_out(name)} if holdout is None else set(holdout)
    if unknown := sorted(kept.difference(names)):
        raise SceneError(f"held-out scenes that are not there: {', '.join(unknown[:5])}")
    split: dict[Subset, list[str]] = {
        "train": [name for name in names if name not in kept],
        "holdout": [name for name in names if name in kept],
    }
    for subset, members in split.items():
        if not members:
            raise SceneError(f"no scene is left for {subset}: name the held-out ones, or add scenes")
    return split


def read_names(path: Path, flag: str) -> tuple[str, ...]:
    """Read scene names, one a line; blank lines and those that start with # do not count.

    Raises ConfigError, naming `flag`, for a file that cannot be read or names nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: cannot read the names in {path}: {error}") from error
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise ConfigError(f"{flag}: {path} names no scene; write one name a line")
    return names


def learnt_among(names: Iterable[str], learnt: Iterable[str]) -> list[str]:
    """Return those of `names` that are scenes which were `learnt`, in their order.

    A scene is known by its file, without folder and resolution: `sky/venice_sunset_2k` is `venice_sunset`. Where files
    in several folders have one name, such as `sky/scene` and `sea/scene`, the folder counts.
    """
    names, learnt = list(names), list(learnt)
    shared = _shared_files(names) | _shared_files(learnt)

    def scene_of(name: str) -> str:
        path = _without_resolution(name)
        file = path.rpartition("/")[2]
        return path if file in shared else file

    known = {scene_of(name) for name in learnt}
    return [name for name in names if scene_of(name) in known]


def _shared_files(names: Iterable[str]) -> set[str]:
    """The names of files, without folder, that more than one folder holds."""
    counts = Counter(path.rpartition("/")[2] for path in {_without_resolution(name) for name in names})
    return {file for file, count in counts.items() if count > 1}


def _without_resolution(name: str) -> str:
    return re.sub(r"_\d+k$", "", name.lower())


def _is_held_out(name: str) -> bool:
    place = re.sub(r"[\W_]*\d+$", "", name) or name
    return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") < _HOLDOUT_SHARE * 2**64
