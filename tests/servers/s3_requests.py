"""S3's requests as they stand on the wire: read from a connection, and called by S3's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

_MAX_HEAD_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it. `operation` is S3's name; `part` is the part's number, 0 elsewhere."""

    method: str
    target: str
    headers: dict[str, str]
    num_bytes: int
    operation: str
    key: str
    part: int = 0

    @property
    def is_conditional(self) -> bool:
        """Whether it carries If-None-Match or If-Match."""
        return not self.headers.keys().isdisjoint({"if-none-match", "if-match"})


def read_head(reader: BinaryIO) -> list[str] | None:
    """Read the lines up to the empty one; None where the client has gone."""
    lines: list[str] = []
    num_bytes = 0
    while True:
        line: bytes = reader.readline(_MAX_HEAD_BYTES)
        num_bytes += len(line)
        if not line.endswith(b"\n") or num_bytes > _MAX_HEAD_BYTES:
            return None
        if not line.strip():
            return lines or None
        lines.append(line.decode("latin-1").rstrip("\r\n"))


def parse_head(head: list[str]) -> Request:
    """Read a path-style request from its lines. Raises ValueError for what no S3 client here sends."""
    method, target, _ = head[0].split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if "transfer-encoding" in headers:
        raise ValueError("a request in chunks: no S3 client here sends one")
    parts = urlsplit(target)
    key = unquote(parts.path.lstrip("/").partition("/")[2])
    query = parse_qs(parts.query, keep_blank_values=True)
    part = int(query.get("partNumber", ["0"])[0])
    num_bytes = int(headers.get("content-length", 0))
    return Request(method, target, headers, num_bytes, _operation(method, key, set(query)), key, part)


def _operation(method: str, key: str, query: set[str]) -> str:
    """S3's name of a path-style request."""
    if not key:
        if "uploads" in query:
            return "ListMultipartUploads"
        return {"GET": "ListObjectsV2", "PUT": "CreateBucket", "HEAD": "HeadBucket"}.get(method, f"{method}Bucket")
    if "uploads" in query and method == "POST":
        return "CreateMultipartUpload"
    if "uploadId" in query:
        on_upload = {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }
        return on_upload.get(method, f"{method}Upload")
    return {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, method)
