"""Which packages of a `pip install` are pinned, as a shell writes them."""

from __future__ import annotations

import pytest

from jobs.cluster.packages import check_pinned_packages


@pytest.mark.parametrize(
    "command",
    [
        "pip install ray==2.60.0",
        "pip install 'ray[default]==2.60.0' \"hdrfleet==0.1.0\"",
        "pip install --index-url https://example.com/simple -U ray==2.60.0 > /tmp/log 2>&1",
        "pip install ray==2.60.0\necho done",
        "pip install ray==2.60.0 \\\n  numpy==2.1.0",
        "pip install --constraint constraints.txt ray",
        "pip install -r requirements.txt",
        "bash -c 'pip install ray==2.60.0'",
        "pip install /opt/hdrfleet",
        "pip install ./dist/hdrfleet-0.1.0-py3-none-any.whl",
        "pip install 'hdrfleet @ https://example.com/hdrfleet-0.1.0.tar.gz'",
        "pip install git+https://example.com/hdrfleet@0123abc",
        "pip install $WHEEL",
        "pip install -c constraints.txt '.[cluster,gcs]'",
        "pip install --no-deps -e '.[gcs]'",
        "pip list",
        "echo pip",
    ],
)
def test_pinned_packages_are_no_finding(command: str) -> None:
    assert list(check_pinned_packages("setup_commands[0]", command)) == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pip install ray", "ray"),
        ("pip3.12 install -U 'ray[default]>=2.40'", "ray[default]>=2.40"),
        ("pip install ray==2.60.0 boto3 numpy==2.1.0", "boto3"),
        ("pip install ray==2.60.0 \\\n  boto3", "boto3"),
        ("pip install ray==2.*", "ray==2.*"),
        ("uv pip install --timeout 60 boto3 pillow", "boto3, pillow"),
        ("bash -c 'pip install boto3'", "boto3"),
        ("apt-get update && python3 -m pip install boto3 && pip install ray==2.60.0", "boto3"),
        ("pip install '.[cluster,gcs]'", ".[cluster,gcs]"),
        ("pip install -e /opt/hdrfleet[gcs]", "/opt/hdrfleet[gcs]"),
        ("pip install './dist/hdrfleet-0.1.0-py3-none-any.whl[gcs]'", "./dist/hdrfleet-0.1.0-py3-none-any.whl[gcs]"),
        ("pip install git+https://example.com/hdrfleet", "git+https://example.com/hdrfleet"),
    ],
)
def test_open_packages_are_named(command: str, expected: str) -> None:
    (finding,) = check_pinned_packages("setup_commands[0]", command)
    assert (finding.place, finding.code) == ("setup_commands[0]", "unpinned_packages")
    assert f": {expected};" in finding.message
