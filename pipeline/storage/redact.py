"""Take secrets out of text before it reaches a log line, an error message or the manifest."""

from __future__ import annotations

import os
import re

_MASK = "***"
_SCHEME = r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)"
# A secret key may hold slashes, so a password runs to the `@`; `host:8080/...` is a port, not a password.
_PASSWORD = re.compile(_SCHEME + r"[^\s/@:?#]*:(?!\d+(?:/|\s|$))[^\s@]*@")
_USER = re.compile(_SCHEME + r"[^\s/@?#'\"<>]*@")
_QUERY = re.compile(_SCHEME + r"(?P<path>[^\s?'\"<>]*)\?[^\s'\"<>]*")
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_ASSIGNMENT = re.compile(
    r"(?P<name>x-amz-(?:signature|credential|security-token)|aws[_-]?access[_-]?key[_-]?id|"
    r"(?:aws[_-]?)?secret[_-]?access[_-]?key|(?:aws[_-]?)?session[_-]?token|account[_-]?key|"
    r"shared[_-]?access[_-]?signature|(?:access|refresh|auth|id)[_-]?token|\btoken|api[_-]?key|client[_-]?secret|"
    r"\bsignature|\bcredential|\bsig|\bpassword)"
    r"(?P<between>[\"']?\s*(?:[=:]|%3D)\s*[\"']?)(?P<value>(?<=\")[^\"]+|(?<=')[^']+|(?:[^\s\"'&,;<>]|,(?=\S))+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(?P<scheme>Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_ELEMENT = re.compile(r"<(?P<name>SecretAccessKey|SessionToken|Signature\w*)>[^<]*<", re.IGNORECASE)
_SECRET_VARIABLES = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_KEY"),
    "RAY_AUTH_TOKEN",
)
_SHORTEST_SECRET = 8


def redact_url(text: str) -> str:
    """Return `text` without secrets: safe in logs and error messages.

    In every URL the userinfo and the query string go. AWS access keys, signatures, tokens and secret keys in
    `name=value` form are masked wherever they stand, so are bearer tokens, and the values of the AWS, Azure and Ray
    credential variables of this process's environment.
    """
    for variable in _SECRET_VARIABLES:
        secret = os.environ.get(variable, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _MASK)
    text = _PASSWORD.sub(r"\g<scheme>", text)
    text = _USER.sub(r"\g<scheme>", text)
    text = _QUERY.sub(r"\g<scheme>\g<path>", text)
    text = _ELEMENT.sub(rf"<\g<name>>{_MASK}<", text)
    text = _BEARER.sub(rf"\g<scheme> {_MASK}", text)
    text = _ASSIGNMENT.sub(rf"\g<name>\g<between>{_MASK}", text)
    return _ACCESS_KEY.sub(_MASK, text)


def without_userinfo(url: str) -> str:
    """Return a URL without user and password, also where the password is a secret key with slashes in it."""
    match = re.match(_SCHEME, url)
    if match is None:
        return url
    host, slash, path = _PASSWORD.sub(r"\g<scheme>", url, count=1)[match.end() :].partition("/")
    return f"{match.group()}{host.rpartition('@')[2]}{slash}{path}"
