"""Take secrets out of text before it reaches a log line, an error message or the manifest."""

from __future__ import annotations

import os
import re

from pipeline.extensions import IMAGE_EXTENSIONS

_MASK = "***"
_SCHEME = r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)"
# A secret key may hold slashes, so a password runs to the `@`; `host:8080/...` is a port, not a password.
_PASSWORD = re.compile(_SCHEME + r"[^\s/@:?#]*:(?!\d+(?:/|\s|$))[^\s@]*@")
_USER = re.compile(_SCHEME + r"[^\s/@?#'\"<>]*@")
_QUERY = re.compile(_SCHEME + r"(?P<path>[^\s?'\"<>]*)\?[^\s'\"<>]*")
# What is behind a hash is a name's rest where it ends as an image's does: servers never see a fragment.
_IN_NAME = rf"(?:{'|'.join(sorted(extension.lstrip('.') for extension in IMAGE_EXTENSIONS))})"
_FRAGMENT = re.compile(
    rf"(?P<url>\bhttps?://[^\s#'\"<>]*)#(?![^\s'\"<>]*\.{_IN_NAME}(?![^\s'\"<>,;:.]))[^\s'\"<>]*", re.IGNORECASE
)
# Keys of AWS and of Google's XML API, tokens of Google's and Hugging Face's, and JSON web tokens: known by their form.
_KEY_OR_TOKEN = re.compile(
    r"\b(?:(?:AKIA|ASIA|AROA|GOOG1?)[A-Z0-9]{12,}\b|ya29\.[\w.-]{8,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_ASSIGNMENT = re.compile(
    r"(?P<name>x-amz-(?:signature|credential|security-token)|aws[_-]?access[_-]?key[_-]?id|"
    r"(?:aws[_-]?)?secret[_-]?access[_-]?key|(?:aws[_-]?)?session[_-]?token|account[_-]?key|"
    r"shared[_-]?access[_-]?signature|(?:access|refresh|auth|id)[_-]?token|\btoken|api[_-]?key|client[_-]?secret|"
    r"\bsignature|\bcredential|\bsig|\bpassw(?:or)?d|\bpassphrase|private[_-]?key(?:[_-]id)?|jsessionid|"
    # `hf_token` and its like; what comes before is left as it is. A shell's PWD is a folder.
    r"(?<=[a-z0-9])[_-](?:token|secret|passw(?:or)?d|credentials?)|\bpwd(?=[\"']?\s*(?:[=:]|%3D)\s*[\"']?[^\s\"'/~])|"
    # Words of every day: a colon alone is how prose goes on.
    r"\b(?:secret|credentials)(?=[\"']\s*:|[\"']?\s*(?:=|%3D)))"
    r"(?P<between>[\"']?\s*(?:[=:]|%3D)\s*[\"']?)(?P<value>(?<=\")[^\"]+|(?<=')[^']+|(?:[^\s\"'&,;<>]|,(?=\S))+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(?P<scheme>Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SHARED_KEY = re.compile(r"\b(?P<scheme>SharedKey(?:Lite)?)\s+[\w-]+:[A-Za-z0-9+/=]+", re.IGNORECASE)
_COOKIE = re.compile(r"(?P<name>\b(?:Set-)?Cookie[\"']?\s*:\s*[\"']?)(?=[^\s=;\"']+=)[^\r\n\"']*", re.IGNORECASE)
_OPTION = re.compile(r"(?P<name>--(?:[a-z]+-)?(?:password|passwd|secret|token)\s+)[^\s-]\S*", re.IGNORECASE)
_ELEMENT = re.compile(r"<(?P<name>SecretAccessKey|(?:Session)?Token|Signature\w*)>[^<]*<", re.IGNORECASE)
# An address without a scheme, as an endpoint or a proxy is often written. Names of files hold colons and at signs as
# well: it has to stand where a word begins, and a time of day is none.
_ADDRESS = re.compile(
    r"""(?:^|(?<=[\s"'(\[{<=,;]))(?P<slashes>(?://)?)"""
    r"""(?!\d{1,2}:\d\d(?::\d\d)?@)[^\s/@:?#"'(\[{<=,;]*:(?!//|\d+(?:/|\s|$))[^\s"'<>]*@"""
)
# A token in prose, without a mark between: long, with digits and letters, and no file's name.
_TOKEN_IN_PROSE = re.compile(
    r"(?P<name>\b(?:token|secret|password)(?: is)?\s+)(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[\w+/=-]{16,}"
    r"(?![\w+/=-]|\.\w)",
    re.IGNORECASE,
)
# What botocore, adlfs, azure-identity and fsspec read secrets from; Google's clients take none from the environment.
_SECRET_VARIABLES = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ACCESS_KEY_ID"),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    *("AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_PASSWORD"),
    *("MSI_SECRET", "IDENTITY_HEADER"),
    "RAY_AUTH_TOKEN",
)
_FSSPEC_VARIABLE = re.compile(r"FSSPEC_[A-Z0-9]+_(?:\w+_)?(?:KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|STRING)")
_IN_CONNECTION_STRING = re.compile(r"(?:AccountKey|SharedAccessSignature)=([^;]+)", re.IGNORECASE)
_SHORTEST_SECRET = 8


def redact_url(text: str) -> str:
    """Return `text` without secrets: safe in logs and error messages.

    What `redact_name` takes out, `user:password` in front of a host that has no scheme, and what looks like a token
    behind that word.
    """
    text = _ADDRESS.sub(rf"\g<slashes>{_MASK}@", redact_name(text))
    return _TOKEN_IN_PROSE.sub(rf"\g<name>{_MASK}", text)


def redact_name(text: str) -> str:
    """Return `text` without secrets, with names of files and objects as they are.

    In every URL the userinfo, the query string and a web address's fragment go. Access keys of AWS and Google, tokens
    that are known by their form, PEM blocks, cookies, and signatures, tokens, passwords and secret keys in `name=value`
    form are masked wherever they stand, so are bearer tokens, shared keys, and the values of the AWS, Azure, fsspec
    and Ray credential variables of this process's environment.
    """
    for secret in _secrets_of_environment():
        text = text.replace(secret, _MASK)
    text = _PEM.sub(_MASK, text)
    text = _PASSWORD.sub(r"\g<scheme>", text)
    text = _USER.sub(r"\g<scheme>", text)
    text = _QUERY.sub(r"\g<scheme>\g<path>", text)
    text = _FRAGMENT.sub(r"\g<url>", text)
    text = _ELEMENT.sub(rf"<\g<name>>{_MASK}<", text)
    text = _BEARER.sub(rf"\g<scheme> {_MASK}", text)
    text = _SHARED_KEY.sub(rf"\g<scheme> {_MASK}", text)
    text = _COOKIE.sub(rf"\g<name>{_MASK}", text)
    text = _OPTION.sub(rf"\g<name>{_MASK}", text)
    text = _ASSIGNMENT.sub(rf"\g<name>\g<between>{_MASK}", text)
    return _KEY_OR_TOKEN.sub(_MASK, text)


def _secrets_of_environment() -> list[str]:
    """Values to mask, the longest first: one may hold another."""
    names = (*_SECRET_VARIABLES, *filter(_FSSPEC_VARIABLE.fullmatch, os.environ))
    values = [os.environ.get(name, "") for name in names]
    values += [part for value in values for part in _IN_CONNECTION_STRING.findall(value)]
    # A signature in a variable may begin with the question mark, and be sent without.
    return sorted({v.lstrip("?") for v in values if len(v.lstrip("?")) >= _SHORTEST_SECRET}, key=len, reverse=True)


def without_userinfo(url: str) -> str:
    """Return a URL without user and password, also where the password is a secret key with slashes in it."""
    match = re.match(_SCHEME, url)
    if match is None:
        return url
    host, slash, path = _PASSWORD.sub(r"\g<scheme>", url, count=1)[match.end() :].partition("/")
    return f"{match.group()}{host.rpartition('@')[2]}{slash}{path}"
