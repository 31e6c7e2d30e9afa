"""Files that Ray's launcher copies to nodes: credentials among them are found, by the path here and there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import AWS, GCP, appended, found_in_copy, set_to

from jobs.cluster.synced_files import holds_credentials

TARGET = "/home/hdrfleet/mounted"
PLACE = f'file_mounts["{TARGET}"]'


@pytest.mark.parametrize(
    "source",
    [
        "~/.aws",
        "~/.aws/",
        "~/.aws/credentials",
        "~/work/../.aws/credentials",
        "$HOME/.ssh",
        "${HOME}/.ssh/id_ed25519",
        "/home/ann/.ssh/",
        "~",
        "~/",
        "~ann",
        "$HOME",
        "/root",
        "/home/ann",
        "/Users/ann/",
        "/home",
        "/",
        "/etc",
        "~/.config",
        "~/.config/gcloud",
        "~/.config/gcloud/application_default_credentials.json",
        "~/.kube",
        "~/.kube/config",
        "~/.docker",
        "~/.docker/config.json",
        "~/.netrc",
        "~/.azure",
        "~/.git-credentials",
        "~/keys/hdrfleet.pem",
        "keys/id_rsa",
        "deploy.key",
        "~/service-account.json",
        "my_service_account_prod.json",
        "credentials.json",
        "sa-key.json",
        "my-project-0123456789ab.json",
    ],
)
@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
def test_credentials_that_are_copied_are_found(source: str, path: Path, tmp_path: Path) -> None:
    assert found_in_copy(path, tmp_path, set_to(source, "file_mounts", TARGET)) == [(PLACE, "secret")]


@pytest.mark.parametrize(
    "target", ["/home/hdrfleet/.aws", "/home/hdrfleet/.ssh/id_rsa", "~/.config/gcloud", "/root/.netrc", "/etc/tls.key"]
)
def test_credentials_by_the_place_that_they_are_copied_to_are_found(target: str, tmp_path: Path) -> None:
    found = found_in_copy(AWS, tmp_path, set_to("./mine", "file_mounts", target))
    assert found == [(f'file_mounts["{target}"]', "secret")]


def test_credentials_that_the_head_hands_on_are_found(tmp_path: Path) -> None:
    breaks = [appended(each, "cluster_synced_files") for each in ("/data/tables", "~/.aws", "/home/hdrfleet")]
    found = found_in_copy(AWS, tmp_path, *breaks)
    assert found == [("cluster_synced_files[1]", "secret"), ("cluster_synced_files[2]", "secret")]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("~/.hdrfleet-token", "/home/hdrfleet/.ray-token2"),
        ("~/work/hdrfleet", "/home/hdrfleet"),
        ("/root/work/hdrfleet", "/home/hdrfleet/work"),
        ("/etc/hdrfleet/prices.toml", "/etc/hdrfleet/prices.toml"),
        ("~/.config/hdrfleet", "/home/hdrfleet/.config/hdrfleet"),
        ("~/ca-bundle.pem", "/home/hdrfleet/ca.pem"),
        ("~/.ssh/known_hosts", "/home/hdrfleet/known_hosts"),
        ("config.json", "/home/hdrfleet/config.json"),
        ("keyboard.json", "/home/hdrfleet/tokenizer.json"),
        ("~/aws", "/home/hdrfleet/ssh"),
    ],
)
def test_other_files_may_be_copied(source: str, target: str, tmp_path: Path) -> None:
    assert found_in_copy(AWS, tmp_path, set_to(source, "file_mounts", target)) == []


@pytest.mark.parametrize("path", [None, 7, [], ""])
def test_what_is_no_path_holds_nothing(path: object) -> None:
    assert not holds_credentials(path, is_read=True)
