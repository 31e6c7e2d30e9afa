from __future__ import annotations

import pytest

from pipeline.config import StorageConfig
from pipeline.storage.endpoints import custom_endpoint, may_overlap

A, B = StorageConfig(endpoint_url="http://127.0.0.1:1"), StorageConfig(endpoint_url="https://s3.example.com")
AWS = StorageConfig()


@pytest.fixture(autouse=True)
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("source", "destination"), [(A, B), (A, AWS), (AWS, B)])
def test_buckets_at_two_endpoints_do_not_overlap(source: StorageConfig, destination: StorageConfig) -> None:
    assert not may_overlap("s3://photos", source, "s3a://photos/hdr", destination)
    assert may_overlap("s3://photos", source, "s3://photos/hdr", source)


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://S3.example.com/")
    assert custom_endpoint(AWS) == "https://S3.example.com/"
    assert may_overlap("s3://photos", AWS, "s3://photos/hdr", B)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert not may_overlap("s3://photos", AWS, "s3://photos/hdr", B)


def test_other_places_may_always_overlap() -> None:
    assert may_overlap("/photos", A, "s3://photos", B)
    assert may_overlap("gs://photos", A, "gs://photos/hdr", B)


def test_another_machines_environment_is_taken_where_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.com")
    assert not may_overlap("s3://photos", AWS, "s3://photos/hdr", B, environment={})
    assert not may_overlap("s3://photos", A, "s3://photos/hdr", B, environment={"AWS_ENDPOINT_URL_S3": "http://x"})
    assert may_overlap("s3://photos", A, "s3://photos", AWS, environment={"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"})
