"""What `docker.run_options` of a cluster file give the container of their machine."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, number, reach

_EVERYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d.])|(?<![\w:])\[?::\]?(?![\w:])")
# Docker takes a value right behind a short option, and several short options behind one dash.
_PUBLISHED = re.compile(r"(?:^|\s)(?:-[ditq]*[pP](?:[=\s\d\[:'\"$]|$)|--publish(?:-all)?(?:[=\s]|$))")
# Open to the node itself alone.
_PUBLISHED_TO_NODE = re.compile(
    r"(?:^|(?<=\s))(?:-[ditq]*p|--publish)[=\s]*(?P<quote>['\"]?)"
    r"(?:127(?:\.\d{1,3}){3}|\[::1\]):[\d:-]+(?:/(?:tcp|udp))?(?P=quote)(?=\s|$)"
)
_MORE_RIGHTS = re.compile(r"--privileged|docker\.sock|--cap-add\b|--security-opt[=\s]+\S*unconfined")
_FEWER_RIGHTS = re.compile(r"--cap-drop[=\s]+['\"]?ALL\b", re.IGNORECASE)
_LONG = re.compile(r"--([a-z-]+)(?:=(.*))?", re.DOTALL)
_SHORT = re.compile(r"-[ditq]*([uv])=?(.*)", re.DOTALL)
_LONG_OF = {"u": "user", "v": "volume"}
_HOST_NAMESPACES = frozenset({"pid", "ipc", "uts", "userns", "cgroupns"})
_GIVES_GPUS = frozenset({"gpus", "runtime", "device"})
_SOURCE = re.compile(r"(?:^|,)(?:source|src)=([^,]+)")
_ROOT_USER = re.compile(r"(?:0+|root)(?::.*)?")
# Whole trees of a machine that hold its programs, its secrets or its daemons' sockets; whatever lies below the second.
_TREES = frozenset({"/", "/bin", "/dev", "/home", "/lib", "/sbin", "/usr", "/var"})
_BELOW = ("/boot", "/etc", "/proc", "/root", "/run", "/sys", "/var/lib", "/var/run")
_HOMES = re.compile(r"(?:~|\$\{?HOME\}?|/home/[^/]+)(?:/\.(?:ssh|aws|config|docker|kube)(?:/.*)?)?")


def check_run_options(docker: dict[str, Any]) -> Iterator[Finding]:
    """Yield what a container may do to its machine, and the ports that it opens there."""
    if docker.get("image") or docker.get("head_image") or docker.get("worker_image"):
        yield from _check_dropped_rights(docker)
    for name in ("run_options", "head_run_options", "worker_run_options"):
        options = list(map(str, listing(docker.get(name))))
        for index, option in enumerate(options):
            place = at("docker", name, index)
            published = _PUBLISHED_TO_NODE.sub("", option)
            if _PUBLISHED.search(published) or _EVERYWHERE.search(published):
                yield Finding(place, "public_port", "publishes a port of the container on every address of the node")
            if _MORE_RIGHTS.search(option):
                yield Finding(place, "privileged", "gives the container rights over its host; hdrfleet needs none")
        for index, option, value in _values(options):
            yield from _check_value(at("docker", name, index), option, value)


def check_gpus_in_container(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield where a prepared cluster file offers GPUs that Docker does not give to the container.

    Ray gives them by itself (`--runtime=nvidia`), unless it is told not to look.
    """
    docker = mapping(prepared.get("docker"))
    types = mapping(prepared.get("available_node_types"))
    if docker.get("disable_automatic_runtime_detection") is not True:
        return
    for name, node_type in types.items():
        own = mapping(mapping(node_type).get("docker"))
        options = [*listing(docker.get("run_options")), *listing(docker.get("worker_run_options"))]
        given = {
            option for _, option, _ in _values([*map(str, options), *map(str, listing(own.get("worker_run_options")))])
        }
        if number(reach(node_type, "resources", "GPU")) > 0 and not given & _GIVES_GPUS:
            yield Finding(
                "docker.disable_automatic_runtime_detection",
                "gpu_unsatisfiable",
                f"is true, and no run option gives containers of {name} its GPUs; take it out, or write --gpus all",
            )
            return


def _check_value(place: str, option: str, value: str) -> Iterator[Finding]:
    if option in _HOST_NAMESPACES and value == "host":
        instead = "write --shm-size for more shared memory" if option == "ipc" else "hdrfleet needs no such right"
        yield Finding(place, "host_access", f"--{option}=host shares the machine's own; {instead}")
    if option == "user" and _ROOT_USER.fullmatch(value):
        yield Finding(place, "root_user", f"runs as {value}; the image's own user is 1000")
    if option in {"volume", "mount"}:
        source = _SOURCE.search(value) if option == "mount" else None
        path = source[1] if source else value.partition(":")[0]
        if _is_of_the_machine(path):
            yield Finding(place, "host_access", f"mounts {path} of the machine; name the one folder that is needed")


def _is_of_the_machine(path: str) -> bool:
    clean = re.sub("/+", "/", posixpath.normpath(path)) if path else ""
    return bool(
        clean in _TREES
        or any(clean == each or clean.startswith(f"{each}/") for each in _BELOW)
        or _HOMES.fullmatch(clean)
    )


def _values(options: list[str]) -> Iterator[tuple[int, str, str]]:
    """Each option by its long name, with its value and where it stands; Ray puts all entries into one command."""
    words = [(index, word) for index, option in enumerate(options) for word in _words(option)]
    for position, (index, word) in enumerate(words):
        after = words[position + 1][1] if position + 1 < len(words) else ""
        if match := _LONG.fullmatch(word):
            yield index, match[1], after if match[2] is None else match[2]
        elif match := _SHORT.fullmatch(word):
            yield index, _LONG_OF[match[1]], match[2] or after


def _words(option: str) -> list[str]:
    try:
        return shlex.split(option)
    except ValueError:  # a quote that another entry closes
        return option.split()


def _check_dropped_rights(docker: dict[str, Any]) -> Iterator[Finding]:
    for part in ("head", "worker"):
        options = [*listing(docker.get("run_options")), *listing(docker.get(f"{part}_run_options"))]
        if not any(_FEWER_RIGHTS.search(str(option)) for option in options):
            yield Finding(
                at("docker", "run_options"),
                "privileged",
                f"has no --cap-drop ALL for the {part}: the container keeps rights of root",
            )
