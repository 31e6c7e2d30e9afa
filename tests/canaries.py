"""Secrets that tests plant wherever a user or a server can put them, and the search for them in what a run leaves."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from photographs import jpeg, picture

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

# All canaries hold this word, so that one search finds each of them, whole or in part.
WORD = "CaNaRy"
ACCESS_KEY, SECRET, TOKEN, PASSWORD, SIGNATURE = (
    f"AKIA{WORD.upper()}234567",
    f"{WORD}/secret+key/0123456789abcdefghijklmn",
    f"{WORD}-session-token//0123456789==",
    f"{WORD}-password",
    f"{WORD}0123456789abcdef",
)
# Google's: an OAuth token, the id of an HMAC key, and a service account's key.
GOOGLE = (
    f"token ya29.{WORD}0123456789, GOOG1E{WORD.upper()}0123456789ABCDEF, "
    f'{{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE{WORD}\\n-----END PRIVATE KEY-----\\n"}}'
)
USERINFO = f"{WORD}-user:{PASSWORD}@"
QUERY = f"?X-Amz-Credential={ACCESS_KEY}%2F20260101&X-Amz-Security-Token={TOKEN}&X-Amz-Signature={SIGNATURE}"
# Behind web addresses: credentials and sessions, and what content delivery networks and clouds sign with.
WEB_QUERIES = (
    *(
        f"{name}={SIGNATURE}"
        for name in ("auth", "Authorization", "key", "api_key", "access_key", "AccessKeyId", "jwt")
    ),
    *(f"{name}={SIGNATURE}" for name in ("session", "sessionid", "sid", "ticket", "code", "st", "sign", "auth_key")),
    *(f"{name}={SIGNATURE}" for name in ("token", "access-token", "pass", "hmac", "__token__", "__gda__", "sig")),
    *(f"{name}=st=1~exp=2~acl=/*~hmac={SIGNATURE}" for name in ("hdnts", "hdnea", "__cld_token__", "anything")),
    QUERY.removeprefix("?"),
    f"X-Goog-Algorithm=a&X-Goog-Credential={WORD}%40project&X-Goog-Signature={SIGNATURE}",
    f"Policy={WORD}&Signature={SIGNATURE}&Key-Pair-Id=K{WORD}",
    f"sv=2024-11-04&se=2026-01-01&sr=b&sp=r&skoid={WORD}&sig={SIGNATURE}%3D",
    f"OSSAccessKeyId={WORD}&Expires=1700000000&Signature={SIGNATURE}",
    f"q-sign-algorithm=sha1&q-ak={WORD}&q-key-time=1;2&q-signature={SIGNATURE}",
    f"md5={SIGNATURE}&expires=1700000000",
    f"wsSecret={SIGNATURE}&wsTime=1700000000",
    f"from=http://{USERINFO}other/a.jpg?auth={SIGNATURE}",
    f"from=http%3A%2F%2Fother%2Fa.jpg%3Fauth%3D{SIGNATURE}",
)
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}


def plant_photos(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Store three photographs under in/, one of them cut, put canaries for keys into the environment; the bucket."""
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    photo = jpeg(picture(24, 32))
    for name, data in {"a.jpg": photo, "b.jpg": photo[:300], "c.jpg": jpeg(picture(24, 32, 1))}.items():
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/{name}", Body=data)
    return bucket


def plant_list(bucket: Any) -> str:
    """Store a list whose entries hold every kind of canary; one of its images is cut, and one is missing."""
    entries = [
        f"s3://{bucket.name}/in/a.jpg{QUERY}",
        f"s3://{ACCESS_KEY}:{SECRET}@{bucket.name}/in/b.jpg",
        f"s3://{USERINFO}{bucket.name}/in/c.jpg{QUERY}",
        f"s3://{USERINFO}{bucket.name}/in/missing.jpg{QUERY}",
    ]
    bucket.client.put_object(Bucket=bucket.name, Key="lists/photos.txt", Body="\n".join(entries).encode())
    return f"s3://{bucket.name}/lists/photos.txt"


def is_clean(text: bytes | str) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return WORD.lower().encode() not in data.lower()


def assert_clean(result: subprocess.CompletedProcess[str], *folders: Path) -> None:
    assert is_clean(result.stdout), result.stdout
    assert is_clean(result.stderr), result.stderr
    for folder in folders:
        for path in folder.rglob("*"):
            assert is_clean(str(path.relative_to(folder)))
            assert not path.is_file() or is_clean(path.read_bytes()), path


def assert_store_clean(dst: str) -> None:
    store = open_store(dst, StorageConfig())
    kept = {info.key: store.read(info.key) for info in store.list()}
    assert {key.partition("/")[0] for key in kept} == {"_hdrfleet", "images", "manifest"}
    for key, data in kept.items():
        assert is_clean(key)
        assert is_clean(data), key
        assert is_clean(str(store.stat(key).metadata))
    # Parquet compresses: what a reader sees is looked at as well.
    assert is_clean(str(open_manifest(store).history.to_pylist()))
    assert is_clean("".join(str(plan) for plan in read_plans(kept)))


def read_plans(kept: dict[str, bytes]) -> list[Any]:
    return [
        pq.read_table(io.BytesIO(data)).to_pylist()
        for key, data in kept.items()
        if key.startswith("_hdrfleet/plan") and key.endswith(".parquet")
    ]
