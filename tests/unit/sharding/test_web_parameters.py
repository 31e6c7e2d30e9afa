"""Which parameters of a web address are secret, which are not, and how addresses that differ in them are told apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sharding.lists import read_list
from pipeline.sharding.locations import Location
from pipeline.sharding.web_parameters import part_secrets

SECRET = "CaNaRy0123456789"
NAMES = [
    *("auth", "authorization", "Authorization", "oauth", "jwt", "token", "access_token", "access-token", "x-token"),
    *(
        "key",
        "api_key",
        "apikey",
        "api-key",
        "access_key",
        "AccessKeyId",
        "AWSAccessKeyId",
        "OSSAccessKeyId",
        "auth_key",
    ),
    *("secret", "client_secret", "pass", "passwd", "password", "pwd", "db_pass", "credential", "subscription-key"),
    *("session", "sessionid", "session_id", "sid", "PHPSESSID", "JSESSIONID", "ticket", "code", "st", "sign"),
    *("hmac", "sig", "Signature", "signature", "x-sig", "X-Amz-Signature", "X-Goog-Signature", "x-oss-signature"),
    *("hdnts", "hdnea", "hdntl", "__gda__", "__token__", "__cld_token__", "wsSecret", "q-signature", "q-ak"),
    *("X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Credential", "security-token", "x-cos-security-token"),
    *("aws_secret_access_key", "session-token", "account_key", "shared_access_signature", "private_key_id", "hf_token"),
    *("passphrase", "credentials", "%61uth", "auth[]", "amp;auth", "token_signature"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_parameter_is_dropped_wherever_it_stands(name: str) -> None:
    for query in (f"{name}={SECRET}", f"id=7&{name}={SECRET}", f"{name}={SECRET}&id=7", f"&{name}={SECRET}&id=7"):
        for path in ("a.jpg", "image"):
            url = part_secrets(f"https://h/{path}?{query}").url
            assert SECRET not in url
            assert "id=7" not in query or "id=7" in url


@pytest.mark.parametrize("name", ["jsessionid", "sid", "token", "sig", "auth", "key", "hmac", "jwt", "access_key"])
def test_parameters_of_a_path_are_judged_by_the_same_list(name: str) -> None:
    assert part_secrets(f"http://h/a;v=1;{name}={SECRET}/b.jpg;{name}={SECRET}").url == "http://h/a;v=1/b.jpg"


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("hdnts=exp=1~acl=/*~hmac=00ff&w=3", "w=3"),
        ("x=exp=1~acl=/*~hmac=00ff&w=3", "w=3"),
        ("x=exp%3D1~hmac%3D00ff&w=3", "w=3"),
        ("x=sig=00ff&y=a,signature=00ff&w=3", "w=3"),
        ("X-Amz-Algorithm=a&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=a/b&w=3", "w=3"),
        ("X-Goog-Algorithm=a&X-Goog-Date=1&X-Goog-Signature=a&w=3", "w=3"),
        ("GoogleAccessId=a@b&Expires=1&Signature=a&w=3", "w=3"),
        ("Expires=1700000000&KeyName=k&Signature=a&w=3", "w=3"),
        ("Policy=a&Signature=a&Key-Pair-Id=K&w=3", "w=3"),
        ("sv=2024-11-04&st=a&se=b&sr=b&sp=r&skoid=a&skv=1&sig=a%2Fb&w=3", "w=3"),
        ("si=policy&sv=2024-11-04&sr=c&sig=a&w=3", "w=3"),
        ("OSSAccessKeyId=a&Expires=1&Signature=b&x-oss-process=image/resize,w_3", "x-oss-process=image/resize,w_3"),
        (
            "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=a&x-oss-date=1&x-oss-expires=1"
            "&x-oss-additional-headers=host&x-oss-signature=a&x-oss-process=style/a",
            "x-oss-process=style/a",
        ),
        (
            "q-sign-algorithm=sha1&q-ak=a&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-url-param-list="
            "&q-signature=a&imageView2/1/w/3",
            "imageView2/1/w/3",
        ),
        ("wsSecret=a&wsTime=1&w=3", "w=3"),
        ("md5=0123456789abcdefABCDEF&expires=1700000000&w=3", "w=3"),
        ("st=0123456789abcdefABCDEF&e=1700000000&w=3", "w=3"),
        ("token=a&expires=1700000000&w=3", "w=3"),
        ("w=3;token=a;id=4", "w=3;id=4"),
        ("url=http://o/a.jpg?auth=abc&w=3", "url=http://o/a.jpg&w=3"),
        ("src=/a.jpg?id=7&key=abcdef", "src=/a.jpg?id=7"),
        ("url=http%3A%2F%2Fu%3Ap%40o%2Fa.jpg%3Fid%3D7%26auth%3Dabc", "url=http%3A%2F%2Fo%2Fa.jpg%3Fid%3D7"),
        ("url=http%253A%252F%252Fo%252F%253Fauth%253Dabc", "url=http%253A%252F%252Fo%252F"),
        ("x=AKIAIOSFODNN7EXAMPLE&w=3", "w=3"),
    ],
)
def test_signatures_go_with_what_belongs_to_them(query: str, kept: str) -> None:
    assert part_secrets(f"https://h/image?{query}").url == f"https://h/image?{kept}"


@pytest.mark.parametrize(
    "query",
    [
        "id=a8f3bc0123456789abcdef&file=a.jpg&w=2&h=3&page=3&v=4&q=80&fit=crop",
        "sv=1&sr=2&sp=3&ss=4&se=5&st=6",
        "expires=1700000000&policy=fit&e=1",
        "md5=0123456789abcdef0123456789abcdef&hash=0123456789abcdef0123456789abcdef",
        *("key=a.jpg", "key=photos%2F2024%2Fa.PNG", "key=17", "session=3&sid=4&ticket=5", "code=DE&st=CA", "sign=stop"),
        "code=SKU-12345",
        "keyword=cat&author=me&monkey=abcdefgh&passenger=abcdefgh&design=abcdefgh&sessions=abcdefgh&codec=abcdefgh",
        "token=&key=",
        "url=http://o/a.jpg?w=3&h=2",
        "url=http%3A%2F%2Fo%2F%23%2Fpage",
        "a?b&c;d",
    ],
)
def test_what_tells_images_apart_stays(query: str) -> None:
    parted = part_secrets(f"https://h/image?{query}")
    assert parted == (f"https://h/image?{query}", (), ())


def test_a_code_beside_the_name_of_an_image_is_no_name() -> None:
    assert part_secrets("https://h/a.jpg?code=abcdef").url == "https://h/a.jpg"
    assert part_secrets("https://h/image?code=abcdef").url == "https://h/image?code=abcdef"
    assert part_secrets("https://h/a.jpg?st=2&code=de").url == "https://h/a.jpg?st=2&code=de"


def listed(*entries: str, location: Location | None = None) -> list[str]:
    data = "\n".join(entries).encode()
    return [task.key for task in read_list(data, location or Location("file", "/", "list.txt"))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sig=a", "sig=b"),
        ("X-Amz-Signature=a&X-Amz-Date=1", "X-Amz-Signature=b&X-Amz-Date=2"),
        ("hdnts=exp=1~hmac=a", "hdnts=exp=2~hmac=b"),
        ("token=a&expires=1700000000", "token=a&expires=1700000001"),
        ("token=a", "w=3"),
        ("w=3", "token=a"),
        ("key=abcdef", "key=abcdef"),
    ],
)
def test_an_image_that_is_signed_twice_is_one(first: str, second: str) -> None:
    first, second = (f"http://h/i?{query.removeprefix('w=3')}&w=3" for query in (first, second))
    assert len(listed(first.replace("?&", "?"), second.replace("?&", "?"))) == 1


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        (("key=abcdef", "key=ghijkl"), "key"),
        (("key=abcdef", "x=1&key=ghijkl", "key=ghijkl"), "key"),
        (("x=1", "x=1&key=abcdef"), "key"),
        (("x=1&sid=abcdef", "x=1"), "sid"),
        (("token=a", "token=b"), "token"),
        (("x=1", "x=1&token=a", "x=1&token=b"), "token"),
        (("md5=0123456789abcdef&expires=1700000000", "md5=0123456789abcdee&expires=1700000000"), "md5"),
        (("url=http://o/?auth=a", "url=http://o/?auth=b"), "auth"),
    ],
)
def test_entries_that_differ_in_what_was_dropped_are_never_taken_for_one(entries: tuple[str, ...], name: str) -> None:
    with pytest.raises(SourceError) as caught:
        listed(*(f"http://h/i?{entry}" for entry in entries))
    message = str(caught.value)
    assert f"line {len(entries)}: 'http://h/i" in message
    assert f"is an earlier entry but for '{name}'" in message
    assert not any(value in message for value in ("abcdef", "ghijkl", "=a", "=b"))


def test_entries_relative_to_a_list_on_the_web_are_addresses() -> None:
    keys = listed("a.jpg?auth=x&w=3#y", "../b;sid=x?w=3", location=Location("http", "http://h", "l/l.txt"))
    assert keys == ["http://h/l/a.jpg?w=3", "http://h/b?w=3"]


def test_a_file_beside_a_list_may_have_any_name() -> None:
    assert listed("a.jpg?auth=x", "b;sid=x") == ["/a.jpg?auth=x", "/b;sid=x"]


@given(st.text("ab=&;?#:/@%1", max_size=40), st.sampled_from(["key", "sig", "auth", "url=http://o/?key", "id"]))
def test_what_is_recorded_has_nothing_more_to_drop(text: str, name: str) -> None:
    parted = part_secrets(f"http://h/{text}&{name}=abcdef?{text}")
    assert part_secrets(parted.url).url == parted.url


def test_addresses_within_addresses_end_somewhere() -> None:
    url = "http://h/?u=" + "http://h/?u=" * 5000
    assert len(part_secrets(url + "?auth=x").url) < len(url)
