"""What an image for a cluster should hold to, by its Dockerfile: rules of our own, which run offline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pipeline
from jobs.cluster.dockerfile import Dockerfile, Instruction, Stage, expand, parse_dockerfile
from jobs.cluster.dockerfile_copies import check_copies
from jobs.cluster.dockerfile_names import arguments_of, check_names
from jobs.cluster.findings import Finding
from jobs.cluster.images import check_versions_in_command
from jobs.cluster.packages import check_pinned_packages
from jobs.cluster.secrets import is_secret_name

_SECRET_FILE = re.compile(
    r"(?i)(?:^|[\s/\"'])(?:\.env|id_(?:rsa|ed25519|ecdsa)|\.aws|\.ssh|\.netrc|auth_token|[\w.-]+\.pem)(?=$|[\s/\"'])"
)
_ASSIGNMENT = re.compile(r"(\w+)=(\"[^\"]*\"|'[^']*'|\S*)")
_AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE(?:=|\s+)[\"']?(\w*)")
# Entry points that run what they are given: none, an init, or NVIDIA's script, which ends with exec.
_PASSES_ON = re.compile(
    r"""\[\s*(?:\]|"(?:[\w./-]*/)?(?:tini|dumb-init|catatonit|nvidia_entrypoint\.sh)"(?:\s*,\s*"-[^"]*")*\s*\])"""
)
_INDEX = re.compile(r"\bPIP_(?:TRUSTED_HOST\b|(?:EXTRA_)?INDEX_URL[= ][\"']?http://)")
_VERSION_LABEL = re.compile(r"org\.opencontainers\.image\.version=[\"']?([^\s\"']+)")


def check_dockerfile(text: str) -> list[Finding]:
    """Return what is wrong with a Dockerfile; places are stages and lines."""
    parsed = parse_dockerfile(text)
    findings = [
        Finding(f"line {each.line}", "docker_syntax", f"{each.name[:40]!r} is no instruction here")
        for each in parsed.unknown
    ]
    if not parsed.stages:
        return [*findings, Finding("", "docker_syntax", "there is no FROM")]
    findings += _check_bases(parsed)
    findings += [*check_names(parsed), *check_copies(parsed)]
    for stage in parsed.stages:
        findings += _check_versions(stage, parsed.arguments | arguments_of(stage))
        for each in stage.instructions:
            findings += [found for check in _CHECKS for found in check(each)]
        findings += _check_pipes(stage)
    return findings + list(_check_image(parsed))


def _check_bases(parsed: Dockerfile) -> Iterator[Finding]:
    names = {stage.name for stage in parsed.stages if stage.name}
    for stage in parsed.stages:
        if stage.base in names or stage.base == "scratch":
            continue
        place = f"line {stage.line}: FROM"
        base, at_sign, digest = expand(stage.base, parsed.arguments).partition("@")
        tag = base.rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"}:
            yield Finding(place, "image_unpinned", f"{base} has no tag that says what it is")
        pinned = digest.startswith("$") or re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        if not at_sign or not pinned:
            yield Finding(
                place, "image_unpinned", f"{base} is not pinned by a digest; write @sha256:..., or an argument for it"
            )
    if len(parsed.stages) == 1:
        yield Finding(
            f"line {parsed.stages[0].line}: FROM",
            "single_stage",
            "build tools stay in the image; copy what they make into a last stage",
        )


def _check_image(parsed: Dockerfile) -> Iterator[Finding]:
    last = parsed.stages[-1]
    place = f"stage {last.name or len(parsed.stages) - 1}"
    users = [each for each in last.instructions if each.name == "USER"]
    user = users[-1].value.partition(":")[0] if users else ""
    if user in {"", "root", "0"}:
        yield Finding(place, "root_user", "runs as root; end it with USER and a number, such as USER 1000:1000")
    elif not user.isdigit():
        yield Finding(place, "root_user", f"USER {user} is a name, and runAsNonRoot of Kubernetes asks for a number")
    checks = [each for each in last.instructions if each.name == "HEALTHCHECK"]
    if not checks or checks[-1].value.strip().upper() == "NONE":
        yield Finding(place, "no_healthcheck", "has no HEALTHCHECK")
    starts = [each for each in last.instructions if each.name == "ENTRYPOINT"]
    if starts and not _PASSES_ON.match(starts[-1].value):
        yield Finding(
            f"line {starts[-1].line}: ENTRYPOINT",
            "entrypoint",
            "Ray's launcher starts the container with bash, which would become an argument of it; use CMD",
        )
    for each in last.instructions:
        if each.name == "EXPOSE":
            yield Finding(
                f"line {each.line}: EXPOSE {each.value}",
                "public_port",
                "`docker run -P` would open it on every address of the machine; drop it: Ray's nodes do without",
            )
        for version in _VERSION_LABEL.findall(each.value) if each.name == "LABEL" else ():
            if version != pipeline.__version__:
                yield Finding(
                    f"line {each.line}: LABEL",
                    "package_version",
                    f"says {version}, and hdrfleet is {pipeline.__version__}",
                )


def _check_secrets(each: Instruction) -> Iterator[Finding]:
    if each.name in {"ARG", "ENV"}:
        pairs = _ASSIGNMENT.findall(each.value) or [(each.value.partition(" ")[0], each.value)]
        for name, value in pairs:
            # An ARG without a value is a secret, too: `docker history` shows what was given.
            if is_secret_name(name) and (value or each.name == "ARG"):
                yield Finding(
                    f"line {each.line}: {each.name}",
                    "secret",
                    f"{name} stays in the image; use RUN --mount=type=secret",
                )
    if each.name in {"COPY", "ADD"} and _SECRET_FILE.search(each.value):
        yield Finding(f"line {each.line}: {each.name}", "secret", "copies a file that holds secrets into the image")


def _check_copies(each: Instruction) -> Iterator[Finding]:
    place = f"line {each.line}: {each.name}"
    if each.name == "ADD":
        what = "fetches what nobody checked" if "://" in each.value else "unpacks archives"
        yield Finding(place, "docker_add", f"ADD {what}; use COPY")
    if each.name == "COPY" and re.match(r"(?:--\S+\s+)*\./?\s", each.value) and "--from=" not in each.value:
        yield Finding(place, "copies_all", "copies the whole folder; name what is needed")


def _check_shell(each: Instruction) -> Iterator[Finding]:
    if each.name != "RUN":
        return
    place = f"line {each.line}: RUN"
    if re.search(r"\b(?:curl|wget)\b[^|&;]*\|\s*(?:ba|da)?sh\b", each.value):
        yield Finding(place, "pipe_to_shell", "runs what it downloads without a look at it")
    if re.search(r"\bsudo\b|chmod\s+(?:-R\s+)?777", each.value):
        yield Finding(place, "privileged", "sudo and mode 777 have no place in an image")
    if re.search(r"\bapt(?:-get)?\s+install\b", each.value):
        for wanted in ("--no-install-recommends", "/var/lib/apt/lists"):
            if wanted not in each.value:
                yield Finding(place, "docker_apt", f"apt-get install without {wanted} leaves much behind")
    if re.search(r"\bapt(?:-get)?\s+(?:dist-)?upgrade\b", each.value):
        yield Finding(place, "image_unpinned", "apt-get upgrade makes another image each day; take a newer base")


def _check_pip(each: Instruction) -> Iterator[Finding]:
    place = f"line {each.line}: {each.name}"
    if each.name in {"ARG", "ENV"} and _INDEX.search(each.value):
        yield Finding(place, "untrusted_index", "pip would take packages from whoever is on the way; use https")
    if each.name == "RUN":
        yield from check_pinned_packages(f"line {each.line}: RUN", each.value)


def _check_versions(stage: Stage, arguments: dict[str, str | None]) -> Iterator[Finding]:
    for each in stage.instructions:
        if each.name == "RUN":
            yield from check_versions_in_command(f"line {each.line}: RUN", expand(each.value, arguments))


def _check_token(each: Instruction) -> Iterator[Finding]:
    """The image's environment is the cluster's: what it says of tokens holds wherever nobody says more."""
    found = _AUTH_MODE.search(each.value) if each.name in {"ENV", "RUN"} else None
    if found and found[1] != "token":
        yield Finding(
            f"line {each.line}: {each.name}",
            "no_token",
            f"RAY_AUTH_MODE is {found[1] or 'empty'}: Ray in this image asks for no token; leave it out",
        )


def _check_pipes(stage: Stage) -> Iterator[Finding]:
    has_pipefail = False
    for each in stage.instructions:
        has_pipefail |= each.name == "SHELL" and "pipefail" in each.value
        if (
            each.name == "RUN"
            and not has_pipefail
            and re.search(r"[^|]\|[^|]", each.value)
            and "pipefail" not in each.value
        ):
            yield Finding(
                f"line {each.line}: RUN", "docker_pipe", "a pipe hides what fails in it; set SHELL with -o pipefail"
            )


_CHECKS: tuple[Callable[[Instruction], Iterator[Finding]], ...] = (
    _check_secrets,
    _check_copies,
    _check_shell,
    _check_pip,
    _check_token,
)
