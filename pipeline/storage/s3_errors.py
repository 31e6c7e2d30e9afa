"""What S3 and its client answer, as this project's errors."""

from __future__ import annotations

import asyncio

import aiohttp
from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError

from pipeline.errors import (
    ConfigError,
    CredentialsError,
    DiskFullError,
    HdrfleetError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage.redact import redact_url
from pipeline.storage.retry import asking_to_wait


class NotImplementedByStoreError(StorageError):
    """The store does not know this kind of request, for example a conditional one."""


# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, plus what MinIO, Ceph and STS add.
_CREDENTIAL_CODES = frozenset(
    {
        "AccountProblem",
        "AuthFailure",
        "CredentialsNotSupported",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "InvalidTokenId",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.ThrottlingException",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})
_FULL_CODES = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})
_DENIED_CODES = frozenset({"AccessDenied", "AllAccessDisabled", "InvalidObjectState", "MethodNotAllowed", "403", "405"})
# Besides every 5xx that says nothing else: gateways and CDNs in front of stores answer 520 to 530, and no code.
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})

_CREDENTIAL_EXCEPTIONS = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.NoAuthTokenError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.SSOError,
)
_CONFIG_EXCEPTIONS = (
    botocore_errors.ProfileNotFound,
    botocore_errors.ConfigParseError,
    botocore_errors.ConfigNotFound,
    botocore_errors.InvalidRegionError,
    botocore_errors.NoRegionError,
)
_TRANSIENT_EXCEPTIONS = (
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.IncompleteReadError,
    botocore_errors.FlexibleChecksumError,
    ResponseParserError,  # a rate limiter's answer that is not XML
    FSTimeoutError,
    asyncio.TimeoutError,
    aiohttp.ClientError,
    ConnectionError,
)


def error_code(error: botocore_errors.ClientError) -> str:
    """Return S3's error code; for an answer without a body (HEAD) it is the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: botocore_errors.ClientError) -> int:
    """Return the HTTP status, 0 when there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_precondition_failure(error: botocore_errors.ClientError) -> bool:
    """Tell whether the condition of a conditional request did not hold."""
    return error_code(error) in {"PreconditionFailed", "412"} or http_status(error) == 412


def has_code(error: BaseException, *codes: str) -> bool:
    """Tell whether `error` was raised from an S3 answer with one of these codes."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, botocore_errors.ClientError):
        cause = cause.__cause__
    return cause is not None and error_code(cause) in codes


def map_client_error(error: botocore_errors.ClientError, where: str) -> HdrfleetError:
    """Return the error to raise from what the store answered; `where` is the object's printable URL.

    A failed precondition reads as ObjectExistsError: right for `create`, while `read` handles it first.
    """
    code, status = error_code(error), http_status(error)
    said = redact_url(str(error.response.get("Error", {}).get("Message") or f"HTTP status {status}"))
    kind: type[HdrfleetError] = StorageError
    text = f"{where}: {code}: {said}"
    if code in _CREDENTIAL_CODES or status == 401:
        kind = CredentialsError
    elif is_precondition_failure(error):
        kind, text = ObjectExistsError, f"{where}: already there"
    elif code == "NoSuchBucket":
        text = f"{where}: there is no such bucket"
    elif code in _REGION_CODES or status in {301, 307}:
        text += _region_hint(error)
    elif code == "NotImplemented" or status == 501:
        kind = NotImplementedByStoreError
    elif code in _FULL_CODES or status == 507:
        kind = DiskFullError
    elif code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS or status >= 500:
        return _transient(text, error)
    elif code in _MISSING_CODES:
        kind, text = ObjectMissingError, f"{where}: no such object"
    elif code in _DENIED_CODES or status == 403:
        kind = ObjectDeniedError
    return kind(text)


def map_exception(error: Exception, where: str) -> HdrfleetError:
    """Return the error to raise from any exception of the S3 client; `where` is the object's printable URL."""
    if isinstance(error, botocore_errors.ClientError):
        return map_client_error(error, where)
    text = f"{where}: {redact_url(_text(error))}"
    if isinstance(error, botocore_errors.NoCredentialsError):
        advice = "set AWS_PROFILE or AWS_ACCESS_KEY_ID, give a profile, or ask a public bucket anonymously"
        text = f"{text.rstrip('.')}; {advice}"
    if isinstance(error, _CREDENTIAL_EXCEPTIONS):
        return CredentialsError(text)
    if isinstance(error, (*_CONFIG_EXCEPTIONS, ValueError)):  # botocore reports a malformed endpoint as ValueError
        return ConfigError(text)
    if isinstance(error, botocore_errors.SSLError):
        return StorageError(text)  # a certificate does not become valid by trying again
    if isinstance(error, _TRANSIENT_EXCEPTIONS):
        return TransientStorageError(text)
    return StorageError(text)


def _transient(text: str, error: botocore_errors.ClientError) -> TransientStorageError:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return asking_to_wait(TransientStorageError(text), headers.get("retry-after"))


def _text(error: Exception) -> str:
    """What an exception says, with the cause where botocore leaves it out: it calls every reset a failed connection."""
    text = str(error) or type(error).__name__
    cause = getattr(error, "kwargs", {}).get("error")
    if isinstance(cause, Exception) and str(cause) and str(cause) not in text:
        text = f"{text.rstrip('.')} ({cause})"
    return text


def _region_hint(error: botocore_errors.ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
    return f" (the bucket is in region {region})" if region else " (set the bucket's region or endpoint)"
