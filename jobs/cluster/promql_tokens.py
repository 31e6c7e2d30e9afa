"""PromQL as a row of tokens, and a reader of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.cluster.promql_names import AGGREGATIONS, SETS

DURATION = r"(?=\d)(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m(?!s))?(?:\d+s)?(?:\d+ms)?"
_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)
      | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<duration>"""
    + DURATION
    + r"""(?![\w.]))
      | (?P<name>(?:[A-Za-z_]|:(?![\d\s\]]))[\w:]*)
      | (?P<sign>=~|!~|==|!=|<=|>=|[-+*/%^<>=(){}\[\],:@])""",
    re.VERBOSE,
)
GROUPING = frozenset({"by", "without"})
MATCHING = frozenset({"on", "ignoring"})
SIDES = frozenset({"group_left", "group_right"})
# Words that may be written in capitals, unlike names of functions and metrics.
_KEYWORDS = GROUPING | MATCHING | SIDES | SETS | {"bool", "offset", "atan2", *AGGREGATIONS}
# Words that cannot be a metric.
RESERVED = GROUPING | MATCHING | SETS | {"bool", "offset"}
_LABEL = re.compile(r"[A-Za-z_]\w*")


class PromqlError(ValueError):
    """An expression that Prometheus would refuse; the message says why."""


def tokens_of(expression: str) -> list[tuple[str, str]]:
    """The tokens, each with its group: text, number, duration, name or sign. Raises PromqlError."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None or match.end() == position:
            raise PromqlError(f"{expression[position : position + 20]!r} cannot be read")
        position = match.end()
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
    return tokens


@dataclass(slots=True)
class TokenReader:
    """Reads tokens one by one; every method raises PromqlError where something else stands there."""

    tokens: list[tuple[str, str]]
    position: int = 0

    def peek(self) -> tuple[str, str]:
        """The group and the text of the next token; the group `end` behind the last."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "the end")

    def word(self) -> str:
        """The next token where it is a name or a sign, keywords in small letters; else empty."""
        group, text = self.peek()
        if group not in {"name", "sign"}:
            return ""
        return text.lower() if text.lower() in _KEYWORDS else text

    def next(self) -> tuple[str, str]:
        """Take the next token."""
        group, text = self.peek()
        if group == "end":
            raise PromqlError("it ends too early; a bracket or a value is missing")
        self.position += 1
        return group, text

    def expect(self, wanted: str) -> None:
        """Take a sign."""
        group, text = self.peek()
        if group == "end":
            raise PromqlError(f"{wanted!r} is missing at its end")
        if group != "sign" or text != wanted:
            raise PromqlError(f"{text!r} stands where {wanted!r} belongs")
        self.position += 1

    def expect_end(self) -> None:
        """Raise where tokens are left."""
        if self.position < len(self.tokens):
            raise PromqlError(f"{self.peek()[1]!r} is left over")

    def label_list(self) -> None:
        """Take labels in brackets."""
        self.expect("(")
        while self.word() != ")":
            group, label = self.next()
            if group != "text" and not _LABEL.fullmatch(label):
                raise PromqlError(f"{label!r} is no label")
            if self.word() != ")":
                self.expect(",")
        self.next()

    def duration(self, *, may_be_0: bool = False) -> None:
        """Take a duration, or a number of seconds."""
        group, text = self.next()
        if group in {"duration", "number"} and not may_be_0 and not re.search("[1-9]", text):
            raise PromqlError(f"the duration {text} is empty")
        if group not in {"duration", "number"}:
            raise PromqlError(f"{text!r} is no duration; write a number with ms, s, m, h, d, w or y")
