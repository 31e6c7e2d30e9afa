from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import redact_url
from pipeline.storage.redact import redact_name

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def _no_credentials_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "RAY_AUTH_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/a/b.jpg", "s3://bucket/a/b.jpg"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("http://host:8080/path/me@example.com", "http://host:8080/path/me@example.com"),
        ("https://user:pass@host/a", "https://host/a"),
        ("https://token@host/a", "https://host/a"),
        (f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/a", "s3://bucket/a"),
        ("https://h/a.jpg?X-Amz-Signature=abc&x=1", "https://h/a.jpg"),
        ('failed: "https://u:p@h/a?sig=1", then https://v:q@i/b?t=2.', 'failed: "https://h/a", then https://i/b'),
        ("key AKIAIOSFODNN7EXAMPLE is wrong", "key *** is wrong"),
        ("ASIAIOSFODNN7EXAMPLE", "***"),
        (f"aws_secret_access_key={SECRET}", "aws_secret_access_key=***"),
        (f'{{"SecretAccessKey": "{SECRET}"}}', '{"SecretAccessKey": "***"}'),
        (f"<SecretAccessKey>{SECRET}</SecretAccessKey>", "<SecretAccessKey>***</SecretAccessKey>"),
        ("X-Amz-Signature=0123&X-Amz-Security-Token=abc", "X-Amz-Signature=***&X-Amz-Security-Token=***"),
        (
            "Authorization: AWS4 Credential=me/20261122, Signature=00ff",
            "Authorization: AWS4 Credential=***, Signature=***",
        ),
        ("AccountName=a;AccountKey=Zm9v==;x", "AccountName=a;AccountKey=***;x"),
        ("Authorization: Bearer abcdef0123456789, then", "Authorization: Bearer ***, then"),
        ("{'Token': 'X y, z'}", "{'Token': '***'}"),
        ("token=abc refresh_token=d,e api_key: f", "token=*** refresh_token=*** api_key: ***"),
        ('password="a, b" and more', 'password="***" and more'),
        ("password=a,b and more", "password=*** and more"),
        ("ray token 3f2a9c0d11e24b6f8a7b refused", "ray token *** refused"),
        ("the password is hunter2hunter2hunter2.", "the password is ***."),
        (
            "token 3f2a9c0d11e24b6f8a7b.jpg and token authentication",
            "token 3f2a9c0d11e24b6f8a7b.jpg and token authentication",
        ),
        ("the tokens: three", "the tokens: three"),
        ("/data/photos/design=1.jpg", "/data/photos/design=1.jpg"),
        ("no secret here: a signature block", "no secret here: a signature block"),
        ("ya29.a0AfH6SMBx-y_z refused", "*** refused"),
        ("GOOG1EABCDEFGHIJKLMNOP0123 is unknown", "*** is unknown"),
        ("AROAIOSFODNN7EXAMPLE:session", "***:session"),
        ("sent eyJhbGciOiJI.eyJzdWIiOiIx.c2ln to it", "sent *** to it"),
        (
            '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY-----\\n", "id": 1}',
            '{"private_key": "***", "id": 1}',
        ),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nAAAA", "***"),
        ("private_key=abc private_key_id: abc", "private_key=*** private_key_id: ***"),
        ("secret=abc client-secret: abc", "secret=*** client-secret: ***"),
        ("passwd=abc pwd=abc db_password: abc", "passwd=*** pwd=*** db_password: ***"),
        ("hf_token: abc GITHUB_TOKEN=abc", "hf_token: *** GITHUB_TOKEN=***"),
        ('credentials=abc {"credentials": "a b"}', 'credentials=*** {"credentials": "***"}'),
        ("mount --password abc --db-password abc /x", "mount --password *** --db-password *** /x"),
        ("Authorization: SharedKey acct:c2ln/+==", "Authorization: SharedKey ***"),
        ("Cookie: session=abc; path=/\nnext line", "Cookie: ***\nnext line"),
        ("{'Set-Cookie': 'sid=abc'}", "{'Set-Cookie': '***'}"),
        ("<Token>abc</Token><Key>a.jpg</Key>", "<Token>***</Token><Key>a.jpg</Key>"),
        ("GET https://host/a.jpg;jsessionid=abc failed", "GET https://host/a.jpg;jsessionid=*** failed"),
        ("GET https://host/a.jpg#abc, then", "GET https://host/a.jpg then"),
        # Words and names of every day.
        ("secretary.jpg, tokens.jpg, token.jpg, pwd.jpg", "secretary.jpg, tokens.jpg, token.jpg, pwd.jpg"),
        ("cookie: recipe.jpg", "cookie: recipe.jpg"),
        ("the secret: a garden; credentials: none found", "the secret: a garden; credentials: none found"),
        ("PWD=/home/me and password-less", "PWD=/home/me and password-less"),
        ("--token-file token.txt", "--token-file token.txt"),
        ("https://host/photo#3.jpg: not found", "https://host/photo#3.jpg: not found"),
        ("s3://bucket/a;b=c#d", "s3://bucket/a;b=c#d"),
        ("GOOGLE, ya29, AROAD and eyJ", "GOOGLE, ya29, AROAD and eyJ"),
        ("user:pw@127.0.0.1:9", "***@127.0.0.1:9"),
        ("Invalid endpoint: user:pa/ss:w@rd@host", "Invalid endpoint: ***@host"),
        ('cannot reach "//user:pw@minio:9000/b": no', 'cannot reach "//***@minio:9000/b": no'),
        ("proxy=:pw@proxy, and (a:b@c)", "proxy=***@proxy, and (***@c)"),
        ("https:user:pw@host", "***@host"),
        ("/data/a:b@c.jpg and b/a:b@c", "/data/a:b@c.jpg and b/a:b@c"),
        ("s3://bucket/a:b@c.jpg", "s3://bucket/a:b@c.jpg"),
        ("host:8080/me@example.com, at 10:30@Paris", "host:8080/me@example.com, at 10:30@Paris"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert redact_url(text) == expected


def test_credentials_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-unusual-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "short")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    assert redact_url("refused 0123456789abcdef") == "refused ***"
    assert redact_url("server echoed an-unusual-secret in short") == "server echoed *** in short"


@pytest.mark.parametrize(
    "variable",
    [
        *("AWS_SECURITY_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CLIENT_SECRET"),
        *("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_PASSWORD", "MSI_SECRET"),
        *("IDENTITY_HEADER", "FSSPEC_S3_SECRET", "FSSPEC_ABFS_ACCOUNT_KEY", "FSSPEC_GCS_TOKEN"),
    ],
)
def test_every_credential_variable_is_masked(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "?an-unusual-secret")
    assert redact_url("the server echoed an-unusual-secret") == "the server echoed ***"


def test_the_key_of_a_connection_string_is_masked_alone_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "DefaultEndpointsProtocol=https;AccountName=photos;AccountKey=an/unusual+secret==;EndpointSuffix=x"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", given)
    assert redact_url(f"not valid: {given}") == "not valid: ***"
    assert redact_url("not valid: an/unusual+secret==") == "not valid: ***"


def test_a_name_that_looks_like_an_address_is_recorded_as_it_is() -> None:
    assert redact_name("s3://bucket/my a:b@c.d/") == "s3://bucket/my a:b@c.d/"
    assert redact_name("s3://user:secret@bucket/a?x=1") == "s3://bucket/a"


alphabet = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789+/=-_.", min_size=16, max_size=60)


@given(user=st.text("abcXYZ019", min_size=1), secret=alphabet.map(lambda text: "S" + text))
def test_no_password_survives(user: str, secret: str) -> None:
    assert secret not in redact_url(f"cannot open s3://{user}:{secret}@bucket/key: denied")
    assert secret not in redact_url(f"https://host/key?token={secret}")
    assert secret not in redact_url(f"Invalid endpoint: {user}:{secret}@host:9")


@given(st.text())
def test_any_text_can_be_redacted_twice(text: str) -> None:
    once = redact_url(text)
    assert redact_url(once) == once
