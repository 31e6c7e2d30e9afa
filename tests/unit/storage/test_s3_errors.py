from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore import exceptions as botocore_errors
from fsspec.exceptions import FSTimeoutError

from pipeline.errors import (
    ConfigError,
    CredentialsError,
    DiskFullError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage import s3_errors


def client_error(code: str, status: int = 0, message: str = "", **headers: str) -> botocore_errors.ClientError:
    response: dict[str, Any] = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return botocore_errors.ClientError(response, "GetObject")


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("SlowDown", 503, TransientStorageError),
        ("ServiceUnavailable", 503, TransientStorageError),
        ("InternalError", 500, TransientStorageError),
        ("InternalError", 200, TransientStorageError),
        ("RequestTimeout", 400, TransientStorageError),
        ("BadDigest", 400, TransientStorageError),
        ("ConditionalRequestConflict", 409, TransientStorageError),
        ("429", 429, TransientStorageError),
        ("409", 409, TransientStorageError),
        ("520", 520, TransientStorageError),
        ("502", 502, TransientStorageError),
        ("ExpiredToken", 400, CredentialsError),
        ("InvalidAccessKeyId", 403, CredentialsError),
        ("SignatureDoesNotMatch", 403, CredentialsError),
        ("RequestTimeTooSkewed", 403, CredentialsError),
        ("InvalidTokenId", 403, CredentialsError),
        ("401", 401, CredentialsError),
        ("AccessDenied", 403, ObjectDeniedError),
        ("403", 403, ObjectDeniedError),
        ("InvalidObjectState", 403, ObjectDeniedError),
        ("NoSuchKey", 404, ObjectMissingError),
        ("404", 404, ObjectMissingError),
        ("PreconditionFailed", 412, ObjectExistsError),
        ("412", 412, ObjectExistsError),
        ("XMinioStorageFull", 507, DiskFullError),
        ("QuotaExceeded", 403, DiskFullError),
        ("XMinioAdminBucketQuotaExceeded", 400, DiskFullError),
        ("NotImplemented", 501, s3_errors.NotImplementedByStoreError),
        ("NoSuchUpload", 404, StorageError),
        ("NoSuchBucket", 404, StorageError),
        ("EntityTooLarge", 400, StorageError),
        ("", 0, StorageError),
    ],
)
def test_answers(code: str, status: int, expected: type[Exception]) -> None:
    assert type(s3_errors.map_exception(client_error(code, status), "s3://b/k")) is expected


@pytest.mark.parametrize(
    ("header", "expected_s"), [("7", 7.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-3", 0.0), ("²", 0.0)]
)
def test_how_long_a_store_asks_to_be_left_alone(header: str, expected_s: float) -> None:
    mapped = s3_errors.map_exception(client_error("SlowDown", 503, **{"retry-after": header}), "s3://b/k")
    assert isinstance(mapped, TransientStorageError)
    assert mapped.retry_after_s == expected_s


def test_a_reset_is_called_one() -> None:
    reset = botocore_errors.EndpointConnectionError(
        endpoint_url="http://h/b?sig=1", error=ConnectionResetError(104, "Connection reset by peer")
    )
    said = str(s3_errors.map_exception(reset, "s3://b/k"))
    assert said.endswith('Could not connect to the endpoint URL: "http://h/b" ([Errno 104] Connection reset by peer)')


def test_messages_say_what_happened_without_secrets() -> None:
    assert (
        str(s3_errors.map_exception(client_error("NoSuchBucket", 404), "s3://b")) == "s3://b: there is no such bucket"
    )
    error = client_error("AccessDenied", 403, "key AKIAIOSFODNN7EXAMPLE may not read https://u:p@h/k?X-Amz-Signature=1")
    assert str(s3_errors.map_exception(error, "s3://b/k")) == "s3://b/k: AccessDenied: key *** may not read https://h/k"
    assert str(s3_errors.map_exception(client_error("400", 400), "s3://b/k")) == "s3://b/k: 400: HTTP status 400"


def test_wrong_region_names_the_right_one() -> None:
    error = client_error("PermanentRedirect", 301, "elsewhere", **{"x-amz-bucket-region": "eu-west-1"})
    assert "is in region eu-west-1" in str(s3_errors.map_exception(error, "s3://b/k"))
    assert "set the bucket's region" in str(s3_errors.map_exception(client_error("301", 301), "s3://b/k"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (botocore_errors.EndpointConnectionError(endpoint_url="http://h"), TransientStorageError),
        (botocore_errors.ConnectTimeoutError(endpoint_url="http://h"), TransientStorageError),
        (botocore_errors.ReadTimeoutError(endpoint_url="http://h"), TransientStorageError),
        (botocore_errors.ConnectionClosedError(endpoint_url="http://h"), TransientStorageError),
        (botocore_errors.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientStorageError),
        (aiohttp.ClientPayloadError("torn"), TransientStorageError),
        (TimeoutError(), TransientStorageError),
        (FSTimeoutError(), TransientStorageError),
        (ConnectionResetError(104, "reset"), TransientStorageError),
        (botocore_errors.SSLError(endpoint_url="https://h", error="self-signed"), StorageError),
        (botocore_errors.ParamValidationError(report="too long"), StorageError),
        (OSError(5, "other"), StorageError),
        (botocore_errors.NoCredentialsError(), CredentialsError),
        (botocore_errors.PartialCredentialsError(provider="env", cred_var="x"), CredentialsError),
        (botocore_errors.CredentialRetrievalError(provider="sso", error_msg="expired"), CredentialsError),
        (botocore_errors.UnauthorizedSSOTokenError(), CredentialsError),
        (botocore_errors.ProfileNotFound(profile="p"), ConfigError),
        (ValueError("Invalid endpoint: x"), ConfigError),
    ],
)
def test_exceptions(error: Exception, expected: type[Exception]) -> None:
    mapped = s3_errors.map_exception(error, "s3://b/k")
    assert type(mapped) is expected
    assert str(mapped).startswith("s3://b/k: ")


def test_code_of_a_cause_is_found() -> None:
    outer = StorageError("x")
    outer.__cause__ = StorageError("y")
    outer.__cause__.__cause__ = client_error("NoSuchUpload", 404)
    assert s3_errors.has_code(outer, "NoSuchUpload")
    assert not s3_errors.has_code(outer, "NoSuchKey")
    assert not s3_errors.has_code(StorageError("z"), "NoSuchUpload")


def test_missing_credentials_say_what_to_give() -> None:
    message = str(s3_errors.map_exception(botocore_errors.NoCredentialsError(), "s3://bucket/a"))
    assert message.startswith("s3://bucket/a: Unable to locate credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID")
