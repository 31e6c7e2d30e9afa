"""What a Dockerfile copies: what a stage made, code that nobody may change, constraints that are to be heeded."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator

from jobs.cluster.dockerfile import Dockerfile, Instruction, Stage, expand
from jobs.cluster.dockerfile_names import arguments_of, flags_of
from jobs.cluster.findings import Finding
from jobs.cluster.packages import local_installs

_PATH = re.compile(r"(?<![\w.:/-])/[\w.+-]+(?:/[\w.+-]+)*")
# What the image below a stage may have of its own.
_OF_BASES = re.compile(r"/(?:bin|etc|home|lib\w*|root|sbin|usr|var)(?:/.*)?")
_OWNED_BY_ROOT = re.compile(r"(?:0+|root)(?::.*)?")
_OWN_FILES = re.compile(r"/(?:home|tmp)/.*")
_CONSTRAINTS = re.compile(r"[\w.-]*constraints[\w.-]*\.txt")


def check_copies(parsed: Dockerfile) -> Iterator[Finding]:
    """Yield copies of what no stage made, code that its user may change, and constraints that are not heeded."""
    by_name = {stage.name.lower(): stage for stage in parsed.stages if stage.name}
    by_name |= {str(index): stage for index, stage in enumerate(parsed.stages)}
    for stage in parsed.stages:
        arguments = parsed.arguments | arguments_of(stage)
        for each in stage.instructions:
            if each.name == "COPY":
                flags, paths = flags_of(each)
                source = by_name.get(expand(flags.get("from") or "", arguments).lower())
                if source is not None and source is not stage:
                    yield from _check_made(each, expand(paths, arguments).split()[:-1], _paths_of(source, by_name))
        yield from _check_constraints(stage)
    for each in parsed.stages[-1].instructions:
        yield from _check_owner(each)


def _check_made(each: Instruction, sources: list[str], made: set[str]) -> Iterator[Finding]:
    for source in map(posixpath.normpath, sources):
        is_known = any(f"{path}/".startswith(f"{source}/") or f"{source}/".startswith(f"{path}/") for path in made)
        if _PATH.fullmatch(source) and not is_known and not _OF_BASES.fullmatch(source):
            near = difflib.get_close_matches(source, made, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Finding(f"line {each.line}: COPY", "docker_stage", f"the stage does not make {source}{hint}")


def _paths_of(stage: Stage, by_name: dict[str, Stage]) -> set[str]:
    """The paths that a stage, and those that it is built on, name in any instruction."""
    found = {path for each in stage.instructions for path in _PATH.findall(each.value)}
    below = by_name.get(stage.base.lower())
    return found | (_paths_of(below, by_name) if below is not None and below.line < stage.line else set())


def _check_owner(each: Instruction) -> Iterator[Finding]:
    if each.name != "COPY":
        return
    flags, paths = flags_of(each)
    owner, target = flags.get("chown"), paths.split()[-1:]
    if owner and not _OWNED_BY_ROOT.fullmatch(owner) and not any(map(_OWN_FILES.fullmatch, target)):
        yield Finding(
            f"line {each.line}: COPY",
            "writable_root",
            f"--chown={owner}: who gets in can change the programs; leave them to root",
        )


def _check_constraints(stage: Stage) -> Iterator[Finding]:
    """What is installed from a folder, with all that it asks for, is held to each file of versions that is there."""
    files = {
        posixpath.basename(word)
        for each in stage.instructions
        if each.name == "COPY"
        for word in flags_of(each)[1].split()
        if _CONSTRAINTS.fullmatch(posixpath.basename(word))
    }
    for each in stage.instructions:
        for arguments in local_installs(each.value) if each.name == "RUN" else ():
            missing = sorted(name for name in files if name not in re.split(r"[\s=/'\"]+", arguments))
            if missing:
                said = f"pip install without {', '.join(missing)}, which is there: write --constraint {missing[0]}"
                yield Finding(f"line {each.line}: RUN", "unpinned_packages", said)
