"""Which parameters of a web address are secret: signatures, credentials, tokens and sessions, in `?a=b&c=d` and `;a=b`.

What is dropped here is neither recorded nor sent. What tells images apart has to stay, so names that can mean either
are judged by their values, and `told_apart_by` says where addresses differ in what was dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus

from pipeline.extensions import IMAGE_EXTENSIONS
from pipeline.storage.keys import WEB_QUERY
from pipeline.storage.redact import redact_name, without_userinfo

_pattern = partial(re.compile, flags=re.IGNORECASE | re.VERBOSE | re.DOTALL)

# Clouds and CloudFront; Azure; Akamai, Cloudinary and Wangsu.
_SIGNATURE = _pattern(
    r"[\w.\-]*signature | sig | hmac | hdn(?:ts|ea|tl) | __(?:gda|token|cld_token|hdnea)__ | wssecret"
)
# One of several fields of a value, as in Akamai's `exp=1~acl=/*~hmac=00ff`.
_SIGNED_VALUE = _pattern(r"(?:\A|[?&~;!,|])(?:hmac|sig|[\w.\-]*signature)=")
# What a signature is made for and with: S3, Google, Aliyun and its like, Tencent, Wangsu. `x-oss-process` resizes.
_BESIDE_SIGNATURE = _pattern(
    r"x-(?:amz|goog)-[\w\-]+ | x-[a-z]+-(?:credential|date|expires|signature-version|additional-headers|security-token)"
    r"| (?:aws|oss)?accesskeyid | googleaccessid"
    r"| q-(?:ak|sign-[\w\-]+|key-time|header-list|url-param-list) | ws(?:abs)?time"
)
# Beside a whole `Signature` alone: CloudFront, Google's CDN, and the older forms of S3, Google and Aliyun.
_BESIDE_WHOLE = _pattern(r"expires | policy | key-pair-id | hash-algorithm | keyname | urlprefix")
_BESIDE_SIG = _pattern(r"sv|ss|srt|sr|si|st|se|sp|spr|sip|sdd|ses|saoid|suoid|scid|skoid|sktid|skt|ske|sks|skv")
_AZURE = frozenset({"sv", "se"})  # one of them is in each of its signatures
# Links that expire: of nginx (`md5` with `expires`, `st` with `e`) and its like. Else a hash names what is meant.
_HASH = _pattern(r"md5 | hash | st | s | h | sign")
_SHORTEST_HASH = 16
_EXPIRY = _pattern(r"(?:expires? | expiry | expiration | exp | e | deadline) = [12]\d{9}(?:\d{3})?")
_SECRET = _pattern(
    r"[\w.\-]*(?: token | secret | passw(?:or)?d | passphrase | credentials? | auth(?:ori[sz]ation)? | jwt | hmac"
    r"    | sess(?:ion)?[_\-]?id )"
    r"| [\w.\-]*(?:api|access|auth|secret|private|shared|account|session|subscription)[_\-]?key(?:[_\-]?id)?"
    r"| (?:[\w.\-]*[_.\-])?(?:pass|pwd|sig) | q-ak"
)
# These may name an image as well; the last ones do more often than not.
_MOSTLY_SECRET = _pattern(r"key | sid | session | ticket")
_SELDOM_SECRET = _pattern(r"code | st | sign")
_SMALL_NUMBER = re.compile(r"\d{1,6}")
_LIKE_A_TOKEN = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{16,}", re.DOTALL)
_SHORTEST_CODE = 6
_SHORTEST_FORM = 8  # of what is secret whatever its name is

_PATH_PARAMETER = re.compile(r";(?P<each>[\w.\-]+=[^/;?#]*)")
_SEPARATOR = re.compile(r"(&|;(?=[\w.\-]+=))")
_DEEPEST = 4  # an address in an address in an address


class Parted(NamedTuple):
    """A web address as it is recorded, and what was dropped of it but for signatures: `name=value`, as they stood.

    `secrets` are known by their names or forms; `either` could have named an image.
    """

    url: str
    secrets: tuple[str, ...] = ()
    either: tuple[str, ...] = ()


class _Kind(Enum):
    KEPT = auto()
    SIGNATURE = auto()
    SECRET = auto()
    EITHER = auto()


@dataclass(slots=True)
class _Parting:
    """One address on its way: what stands beside each parameter, and what was dropped."""

    depth: int
    names_image: bool
    beside: frozenset[str] = frozenset()
    is_signed: bool = False
    expires: bool = False
    num_dropped: int = 0
    secrets: list[str] = field(default_factory=list)
    either: list[str] = field(default_factory=list)


def is_on_web(key: str) -> bool:
    """Whether an absolute key is a web page's URL: each may be of a server of its own, and none can be listed."""
    return key.startswith(("http://", "https://"))


def part_secrets(url: str, *, is_relative: bool = False) -> Parted:
    """Take userinfo, fragment and secret parameters out of a web address; any other URL is returned as it is.

    `is_relative` says that it is one without scheme and host.
    """
    if not is_relative and not is_on_web(url.lower()):
        return Parted(url)
    if not is_relative:
        url = without_userinfo(url)
    if not _is_image_name(url):
        url = url.partition("#")[0]
    return _part(url, 0)


def told_apart_by(one: Parted, other: Parted) -> list[str]:
    """Names of the dropped parameters by which two addresses that are recorded as one may be two images.

    A signature says nothing of the image, and an address without a token is the one with it. Two tokens may be for two
    images; so may a parameter that can be either, and its absence.
    """
    differing = set(one.either) ^ set(other.either)
    if one.secrets and other.secrets:
        differing |= set(one.secrets) ^ set(other.secrets)
    return sorted({each.partition("=")[0] for each in differing})


def _part(text: str, depth: int) -> Parted:
    found = WEB_QUERY.search(text)
    # Where no name follows any question mark, a parameter may still stand behind an ampersand.
    path, query = (text[: found.start()], text[found.end() :]) if found else text.partition("?")[::2]
    pieces = _SEPARATOR.split(query)
    parameters = pieces[::2]
    parting = _Parting(depth, _is_image_name(_PATH_PARAMETER.sub("", path)))
    parting.beside = frozenset(_name(each) for each in parameters)
    parting.is_signed = any(_SIGNATURE.fullmatch(name) for name in parting.beside) or any(
        _SIGNED_VALUE.search(unquote(each.partition("=")[2])) for each in parameters
    )
    parting.expires = any(map(_EXPIRY.fullmatch, parameters))
    kept_path = _PATH_PARAMETER.sub(lambda match: ";" + kept if (kept := _kept(match["each"], parting)) else "", path)
    kept = [(separator, _kept(each, parting)) for separator, each in zip(["", *pieces[1::2]], parameters, strict=True)]
    if parting.num_dropped:
        kept = [(separator, "" if _EXPIRY.fullmatch(each or "") else each) for separator, each in kept]
    if parameters == [each for _, each in kept]:
        url = kept_path + text[len(path) :]
    else:
        url = kept_path + _joined((separator, each) for separator, each in kept if each)
    return Parted(url, tuple(parting.secrets), tuple(parting.either))


def _joined(parameters: Iterable[tuple[str, str | None]]) -> str:
    text = "".join(f"{separator}{each}" for separator, each in parameters).lstrip("&;")
    return f"?{text}" if text else ""


def _kept(each: str, parting: _Parting) -> str | None:
    """A parameter as it is recorded, an address in its value without its own secrets; None where it is dropped."""
    value = each.partition("=")[2]
    plain = unquote(value)
    kind = _kind(_name(each), plain, parting)
    if kind is _Kind.KEPT:
        if inner := _inner_address(value):
            return _without_inner(each, *inner, parting)
        if _SIGNED_VALUE.search(plain):
            kind = _Kind.SIGNATURE
        elif len(plain) >= _SHORTEST_FORM and redact_name(unquote(each)) != unquote(each):
            kind = _Kind.SECRET
    return _noted(each, kind, parting)


def _inner_address(value: str) -> tuple[str, int] | None:
    """A value that is an address, or has a query, and how often it was escaped."""
    for times in range(_DEEPEST):
        if is_on_web(value.lower()) or WEB_QUERY.search(value):
            return value, times
        value = unquote(value)
    return None


def _noted(each: str, kind: _Kind, parting: _Parting) -> str | None:
    if kind is _Kind.KEPT:
        return each
    parting.num_dropped += 1
    if kind is not _Kind.SIGNATURE:
        (parting.secrets if kind is _Kind.SECRET else parting.either).append(each)
    return None


def _without_inner(each: str, address: str, num_escapes: int, parting: _Parting) -> str | None:
    inner = _part(without_userinfo(address), parting.depth + 1) if parting.depth < _DEEPEST else None
    bare = inner.url.partition("?")[0].partition("://")[2] if inner else ""
    if inner is None or redact_name(bare) != bare:
        return _noted(each, _Kind.SECRET, parting)
    if inner.url == address:
        return each
    parting.secrets += inner.secrets
    parting.either += inner.either
    parting.num_dropped += 1
    cleaned = inner.url
    for _ in range(num_escapes):
        cleaned = quote(cleaned, safe="")
    return f"{each.partition('=')[0]}={cleaned}"


def _kind(name: str, value: str, parting: _Parting) -> _Kind:
    if _SIGNATURE.fullmatch(name) or (parting.is_signed and _is_beside_signature(name, parting.beside)):
        return _Kind.SIGNATURE
    if parting.expires and _HASH.fullmatch(name) and len(value) >= _SHORTEST_HASH:
        return _Kind.EITHER
    if _SECRET.fullmatch(name) and value:
        return _Kind.SECRET
    return _Kind.EITHER if _is_rather_secret(name, value, parting.names_image) else _Kind.KEPT


def _is_rather_secret(name: str, value: str, names_image: bool) -> bool:
    """Of a parameter that can be either: a number or the name of a file is not secret, nor is an empty value."""
    if not value or _SMALL_NUMBER.fullmatch(value) or _is_image_name(value):
        return False
    if _SELDOM_SECRET.fullmatch(name):
        return len(value) >= _SHORTEST_CODE if names_image else bool(_LIKE_A_TOKEN.fullmatch(value))
    return bool(_MOSTLY_SECRET.fullmatch(name))


def _is_beside_signature(name: str, beside: frozenset[str]) -> bool:
    if _BESIDE_SIGNATURE.fullmatch(name):
        return True
    if _BESIDE_WHOLE.fullmatch(name):
        return any(each.endswith("signature") for each in beside)
    return bool(_BESIDE_SIG.fullmatch(name)) and "sig" in beside and not _AZURE.isdisjoint(beside)


def _is_image_name(text: str) -> bool:
    return text.lower().endswith(tuple(IMAGE_EXTENSIONS))


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0]).strip().removesuffix("[]").lower()
