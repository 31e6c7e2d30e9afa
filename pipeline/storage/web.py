"""Reading from a web server in bounded memory and time, whatever it sends; on the session of fsspec's HTTP client.

fsspec's own `cat_file` takes a whole body before anybody can look at its size, and all of it where a range was asked of
a server that ignores ranges. A server may say nothing of the size, or something else than it sends.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import fsspec.asyn

from pipeline.config import StorageConfig
from pipeline.storage.retry import SLOWEST_BYTES_PER_S

_CHUNK_BYTES = 64 * 1024


class TooSlowError(ConnectionError):
    """A body that came, but slower than anything that is worth waiting for."""


def client_options(config: StorageConfig) -> dict[str, Any]:
    """Options of fsspec's HTTP file system: what it asks by itself, sizes and versions, has no body to wait for."""
    timeout = _timeout(config, total=_patience_s(config))
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


class WebReader:
    """Downloads through the session of an fsspec HTTP file system that has `client_options`."""

    def __init__(self, filesystem: Any, config: StorageConfig) -> None:
        self._filesystem = filesystem
        self._config = config

    def read(self, url: str, max_bytes: int | None = None) -> bytes | None:
        """The whole body; None as soon as it turns out to be larger than `max_bytes`.

        Raises TooSlowError where it takes longer than the timeouts and what has come would at 128 KiB/s; the client's
        own exceptions otherwise.
        """
        body: bytes | None = fsspec.asyn.sync(self._filesystem.loop, self._read, url, max_bytes)
        return body

    def read_range(self, url: str, start: int, num_bytes: int) -> bytes:
        """At most `num_bytes` of the body from `start` on, less at its end; raises as `read`.

        A server that ignores ranges sends what lies before, too, which is passed by.
        """
        part: bytes = fsspec.asyn.sync(self._filesystem.loop, self._read_range, url, start, num_bytes)
        return part

    async def _read(self, url: str, max_bytes: int | None) -> bytes | None:
        async with _Body(self._filesystem, self._config, url) as body:
            if max_bytes is not None and (body.num_bytes or 0) > max_bytes:
                return None
            chunks, num_bytes = [], 0
            while chunk := await body.next_chunk():
                num_bytes += len(chunk)
                if max_bytes is not None and num_bytes > max_bytes:
                    return None
                chunks.append(chunk)
            return b"".join(chunks)

    async def _read_range(self, url: str, start: int, num_bytes: int) -> bytes:
        wanted = f"bytes={start}-{start + num_bytes - 1}"
        async with _Body(self._filesystem, self._config, url, wanted) as body:
            if body.is_beyond:
                return b""
            passed_by = 0 if body.is_partial else start
            taken = bytearray()
            while len(taken) < num_bytes and (chunk := await body.next_chunk()):
                taken += chunk[passed_by:][: num_bytes - len(taken)]
                passed_by = max(0, passed_by - len(chunk))
            return bytes(taken)


class _Body:
    """The answer to one GET, chunk by chunk; what is not read when it is left is not waited for."""

    def __init__(self, filesystem: Any, config: StorageConfig, url: str, wanted: str | None = None) -> None:
        self._filesystem, self._config, self._url = filesystem, config, url
        # What is compressed on the way says nothing of its size.
        self._headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
        self._num_arrived = 0

    async def __aenter__(self) -> _Body:
        self._began = time.monotonic()
        session = await self._filesystem.set_session()
        asked = session.get(
            self._filesystem.encode_url(self._url), headers=self._headers, timeout=_timeout(self._config, total=None)
        )
        async with asyncio.timeout(_patience_s(self._config)):
            self._answer = await asked
        self.is_beyond = self._answer.status == 416
        if not self.is_beyond:
            self._answer.raise_for_status()
        self.is_partial = self._answer.status == 206
        is_plain = self._answer.headers.get("Content-Encoding", "identity") in {"identity", ""}
        self.num_bytes = self._answer.content_length if is_plain else None
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._answer.close()

    async def next_chunk(self) -> bytes:
        """Some bytes more, none at the end."""
        chunk: bytes = await self._answer.content.read(_CHUNK_BYTES)
        self._num_arrived += len(chunk)
        taken_s = time.monotonic() - self._began
        if chunk and taken_s > _patience_s(self._config) + self._num_arrived / SLOWEST_BYTES_PER_S:
            raise TooSlowError(f"too slow: {self._num_arrived} bytes in {taken_s:.0f} s")
        return chunk


def _patience_s(config: StorageConfig) -> float:
    return config.connect_timeout_s + config.read_timeout_s


def _timeout(config: StorageConfig, *, total: float | None) -> Any:
    import aiohttp  # noqa: PLC0415 - other protocols do not need it

    return aiohttp.ClientTimeout(total=total, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s)
