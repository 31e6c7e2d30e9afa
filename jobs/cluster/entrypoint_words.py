"""The words of a RayJob's command: whether `hdrfleet convert` takes them, and what becomes of its exit code."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any, TypeVar

import typer

from jobs.cluster.findings import Finding, number
from pipeline.errors import ConfigError

_SHELLS = frozenset({"bash", "dash", "sh"})
_SCRIPT = re.compile(r"-\w*c")
_OPERATOR = re.compile(r"[();<>|&]+")
_UNKNOWN = re.compile(r"[$`]")  # what the shell fills in
_BUDGET = re.compile(r"--budget(?:=.*)?")
_PLACE = "spec.entrypoint"
_Group = TypeVar("_Group")


def check_words(spec: dict[str, Any]) -> Iterator[Finding]:
    """Yield why the conversion of a RayJob's spec would end at once, or be tried again, or not, against all sense."""
    found = _conversion(str(spec.get("entrypoint", "")))
    if found is None:
        return
    words, after = found
    if not any(map(_UNKNOWN.search, words)) and (fault := _misuse(words)):
        yield Finding(_PLACE, "bad_command", f"hdrfleet convert refuses it, and each try ends at once: {fault}")
    yield from _check_exit_code(words, after, number(spec.get("backoffLimit")))


def _check_exit_code(words: list[str], after: list[str], num_retries: float) -> Iterator[Finding]:
    """KubeRay tries again whatever does not end with 0; 3 and 4 are the same the next time, 1 and 2 need not be."""
    if num_retries < 1:
        return
    wanted = ["3", *(["4"] if any(map(_BUDGET.fullmatch, words)) else [])]
    is_read = any("$?" in each for each in after)
    is_over = after[:1] == [";"] and not is_read  # the next command's counts
    if is_over or after[:2] in (["||", "true"], ["||", ":"]) or after[:3] == ["||", "exit", "0"]:
        yield Finding(_PLACE, "no_retry", "ends with 0 whatever convert ends with: a driver that dies is not replaced")
    elif any(each not in after for each in wanted):
        yield Finding(
            _PLACE,
            "needless_retry",
            f"ends as convert does, which is {' or '.join(wanted)} where another try changes nothing, and KubeRay then "
            "starts another cluster; end with `|| case $? in 3|4) ;; *) exit 1 ;; esac`",
        )


def _conversion(command: str) -> tuple[list[str], list[str]] | None:
    """What stands behind `hdrfleet convert`, and what the shell reads after that; None where there is no such."""
    try:
        outer = shlex.split(command)
        is_script = len(outer) > 2 and PurePosixPath(outer[0]).name in _SHELLS and _SCRIPT.fullmatch(outer[1])
        words = _words(outer[2] if is_script else command)
    except ValueError:  # a quote that is not closed
        return None
    for index, word in enumerate(words):
        if PurePosixPath(word).name == "hdrfleet" and words[index + 1 : index + 2] == ["convert"]:
            rest = words[index + 2 :]
            end = next((at for at, each in enumerate(rest) if _OPERATOR.fullmatch(each)), len(rest))
            return rest[:end], rest[end:]
    return None


def _words(script: str) -> list[str]:
    one_line = script.strip().replace("\\\n", " ").replace("\n", " ; ")
    lexer = shlex.shlex(one_line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def _misuse(words: list[str]) -> str | None:
    """Why the command line or the configuration that it makes refuses these words; None where neither does."""
    from typer.main import get_command

    from jobs.cli import app
    from jobs.conversion_options import ConversionOptions
    from jobs.explain import MISUSED, explain_misuse
    from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage

    convert: Any = get_command(app).commands["convert"]  # type: ignore[attr-defined]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            given = convert.make_context("convert", list(words)).params
        _filled(CostOptions, given).require_sensible()
        options = _filled(ConversionOptions, given)
        if options.needs_price:  # which comes from a table that may be in the image alone
            return None
        storage = _filled(SourceStorage, given), _filled(DestinationStorage, given)
        options.config(given["src"], given["dst"], *storage, executor=given["executor"], address=given["address"])
    except MISUSED as error:
        return explain_misuse(error)
    except ConfigError as error:
        return str(error)
    except typer.Exit:
        return "it says how it is used and does nothing else"
    return None


def _filled(kind: type[_Group], given: dict[str, Any]) -> _Group:
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]
