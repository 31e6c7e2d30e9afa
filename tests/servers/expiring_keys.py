"""S3 servers that take access keys away while a job uses them, as an expiry or a rotation does."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


class ExpiringKeys(Protocol):
    """Access keys of users, on a real endpoint. `client` is a boto3 client with a key of its own that stays valid."""

    endpoint_url: str
    region: str
    client: Any

    def key(self, user: str) -> tuple[str, str]:
        """The key's id and secret that are valid now."""
        ...

    def expire(self, *users: str) -> None:
        """Give these users new keys; the server refuses the old ones when this returns, if not before."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


class SwiftKeys:
    """A second entrance to a running Swift, for these users of its one account. The first stays as it is.

    To expire a secret, this entrance is restarted on its port with the next one: for a second or two connections are
    refused, so that a job waits and cannot be done before it has seen the answer, which is 403 from then on.
    """

    region = "us-east-1"

    def __init__(self, script: Path, venv: Path, folder: Path, port: int, client: Any, users: Sequence[str]) -> None:
        self.client = client
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._command = [str(script), "proxy", str(venv), str(folder), str(port)]
        self._secrets = {user: secrets.token_hex(16) for user in users}
        self._proxy = self._start()

    def key(self, user: str) -> tuple[str, str]:
        return f"test:{user}", self._secrets[user]

    def expire(self, *users: str) -> None:
        self._secrets.update({user: secrets.token_hex(16) for user in users})
        _stop(self._proxy)
        self._proxy = self._start()

    def close(self) -> None:
        _stop(self._proxy)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a proxy for the secrets of now, and wait until it takes them."""
        pairs = [f"{user}={secret}" for user, secret in self._secrets.items()]
        proxy = subprocess.Popen([*self._command, *pairs])
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not all(self._is_taken(user) for user in self._secrets):
            if proxy.poll() is not None or time.monotonic() > deadline:
                _stop(proxy)
                raise AssertionError(f"no Swift at {self.endpoint_url} that takes the new secrets")
            time.sleep(0.1)
        return proxy

    def _is_taken(self, user: str) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            s3_client(self.endpoint_url, *self.key(user), region=self.region).list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


class MotoKeys:
    """IAM users of moto. While this is open, moto checks keys, signatures and policies; by default it takes anything.

    An expired key is deleted, and a new one made. Works on the moto server in this process alone.
    """

    def __init__(self, endpoint_url: str, region: str, users: Sequence[str]) -> None:
        import boto3
        from moto.core.authorization import enable_iam_authentication

        self.endpoint_url, self.region = endpoint_url, region
        self._suffix = secrets.token_hex(4)  # moto keeps its users from test to test
        self._enforcement = enable_iam_authentication()
        anyone = {"aws_access_key_id": "anyone", "aws_secret_access_key": "anything", "region_name": region}
        self._iam = boto3.client("iam", endpoint_url=endpoint_url, **anyone)
        self._keys = {user: self._new_user(user) for user in users}
        key_id, secret = self._new_user("observer")
        admin = {"aws_access_key_id": key_id, "aws_secret_access_key": secret, "region_name": region}
        self._iam = boto3.client("iam", endpoint_url=endpoint_url, **admin)
        self.client = s3_client(endpoint_url, key_id, secret, region=region)
        self._enforcement.__enter__()

    def key(self, user: str) -> tuple[str, str]:
        return self._keys[user]

    def expire(self, *users: str) -> None:
        for user in users:
            self._iam.delete_access_key(UserName=self._name(user), AccessKeyId=self._keys[user][0])
            self._keys[user] = self._new_key(user)

    def forbid(self, user: str) -> None:
        """Take the user's rights away and leave the key: every answer is AccessDenied, as Ceph's for expired keys."""
        self._iam.delete_user_policy(UserName=self._name(user), PolicyName="everything")

    def allow(self, user: str) -> None:
        """Give the user every right."""
        everything = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}'
        self._iam.put_user_policy(UserName=self._name(user), PolicyName="everything", PolicyDocument=everything)

    def close(self) -> None:
        self._enforcement.__exit__(None, None, None)

    def _name(self, user: str) -> str:
        return f"{user}-{self._suffix}"

    def _new_user(self, user: str) -> tuple[str, str]:
        self._iam.create_user(UserName=self._name(user))
        self.allow(user)
        return self._new_key(user)

    def _new_key(self, user: str) -> tuple[str, str]:
        made = self._iam.create_access_key(UserName=self._name(user))["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]


def s3_client(endpoint_url: str, key_id: str, secret: str, *, region: str) -> Any:
    """A boto3 client that is independent of the code under test and of the environment's credentials."""
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        retries={"total_max_attempts": 1},
    )
    return boto3.session.Session(key_id, secret).client(
        "s3", endpoint_url=endpoint_url, region_name=region, config=config
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # the script stops its server
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
