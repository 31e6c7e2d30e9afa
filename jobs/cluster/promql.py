"""Expressions of PromQL: whether Prometheus would take them, and which metrics they name.

A parser of our own, because Prometheus' is in promtool alone, which few have installed: syntax, functions and
aggregations by name, and the types of what they are given. A test compares the two where promtool is there.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from jobs.cluster.promql_names import AGGREGATIONS, BINARY, COMPARISONS, FUNCTIONS, SETS, TYPES
from jobs.cluster.promql_tokens import GROUPING, MATCHING, RESERVED, SIDES, PromqlError, TokenReader, tokens_of

_NUMBERS = re.compile(r"(?i)inf|nan")
_LITERALS = {"text": "t", "number": "s", "duration": "s"}
_MAX_DEPTH = 60  # of brackets
_SELECTOR = "S"  # an instant vector that a range may follow
_MISPLACED = "stands where a metric, a number or a bracket belongs"


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in an expression. Raises PromqlError where it is none that Prometheus takes."""
    parser = _Parser(tokens_of(expression))
    kind = parser.expression()
    parser.expect_end()
    if kind not in "sv":
        raise PromqlError(f"it gives {TYPES[kind]}, and a rule or a panel needs a number for each series")
    return parser.metrics


@dataclass(slots=True)
class _Parser(TokenReader):
    """Recursive descent. What a part gives is a letter of `TYPES`."""

    depth: int = 0
    metrics: set[str] = field(default_factory=set)

    def expression(self, level: int = 0) -> str:
        """Read operands and the operators of this level between them."""
        kind = self._operand(level)
        while self.word() in BINARY[level]:
            operator = self.word()
            self.next()
            is_bool = self._modifiers(operator)
            right = self.expression(level) if operator == "^" else self._operand(level)
            kind = _type_of(operator, kind, right, is_bool=is_bool)
        return kind

    def _operand(self, level: int) -> str:
        if level + 1 < len(BINARY):
            return self.expression(level + 1)
        if self.word() in {"-", "+"}:
            sign = self.next()[1]
            kind = self._bracketed(len(BINARY) - 1)
            if kind not in "sv":
                raise PromqlError(f"{sign} stands before {TYPES[kind]}; it takes a number or an instant vector")
            return kind
        return self._suffixes(self._single())

    def _bracketed(self, level: int = 0) -> str:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise PromqlError("it is nested too deeply")
        kind = self.expression(level)
        self.depth -= 1
        return kind

    def _single(self) -> str:
        word = self.word()
        group, text = self.next()
        if group in _LITERALS or _NUMBERS.fullmatch(text):
            return _LITERALS.get(group, "s")
        if text == "(":
            kind = self._bracketed()
            self.expect(")")
            return kind
        if text == "{":
            self._matchers(has_name=False)
            return _SELECTOR
        if group != "name" or word in RESERVED:
            raise PromqlError(f"{text!r} {_MISPLACED}")
        if word in AGGREGATIONS and (self.word() == "(" or self.word() in GROUPING):
            return self._aggregation(word)
        if self.word() == "(":
            return self._call(text)
        self.metrics.add(text)
        if self.word() == "{":
            self.next()
            self._matchers(has_name=True)
        return _SELECTOR

    def _matchers(self, *, has_name: bool) -> None:
        is_narrow = has_name
        while self.word() != "}":
            group, label = self.next()
            if group not in {"name", "text"} or ":" in label:
                raise PromqlError(f'{label!r} is no label; write label="value"')
            if group == "text" and self.word() in {",", "}"}:  # a metric whose name needs quotes
                self.metrics.add(label[1:-1])
                is_narrow = True
            else:
                is_narrow |= self._matcher(label)
            if self.word() != "}":
                self.expect(",")
        self.next()
        if not is_narrow:
            raise PromqlError("braces without a metric need a matcher that leaves out series without the label")

    def _matcher(self, label: str) -> bool:
        """Read `="value"`; return whether it leaves out series without the label."""
        operator = self.next()[1]
        if operator not in {"=", "!=", "=~", "!~"}:
            raise PromqlError(f"label {label} is followed by {operator!r}; write =, !=, =~ or !~")
        group, text = self.next()
        if group != "text":
            raise PromqlError(f"the value of label {label} needs quotes")
        value = text[1:-1]
        if not operator.endswith("~"):
            return (value != "") is (operator == "=")
        try:
            takes_empty = re.fullmatch(value, "") is not None
        except re.error as error:
            if "bad escape" in str(error):  # which Prometheus' own kind of expressions may know
                return True
            raise PromqlError(f"label {label}: {value!r} is no regular expression ({error})") from error
        return takes_empty is (operator == "!~")

    def _call(self, name: str) -> str:
        if name not in FUNCTIONS:
            near = difflib.get_close_matches(name, [*FUNCTIONS, *AGGREGATIONS], 1)
            raise PromqlError(f"there is no function {name}" + (f"; did you mean {near[0]}?" if near else ""))
        signature, given = FUNCTIONS[name], self._arguments()
        takes = signature.takes
        if signature.is_endless:
            takes += takes[-1:] * max(0, len(given) - len(takes))
        if not len(signature.takes) - signature.num_optional <= len(given) <= len(takes):
            raise PromqlError(f"{name} takes {len(signature.takes)} arguments, not {len(given)}")
        _check_arguments(name, given, takes)
        return signature.gives

    def _aggregation(self, name: str) -> str:
        is_grouped = self._grouping()
        given = self._arguments()
        if not is_grouped:
            self._grouping()
        takes = AGGREGATIONS[name] + "v"
        if len(given) != len(takes):
            raise PromqlError(f"{name} takes {len(takes)} arguments, not {len(given)}")
        _check_arguments(name, given, takes)
        return "v"

    def _grouping(self) -> bool:
        if self.word() not in GROUPING:
            return False
        self.next()
        self.label_list()
        return True

    def _arguments(self) -> list[str]:
        self.expect("(")
        given: list[str] = []
        while self.word() != ")":
            given.append(self._bracketed())
            if self.word() != ")":
                self.expect(",")
                if self.word() == ")":
                    raise PromqlError("a comma stands before ')'")
        self.next()
        return given

    def _modifiers(self, operator: str) -> bool:
        """What stands between an operator and its right side; returns whether `bool` does."""
        is_bool = self.word() == "bool"
        if is_bool:
            self.next()
            if operator not in COMPARISONS:
                raise PromqlError(f"bool stands beside {operator}, and goes with comparisons alone")
        if self.word() in MATCHING:
            self.next()
            self.label_list()
            if self.word() in SIDES:
                if operator in SETS:
                    raise PromqlError(f"{self.word()} does not go with {operator}")
                self.next()
                if self.word() == "(":
                    self.label_list()
        return is_bool

    def _suffixes(self, kind: str) -> str:
        while self.word() in {"[", "offset", "@"}:
            word = self.word()
            self.next()
            if word == "[":
                kind = self._range(kind)
            elif kind not in {_SELECTOR, "m"}:
                raise PromqlError(f"{word} follows what is neither a metric nor a range of one")
            elif word == "offset":
                if self.word() in {"-", "+"}:
                    self.next()
                self.duration(may_be_0=True)
            else:
                self._instant()
        return "v" if kind == _SELECTOR else kind

    def _range(self, kind: str) -> str:
        self.duration()
        if self.word() == ":":
            self.next()
            if self.word() != "]":
                self.duration()
            if kind not in {_SELECTOR, "v", "s"}:
                raise PromqlError(f"a subquery is of an instant vector, not of {TYPES[kind]}")
        elif kind != _SELECTOR:
            raise PromqlError("a range follows what is no metric; write [5m:] for a subquery")
        self.expect("]")
        return "m"

    def _instant(self) -> None:
        if self.word() in {"start", "end"}:
            self.next()
            self.expect("(")
            self.expect(")")
            return
        if self.word() in {"-", "+"}:
            self.next()
        if self.next()[0] != "number":
            raise PromqlError("@ needs a time in seconds, start() or end()")


def _check_arguments(name: str, given: list[str], takes: str) -> None:
    for number, (kind, wanted) in enumerate(zip(given, takes, strict=False), 1):
        if kind != wanted:
            raise PromqlError(f"argument {number} of {name} is {TYPES[kind]}, and must be {TYPES[wanted]}")


def _type_of(operator: str, left: str, right: str, *, is_bool: bool) -> str:
    for kind in (left, right):
        if kind not in "sv" or (operator in SETS and kind != "v"):
            raise PromqlError(f"{operator} stands beside {TYPES[kind]}, which it does not take")
    if left == right == "s":
        if operator in COMPARISONS and not is_bool:
            raise PromqlError(f"{operator} between two numbers needs bool")
        return "s"
    return "v"
