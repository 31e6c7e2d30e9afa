"""Broken copies of the Dockerfile, and of small ones: each fault is found, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import DOCKERFILE, found_in_text

from jobs.cluster.dockerfile import expand, parse_dockerfile
from jobs.cluster.dockerfile_rules import check_dockerfile

DIGEST = "sha256:" + "0" * 64
SOUND = f"""
FROM debian:13@{DIGEST} AS builder
RUN apt-get update && apt-get install --no-install-recommends -y gcc && gcc -o /a && rm -rf /var/lib/apt/lists/*
FROM debian:13@{DIGEST}
COPY --from=builder /a /a
USER 1000
HEALTHCHECK CMD true
"""


def codes(text: str) -> list[str]:
    return [each.code for each in check_dockerfile(text)]


@pytest.mark.parametrize("start", ["[]", '["tini", "--"]', '["/usr/bin/tini", "-g", "--"]', '[ "dumb-init" ]'])
def test_entrypoint_that_runs_what_it_is_given_is_sound(start: str) -> None:
    assert codes(f"{SOUND}ENTRYPOINT {start}\n") == []


def test_small_file_is_sound() -> None:
    assert codes(SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("@${CUDA_DIGEST} AS runtime", " AS runtime", "image_unpinned"),
        ("CUDA_TAG=12.8.1-base-ubuntu24.04", "CUDA_TAG=latest", "image_unpinned"),
        ("USER 1000:1000\n", "", "root_user"),
        ("USER 1000:1000", "USER root", "root_user"),
        ("USER 1000:1000", "USER hdrfleet", "root_user"),
        ("HEALTHCHECK --interval", "LABEL x=--interval", "no_healthcheck"),
        ('version="0.1.0"', 'version="9.9.9"', "package_version"),
        (" --constraint constraints.txt torch", " torch", "unpinned_packages"),
        ("COPY pipeline pipeline", "COPY . .", "copies_all"),
        ("COPY pipeline pipeline", "ADD pipeline pipeline", "docker_add"),
        ("COPY pipeline pipeline", "COPY .env pipeline", "secret"),
        ("COPY pipeline pipeline", "COPY .aws/credentials /root/.aws/", "secret"),
        ("PYTHONUNBUFFERED=1", "AWS_SECRET_ACCESS_KEY=abc", "secret"),
        ("ARG CUDA_DIGEST", "ARG CUDA_DIGEST\nFROM scratch\nARG PIP_TOKEN", "secret"),
        ("PYTHONUNBUFFERED=1", "X=AKIAABCDEFGHIJKLMNOP", "secret"),
        ("    && rm -rf /var/lib/apt/lists/*\nRUN python3", "\nRUN python3", "docker_apt"),
        ("--no-install-recommends python3 python3-venv", "python3 python3-venv", "docker_apt"),
        ("RUN python3 -m venv /opt/hdrfleet", "RUN curl https://example.com/x.sh | bash", "pipe_to_shell"),
        ("RUN python3 -m venv /opt/hdrfleet", "RUN apt-get upgrade", "image_unpinned"),
        ("RUN python3 -m venv /opt/hdrfleet", "RUN sudo true", "privileged"),
        (" --constraint constraints.txt --constraint constraints-image.txt", "", "unpinned_packages"),
        (" --constraint constraints-image.txt '.[", " '.[", "unpinned_packages"),
        (
            " --constraint constraints.txt --constraint constraints-image",
            " --constraint constraints-image",
            "unpinned_packages",
        ),
        (
            "--no-cache-dir --constraint constraints.txt torch",
            "--trusted-host x -c constraints.txt torch",
            "untrusted_index",
        ),
        ("constraints.txt torch", "constraints.txt --extra-index-url=http://x/simple torch", "untrusted_index"),
        ("PYTHONUNBUFFERED=1", "PIP_INDEX_URL=http://x/simple", "untrusted_index"),
        ("PYTHONUNBUFFERED=1", "PIP_TRUSTED_HOST=x", "untrusted_index"),
        ("COPY --from=builder", "COPY --chown=1000:1000 --from=builder", "writable_root"),
        ("COPY --from=builder", "COPY --from=builder --chown=hdrfleet", "writable_root"),
        ("--from=builder /opt/hdrfleet /", "--from=builder /opt/hdrflet /", "docker_stage"),
        ("--from=builder /opt/hdrfleet /", "--from=builder /venv /", "docker_stage"),
        ("constraints.txt torch", "constraints.txt torch 'ray[default]==2.50.0'", "ray_version"),
        ("constraints.txt torch", "constraints.txt torch hdrfleet==9.9.9", "package_version"),
        ("COPY --from=builder", "COPY --from=bulider", "docker_stage"),
        ("COPY --from=builder", "COPY --from=1", "docker_stage"),
        ("COPY --from=builder", "COPY --form=builder", "docker_syntax"),
        ("RUN python3 -m venv", "RUN --mount=type=bind,from=build,source=/x python3 -m venv", "docker_stage"),
        ("RUN python3 -m venv", "RUN --mnt=type=cache python3 -m venv", "docker_syntax"),
        ("--start-period=180s", "--startperiod=180s", "docker_syntax"),
        ("--interval=30s", "--interval=30", "docker_syntax"),
        ("--retries=3", "--retries=3s", "docker_syntax"),
        ('CMD ["bash", "-c", "if pgrep', '["bash", "-c", "if pgrep', "docker_syntax"),
        ("PYTHONUNBUFFERED=1", "RAY_AUTH_MODE=disabled", "no_token"),
        ("PYTHONUNBUFFERED=1", "RAY_AUTH_MODE=''", "no_token"),
        ("USER 1000:1000", "ENV RAY_AUTH_MODE disabled\nUSER 1000:1000", "no_token"),
        (
            "RUN python3 -m venv",
            "RUN echo export RAY_AUTH_MODE=off > /etc/profile.d/x.sh && python3 -m venv",
            "no_token",
        ),
        ('CMD ["hdrfleet"', 'ENTRYPOINT ["hdrfleet"]\nCMD ["hdrfleet"', "entrypoint"),
        ('CMD ["hdrfleet"', 'ENTRYPOINT hdrfleet\nCMD ["hdrfleet"', "entrypoint"),
        ('CMD ["hdrfleet"', 'EXPOSE 8265 6379\nCMD ["hdrfleet"', "public_port"),
        ('CMD ["hdrfleet"', 'ENTRYPOINT ["tini", "--", "hdrfleet"]\nCMD ["hdrfleet"', "entrypoint"),
        ("RUN python3 -m venv /opt/hdrfleet", "RUNN python3 -m venv", "docker_syntax"),
    ],
)
def test_fault_is_found(old: str, new: str, expected: str, tmp_path: Path) -> None:
    found = found_in_text(DOCKERFILE, tmp_path, old, new)
    assert expected in [code for _, code in found]
    assert all(place.startswith(("line ", "stage ")) for place, _ in found)


def test_place_is_the_line_in_which_an_instruction_begins() -> None:
    text = SOUND.replace("COPY --from", "# why\nRUN a \\\n  # between\n\n  && pip install torch\nCOPY --from")
    assert [(each.place, each.code) for each in check_dockerfile(text)] == [("line 6: RUN", "unpinned_packages")]


def test_one_stage_alone_is_found() -> None:
    assert codes(f"FROM debian:13@{DIGEST}\nUSER 7\nHEALTHCHECK CMD true") == ["single_stage"]


def test_pipes_need_pipefail() -> None:
    piped = SOUND.replace("COPY --from", "RUN a | b\nCOPY --from")
    assert codes(piped) == ["docker_pipe"]
    assert codes(piped.replace("RUN a |", 'SHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN a |')) == []
    assert codes(SOUND.replace("COPY --from", "RUN a || b\nCOPY --from")) == []


def test_file_without_a_stage_is_found() -> None:
    assert codes("# nothing") == ["docker_syntax"]
    assert codes("RUN true") == ["docker_syntax", "docker_syntax"]


def test_stage_that_is_built_on_another_needs_no_digest() -> None:
    parsed = parse_dockerfile("ARG T=1\nARG D\nFROM --platform=linux/amd64 a:${T}@$D AS one\nFROM one as two\nRUN x\n")
    assert [(stage.base, stage.name, stage.line) for stage in parsed.stages] == [
        ("a:${T}@$D", "one", 3),
        ("one", "two", 4),
    ]
    assert parsed.arguments == {"T": "1", "D": None}
    assert expand(parsed.stages[0].base, parsed.arguments) == "a:1@$D"


def test_stage_is_told_that_was_meant() -> None:
    (finding,) = check_dockerfile(SOUND.replace("--from=builder", "--from=bulider"))
    assert (finding.place, finding.message) == (
        "line 5: COPY",
        "there is no stage bulider above; did you mean builder?",
    )


@pytest.mark.parametrize(
    "source", ["builder", "BUILDER", "0", f"registry.example.com/tools:1@{DIGEST}", "tools:1@$DIGEST", "${STAGE}"]
)
def test_stage_or_pinned_image_is_sound(source: str) -> None:
    text = "ARG STAGE=builder\n" + SOUND.replace("--from=builder", f"--chown=0:0 --from={source}")
    assert codes(text) == []


@pytest.mark.parametrize(
    "copy",
    [
        "COPY --from=builder /usr/share/fonts /usr/share/fonts",  # of the image below
        "COPY --from=builder /a/b/c /a",
        "COPY --from=builder --chown=1000 /a /home/me/a",
        "COPY --from=builder --chown=root:root /a /b",
        "COPY --from=0 /a /a",
    ],
)
def test_copy_of_what_may_be_there_is_sound(copy: str) -> None:
    assert codes(SOUND.replace("COPY --from=builder /a /a", copy)) == []


def test_what_a_stage_below_made_is_there() -> None:
    above = f"FROM builder AS two\nRUN true\nFROM debian:13@{DIGEST}\nCOPY --from=two"
    text = SOUND.replace(f"FROM debian:13@{DIGEST}\nCOPY --from=builder", above)
    assert codes(text) == []
    assert codes(text.replace("/a /a", "/b /a")) == ["docker_stage"]


def test_version_by_an_argument_is_seen() -> None:
    text = SOUND.replace("COPY --from", "ARG RAY=2.9.0\nRUN pip install ray==${RAY}\nCOPY --from")
    assert codes(text) == ["ray_version"]


def test_what_says_the_same_is_sound() -> None:
    from importlib.metadata import version

    more = f"ENV RAY_AUTH_MODE=token\nRUN pip install ray=={version('ray')}\nCOPY --from"
    assert codes(SOUND.replace("COPY --from", more)) == []
    flags = "HEALTHCHECK --interval=1m30s --timeout=500ms --start-interval=5s --retries=2 CMD true"
    assert codes(SOUND.replace("HEALTHCHECK CMD true", flags)) == []
