"""Shell patterns over names with slashes, translated once to a regular expression.

`*` matches any run within one segment, `?` one character of a segment, `[abc]`, `[a-z]` and `[!abc]` one character of
a set, and `**`, as a whole segment, any number of folders (also none; at the end, everything below). A leading dot is
nothing special. Matching is case-sensitive everywhere. `[*]` stands for a literal star. These are the rules of
fsspec's glob, which differ from `fnmatch`, where `*` crosses slashes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_WILDCARDS = frozenset("*?[")


def has_wildcard(text: str) -> bool:
    """Whether `text` holds any character that a pattern gives a meaning."""
    return not _WILDCARDS.isdisjoint(text)


def translate(pattern: str) -> re.Pattern[str]:
    """Translate a pattern to a regular expression for `fullmatch`."""
    segments = pattern.split("/")
    parts: list[str] = []
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == "**":
            parts.append(".+" if is_last else "(?:[^/]+/)*")
        else:
            parts.append(_translate_segment(segment) + ("" if is_last else "/"))
    return re.compile("".join(parts), re.DOTALL)


def name_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a source name is taken: it matches any `include` (or none is given) and no `exclude`.

    A pattern with a slash is matched against the whole name, one without against the base name too.
    """
    wanted = [_matcher(pattern) for pattern in include]
    unwanted = [_matcher(pattern) for pattern in exclude]

    def is_taken(name: str) -> bool:
        return (not wanted or any(match(name) for match in wanted)) and not any(match(name) for match in unwanted)

    return is_taken


def can_match_below(pattern: str, folder: str) -> bool:
    """Whether `pattern` can match a name below `folder`; both are relative to the same root."""
    *parents, _name = pattern.split("/")
    if "**" in pattern.split("/")[-1:]:
        parents.append("**")
    for index, segment in enumerate(folder.split("/")):
        if index >= len(parents):
            return False
        if parents[index] == "**":
            return True
        if not re.fullmatch(_translate_segment(parents[index]), segment, re.DOTALL):
            return False
    return True


def excludes_below(exclude: Sequence[str], folder: str) -> bool:
    """Whether a pattern that ends in `/**` leaves out everything below `folder`."""
    segments = folder.split("/")
    above = ["/".join(segments[:number]) for number in range(1, len(segments) + 1)]
    wholes = [translate(pattern.removesuffix("/**")) for pattern in exclude if pattern.endswith("/**")]
    return "**" in exclude or any(whole.fullmatch(name) for whole in wholes for name in above)


def _matcher(pattern: str) -> Callable[[str], bool]:
    match = translate(pattern).fullmatch
    if "/" in pattern:
        return lambda name: match(name) is not None
    return lambda name: match(name) is not None or match(name.rpartition("/")[2]) is not None


def _translate_segment(segment: str) -> str:
    parts: list[str] = []
    position = 0
    while position < len(segment):
        char = segment[position]
        position += 1
        if char == "*":
            if parts[-1:] != ["[^/]*"]:
                parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[" and (end := _set_end(segment, position)) > 0:
            parts.append(_translate_set(segment[position:end]))
            position = end + 1
        else:
            parts.append(re.escape(char))
    return "".join(parts)


def _set_end(segment: str, start: int) -> int:
    """Index of the bracket that closes a set opened before `start`; -1 where none does. `[]a]` holds a bracket."""
    first = start + 1 if segment[start : start + 1] == "!" else start
    return segment.find("]", first + 1)


def _translate_set(body: str) -> str:
    negated = body.startswith("!")
    members = body.removeprefix("!") if negated else body
    pieces: list[str] = []
    position = 0
    while position < len(members):
        first = members[position]
        if members[position + 1 : position + 2] == "-" and position + 2 < len(members):
            last = members[position + 2]
            if first <= last:  # an empty range such as [z-a] matches nothing
                pieces.append(f"{re.escape(first)}-{re.escape(last)}")
            position += 3
        else:
            pieces.append(re.escape(first))
            position += 1
    if not pieces:
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{''.join(pieces)}]"
