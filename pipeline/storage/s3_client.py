"""One S3 connection: built from a StorageConfig, driven from any thread, every attempt bounded in time.

s3fs sets up the session, its event loop and the credential chain. Its own file operations are not used: they list
through a cache, send HEAD before GET, and retry on top of botocore's retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError
from s3fs import S3FileSystem

from pipeline.config import StorageConfig
from pipeline.storage.endpoints import custom_endpoint
from pipeline.storage.retry import SLOWEST_BYTES_PER_S

T = TypeVar("T")

_MAX_CONNECTIONS = 64

# The families that S3 clients raise from; TimeoutError and ConnectionError are OSErrors.
S3_EXCEPTIONS = (
    BotoCoreError,
    ClientError,
    aiohttp.ClientError,
    ResponseParserError,
    FSTimeoutError,
    OSError,
    ValueError,
)


class _OneAttemptSession(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """aiobotocore's HTTP session, without aiohttp's own retry.

    aiohttp sends GET, HEAD, PUT and DELETE a second time when a connection breaks, at once and unseen: twice the
    requests to a store that resets connections since it has too many. There is no public switch.
    """

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        session._retry_connection = False
        return session


class S3Client:
    """Calls S3 operations by name, once each: no retry happens here or below.

    Raises what botocore and aiohttp raise; `s3_errors` knows them.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._attempt_s = config.connect_timeout_s + config.read_timeout_s
        self._payer = {"RequestPayer": "requester"} if config.requester_pays else {}
        self._filesystem = _build_filesystem(config)

    def call(self, method: str, *, num_bytes: int = 0, **parameters: Any) -> dict[str, Any]:
        """Send one request with `num_bytes` of body and return botocore's answer; not for answers with a body."""
        return self._run(lambda: self._request(method, num_bytes, parameters))

    def get(self, accept: Callable[[dict[str, Any]], None], **parameters: Any) -> bytes:
        """Send one GET and return the body. `accept` sees the answer's headers first and refuses by raising."""
        return self._run(lambda: self._get(accept, parameters))

    def endpoint_url(self) -> str:
        """Where requests go, as options, environment and shared files together say. It may hold a password."""

        async def ask() -> str:
            return str((await self._filesystem.set_session()).meta.endpoint_url)

        return self._run(ask)

    def _run(self, start: Callable[[], Awaitable[T]]) -> T:
        result: T = sync(self._filesystem.loop, start)
        return result

    async def _request(self, method: str, num_bytes: int, parameters: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(self._attempt_s + num_bytes / SLOWEST_BYTES_PER_S):
            client = await self._filesystem.set_session()
            answer: dict[str, Any] = await getattr(client, method)(**self._payer, **parameters)
            return answer

    async def _get(self, accept: Callable[[dict[str, Any]], None], parameters: dict[str, Any]) -> bytes:
        answer = await self._request("get_object", 0, parameters)
        body, num_bytes = answer["Body"], int(answer["ContentLength"])
        try:
            accept(answer)
            async with asyncio.timeout(self._attempt_s + num_bytes / SLOWEST_BYTES_PER_S):
                data: bytes = await body.read()
        except BaseException:
            body.close()  # the connection carries an unread body and cannot be used again
            raise
        if len(data) != num_bytes:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=num_bytes)
        return data


def _build_filesystem(config: StorageConfig) -> S3FileSystem:
    endpoint = custom_endpoint(config)
    botocore_config: dict[str, Any] = {
        "connect_timeout": config.connect_timeout_s,
        "read_timeout": config.read_timeout_s,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "http_session_cls": _OneAttemptSession,
        "max_pool_connections": _MAX_CONNECTIONS,
        "user_agent_extra": "hdrfleet",
    }
    if endpoint:
        # Servers that are not AWS's often lack virtual hosts and the newer checksums; a signed payload digest
        # (part of SigV4 from the start) protects uploads to them instead.
        botocore_config["s3"] = {"addressing_style": "path", "payload_signing_enabled": True}
        botocore_config["request_checksum_calculation"] = "when_required"
        botocore_config["response_checksum_validation"] = "when_required"
    return S3FileSystem(
        anon=config.anonymous,
        endpoint_url=endpoint,
        client_kwargs={"region_name": config.region} if config.region else {},
        config_kwargs=botocore_config,
        use_listings_cache=False,
        skip_instance_cache=True,
        **({"profile": config.profile} if config.profile else {}),
    )
