"""Lists of images in text, CSV and Parquet."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from pipeline.sharding.lists import read_list
from pipeline.sharding.locations import Location


def keys_of(data: bytes | str, name: str = "list.txt", root: str = "/") -> list[str]:
    location = Location("file" if root == "/" else root.partition(":")[0], root, f"lists/{name}")
    tasks = read_list(data.encode() if isinstance(data, str) else data, location)
    return [task.key for task in tasks]


def parquet(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_text_lists_skip_comments_and_blank_lines() -> None:
    text = "\ufeff# my photos\r\n\r\n b.jpg \r\n/x/a b.jpg\r\n#c.jpg\r\nsub/ü#1.png"
    assert keys_of(text) == ["/lists/b.jpg", "/x/a b.jpg", "/lists/sub/ü#1.png"]


@pytest.mark.parametrize(
    "text",
    [
        "size,Path\n1,a.jpg\n2,b.jpg\n",
        "key,url\na.jpg,x\nb.jpg,y\n",
        'source\n"a.jpg"\n\nb.jpg\n',
        "a.jpg\nb.jpg\n",
        "photo;print\na.jpg\nb.jpg\n",
        "image file\na.jpg\nb.jpg\n",
        "path,size\na.jpg,1\n,2\nb.jpg,3\n",
    ],
)
def test_csv_columns_and_headers(text: str) -> None:
    assert keys_of(text, "list.csv") == ["/lists/a.jpg", "/lists/b.jpg"]


def test_csv_cells_may_hold_commas_and_quotes() -> None:
    assert keys_of('source\n"a, b.jpg"\n"say ""hi"".jpg"\n', "list.csv") == ["/lists/a, b.jpg", '/lists/say "hi".jpg']


@pytest.mark.parametrize("column", ["source", "path", "key", "url", "uri", "URI"])
def test_parquet_columns(column: str) -> None:
    data = parquet(other=[1, 2, 3], **{column: ["a.jpg", None, "b.jpg"]})
    assert keys_of(data, "list.parquet") == ["/lists/a.jpg", "/lists/b.jpg"]


def test_a_single_parquet_column_needs_no_name() -> None:
    assert keys_of(parquet(image=["a.jpg"]), "list.parquet") == ["/lists/a.jpg"]


def test_repetitions_are_kept_once() -> None:
    location = Location("file", "/", "lists/list.txt")
    tasks = read_list(b"b.jpg\na.jpg\nb.jpg\n./a.jpg\n/lists/b.jpg\n", location)
    assert [task.source for task in tasks] == ["b.jpg", "a.jpg"]


def test_urls_of_several_buckets_and_relative_entries() -> None:
    text = "s3://one/k.jpg\ns3://two/a/k.jpg\nnear.jpg\n"
    assert keys_of(text, root="s3://b") == ["s3://one/k.jpg", "s3://two/a/k.jpg", "s3://b/lists/near.jpg"]
    assert keys_of("s3://one/k.jpg\n") == ["s3://one/k.jpg"]


def test_a_relative_entry_stays_in_its_bucket() -> None:
    with pytest.raises(SourceError, match=r"^s3://b/lists/list.txt: line 1: '../../a.jpg' leads out of s3://b"):
        keys_of("../../a.jpg\n", root="s3://b")


def test_what_find_writes_is_named_as_a_walk_names_it() -> None:
    tasks = read_list(b"./a.jpg\n./b/c.jpg\nb/../d.jpg\n../up.jpg\n", Location("file", "/", "photos/list.txt"))
    assert [task.source for task in tasks] == ["a.jpg", "b/c.jpg", "d.jpg", "../up.jpg"]
    assert [task.key for task in tasks] == ["/photos/a.jpg", "/photos/b/c.jpg", "/photos/d.jpg", "/up.jpg"]


def test_blanks_belong_to_a_quoted_name() -> None:
    """As `query --format csv` writes them."""
    assert keys_of('source,n\n" lead.png",1\n"trail.png ",2\n  bare.png,3\n" ",4\n', name="list.csv") == [
        "/lists/ lead.png",
        "/lists/trail.png ",
        "/lists/bare.png",
    ]


def test_entries_that_differ_in_their_query_are_different_images() -> None:
    tasks = read_list(b"http://h/i?w=1\nhttp://h/i?w=2\nhttp://h/i?w=1&sig=x\n", Location("file", "/", "l.txt"))
    assert [task.key for task in tasks] == ["http://h/i?w=1", "http://h/i?w=2"]


def test_secrets_are_not_recorded() -> None:
    location = Location("s3", "s3://b", "list.txt")
    (task,) = read_list(b"s3://AKIAX:hidden@one/k.jpg?X-Amz-Signature=hidden", location)
    assert (task.source, task.key) == ("s3://one/k.jpg", "s3://one/k.jpg")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        ("", "list.txt", "names no image"),
        ("# only\n\n", "list.txt", "names no image"),
        (b"\xff\xfe\x00", "list.txt", "not UTF-8"),
        ("a.jpg\ns3://b/k.jpg\n", "list.txt", "line 2: .* split the list"),
        ("a.jpg\n/\n", "list.txt", "line 2: .* does not name a file"),
        ("/lists/../a.jpg\na.jpg\n", "list.txt", None),
        ("/a.jpg\na.jpg\n", "list.txt", "line 2: the output of 'a.jpg'"),
        ("s3://b\n", "list.txt", "line 1: .* does not name a file"),
        ("s3://b/../k.jpg\n", "list.txt", "line 1: .* does not name a file"),
        ("name,size\na.jpg,1\n", "list.csv", "no column is named source, path, key, url or uri; found name, size"),
        ("path;size\na.jpg;1\n", "list.csv", "separated by commas here, not by ';'; found 'path;size'"),
        ("size\tpath\n1\ta.jpg\n", "list.csv", r"separated by commas here, not by '\\t'"),
        ("size,path\n1,a.jpg\n2\n", "list.csv", "line 3: has 1 columns, not the 2"),
        ('path\n"a.jpg\n', "list.csv", "line 2: unexpected end"),
        (b"PAR1 but not really", "list.parquet", "not a readable Parquet file"),
        (parquet(name=["a"], size=[1]), "list.parquet", "no column is named"),
        (parquet(path=[1, 2]), "list.parquet", "row 1: column 'path' holds int"),
    ],
)
def test_bad_lists_are_named_in_one_line(data: bytes | str, name: str, message: str | None) -> None:
    if message is None:
        assert len(keys_of(data, name)) == 2
        return
    with pytest.raises(SourceError, match=message) as caught:
        keys_of(data, name)
    assert str(caught.value).startswith(f"/lists/{name}: ")
    assert "\n" not in str(caught.value)
