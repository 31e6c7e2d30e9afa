"""`hdrfleet cluster validate` as a user meets it: exit codes, words, JSON; and what is no file for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from cluster_files import AWS, DOCKERFILE, KUBERAY

from jobs.cli import main
from jobs.cluster.documents import parse_documents, read_text
from jobs.cluster.findings import at, leaves
from jobs.cluster.images import ImageReference, parse_image
from jobs.cluster.secrets import find_shapes
from jobs.cluster.validate import validate_file
from pipeline.errors import ConfigError

BROKEN = AWS.read_text().replace("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")


# Ten references to ten references, eight times over.
BOMB = b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)
)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["hdrfleet", "cluster", "validate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_sound_files_exit_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, AWS, KUBERAY / "rayjob.yaml") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{AWS}: sound (Ray cluster)",
        f"{KUBERAY / 'rayjob.yaml'}: sound (Kubernetes)",
        "  note: RayJob/hdrfleet-convert: of the structure, only KubeRay's and pods' names were checked; "
        "give the cluster's schema with --crd",
    ]


def test_findings_exit_with_3_and_name_the_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BROKEN)
    assert run(monkeypatch, path) == 3
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: 1 finding (Ray cluster)",
        "  head_start_ray_commands[1]: the dashboard and the Jobs API listen on 0.0.0.0; write "
        "--dashboard-host=127.0.0.1 [public_dashboard]",
    ]


def test_json_holds_all_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(BROKEN)
    assert run(monkeypatch, "--json", path, DOCKERFILE) == 3
    printed = json.loads(capsys.readouterr().out)
    assert printed["sound"] is False
    assert [each["kind"] for each in printed["files"]] == ["Ray cluster", "Dockerfile"]
    (finding,) = printed["files"][0]["findings"]
    assert (finding["place"], finding["code"]) == ("head_start_ray_commands[1]", "public_dashboard")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.yaml", None, "does not exist"),
        ("broken.yaml", b"a: b: c\n", "line 1"),
        ("twice.yaml", b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' occurs twice"),
        ("number.yaml", b"a: 1\n7: 3\n", "line 2: the key 7 is no text: quote it"),
        ("loop.yaml", b"a: &a [*a]\n", "line 1: found unconstructable recursive node"),
        ("bomb.yaml", BOMB, "refers to itself"),
        ("binary.yaml", b"\xff\xfe\x00", "is no text file"),
        ("python.yaml", b"a: !!python/object/apply:os.system [true]\n", "this is no YAML"),
        ("other.yaml", b"hello: world\n", "is nothing that is known here"),
        ("empty.yaml", b"", "is nothing that is known here"),
    ],
    ids=["missing", "syntax", "key twice", "number", "loop", "bomb", "binary", "python", "other", "empty"],
)
def test_what_cannot_be_checked_exits_with_2(
    name: str,
    content: bytes | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert run(monkeypatch, path) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert str(path) in output.err
    assert output.err.count("\n") == 1


def test_schema_that_is_none_exits_with_2_before_anything_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "crd.yaml"
    path.write_text("a: 1\n")
    assert run(monkeypatch, AWS, "--crd", path) == 2
    assert "crd.yaml holds no schema" in capsys.readouterr().err


def test_folder_without_a_file_exits_with_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, tmp_path) == 2


def test_unknown_files_of_a_folder_are_searched_for_secrets_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("hello: world\n")
    assert run(monkeypatch, tmp_path) == 0
    (tmp_path / "b.yaml").write_text("x:\n- key: AKIAABCDEFGHIJKLMNOP\n")
    assert run(monkeypatch, tmp_path) == 3
    output = capsys.readouterr().out
    assert "x[0].key" in output
    assert "AKIA" not in output


SECRETS = [
    "AKIAABCDEFGHIJKLMNOP",
    "aws_secret_access_key = abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "AIza" + "a" * 35,
    "ya29." + "a" * 30,
    "ghp_" + "a" * 36,
    "github_pat_" + "a" * 60,
    "glpat-" + "a" * 20,
    "xoxb-1234567890-abc",
    "hf_" + "a" * 34,
    "nvapi-" + "a" * 40,
    "AccountKey=" + "a" * 86,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijklm",
    "redis://user:hunter2@redis:6379",
    "RAY_AUTH_TOKEN=abc",
]


@pytest.mark.parametrize("secret", SECRETS, ids=range(len(SECRETS)))
def test_secret_is_found_in_values_and_in_comments_and_not_repeated(secret: str) -> None:
    text = yaml.safe_dump({"a": {"b": ["x", secret]}})
    (finding,) = find_shapes(text, [yaml.safe_load(text)])
    assert (finding.place, finding.code) == ("a.b[1]", "secret")
    assert secret not in finding.message
    (in_comment,) = find_shapes(f"a: 1\n# {secret}\n", [{"a": 1}])
    assert in_comment.place == "line 2"


@pytest.mark.parametrize(
    "text",
    [
        "RAY_AUTH_TOKEN=$TOKEN",
        "RAY_AUTH_TOKEN_PATH=/home/x/.ray-token/auth_token",
        "s3://bucket/key",
        "git@github.com:a/b",
        "https://${USER}:${PASSWORD}@example.com",
        "-----BEGIN PUBLIC KEY-----",
        "sha256:" + "0123456789abcdef" * 4,
    ],
)
def test_what_is_no_secret_is_not_found(text: str) -> None:
    assert list(find_shapes(text, [{"a": text}])) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hdrfleet", ImageReference("hdrfleet", "", "")),
        ("a.b:5000/c/hdrfleet", ImageReference("a.b:5000/c/hdrfleet", "", "")),
        ("a.b:5000/c/hdrfleet:1.0@sha256:0", ImageReference("a.b:5000/c/hdrfleet", "1.0", "sha256:0")),
    ],
)
def test_image_references_are_taken_apart(text: str, expected: ImageReference) -> None:
    assert parse_image(text) == expected


def test_places_are_paths_of_keys() -> None:
    assert at("", "a", 0, "b-c", "x.y/z", 1) == 'a[0].b-c["x.y/z"][1]'
    assert dict(leaves({"a": [1, {"b": None}], "c": {}})) == {"a[0]": 1, "a[1].b": None}


def test_cloudformation_tags_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: !Sub '${x}'\nd: !GetAtt [p, q]\ne: !If {z: 1}\n---\n---\nf: 1\n"
    )
    assert parse_documents(read_text(path), path) == [
        {
            "a": {"x": 1, "y": 2},
            "b": {"x": 1, "y": 3},
            "c": {"Sub": "${x}"},
            "d": {"GetAtt": ["p", "q"]},
            "e": {"If": {"z": 1}},
        },
        {"f": 1},
    ]


def test_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        read_text(path)


def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        read_text(Path("/dev/zero"))


def test_an_object_whose_kind_is_no_text_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("apiVersion: ray.io/v1\nkind: [RayJob]\nmetadata: {name: x}\n")
    with pytest.raises(ConfigError, match="nothing that is known here"):
        validate_file(path, [])


def test_file_of_a_folder_that_is_nothing_is_not_called_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("hello: world\n")
    assert run(monkeypatch, tmp_path) == 0
    first, note = capsys.readouterr().out.splitlines()
    assert first == f"{path}: not recognised"
    assert note.startswith("  note: only secrets were looked for")
    path.write_text("password: hunter2\n")
    assert run(monkeypatch, tmp_path) == 3
    assert capsys.readouterr().out.startswith(f"{path}: 1 finding (not recognised)\n  password: ")
