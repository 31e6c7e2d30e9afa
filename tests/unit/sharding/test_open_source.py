"""Opening sources of every kind, on local files and in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import (
    CredentialsError,
    ObjectDeniedError,
    ObjectMissingError,
    SourceError,
    SourceLostError,
)
from pipeline.records import ImageTask
from pipeline.sharding import SourceListing, open_source, source_is_there, source_store
from pipeline.storage import open_store


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def listing_of(url: str | Path, destination: str | Path | None = None, **config: Any) -> SourceListing:
    return open_source(SourceConfig(url=str(url), **config), None if destination is None else str(destination))


def sources_of(url: str | Path, **config: Any) -> list[str]:
    return [task.source for task in listing_of(url, **config).iterate()]


def read_back(url: str | Path, tasks: list[ImageTask]) -> list[bytes]:
    """As a worker does, with nothing but the configuration and the tasks."""
    store = source_store(SourceConfig(url=str(url)))
    return [store.read(task.key, if_match=task.etag) for task in tasks]


def test_a_folder_gives_its_images_in_order_and_counts_the_rest(tmp_path: Path) -> None:
    fill(tmp_path / "in", "b.JPG", "a/z.png", "a/notes.txt", "a.jpg", "README", "x.pdf", "y.pdf", "._b.JPG", "raw.cr3")
    listing = listing_of(tmp_path / "in", tmp_path / "out")
    tasks = list(listing.iterate())
    assert [task.source for task in tasks] == ["a.jpg", "a/z.png", "b.JPG"]
    assert read_back(tmp_path / "in", tasks) == [b"a.jpg", b"a/z.png", b"b.JPG"]
    assert [task.size_bytes for task in tasks] == [5, 7, 5]
    assert listing.counts.num_images == 3
    assert listing.num_ignored == 6
    assert listing.ignored_by_extension == {".pdf": 2, ".txt": 1, "(none)": 1, "._*": 1, ".cr3": 1}
    assert listing.counts.ignored_examples == ["._b.JPG", "README", "a/notes.txt", "raw.cr3", "x.pdf"]
    assert list(listing.iterate()) == tasks
    assert listing.num_ignored == 6


def test_files_with_the_name_of_an_unfinished_write_are_counted_among_the_ignored(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.jpg", ".hdrfleet-tmp-x.jpg", "deep/.hdrfleet-tmp-1-ab", "other/.hdrfleet-tmp-y.jpg")
    listing = listing_of(tmp_path / "in", exclude=("other/*",))
    assert [task.source for task in listing.iterate()] == ["a.jpg"]
    assert listing.ignored_by_extension == {".hdrfleet-tmp-*": 2}
    assert listing.counts.ignored_examples == [".hdrfleet-tmp-x.jpg", "deep/.hdrfleet-tmp-1-ab"]
    matched = listing_of(f"{tmp_path}/in/*.jpg")
    assert [task.source for task in matched.iterate()] == ["a.jpg"]
    assert matched.counts.ignored_examples == [".hdrfleet-tmp-x.jpg"]


def test_names_that_no_output_can_have_are_counted_and_can_be_shown(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    fill(folder, "a.jpg", "b\nc.jpg", "note\x1b.txt", "odd.j\x07pg")
    try:
        (folder / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    listing = listing_of(folder)
    assert [task.source for task in listing.iterate()] == ["a.jpg"]
    assert listing.counts.num_unusable == 2
    assert listing.counts.unusable_examples == ["b\\nc.jpg", "\\udcff.png"]
    assert listing.ignored_by_extension == {".txt": 1, ".j\\x07pg": 1}
    assert listing.counts.ignored_examples == ["note\\x1b.txt", "odd.j\\x07pg"]
    matched = listing_of(f"{folder}/b*.jpg")
    with pytest.raises(SourceError, match=r"1 with names that cannot be used: b\\nc\.jpg"):
        list(matched.iterate())
    list(listing_of(folder, include=("a.*",)).iterate())


def test_a_trailing_slash_and_a_file_url_change_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "my photos", "a.jpg")
    plain = list(listing_of(tmp_path / "my photos").iterate())
    assert list(listing_of(f"{tmp_path}/my photos/").iterate()) == plain
    assert list(listing_of(f"file://{tmp_path}/my%20photos").iterate()) == plain


def test_a_folder_that_is_a_link_and_one_named_like_a_list(tmp_path: Path) -> None:
    fill(tmp_path / "real.csv", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real.csv")
    assert sources_of(tmp_path / "link") == ["a.jpg"]
    assert sources_of(f"{tmp_path}/real.csv/") == ["a.jpg"]
    with pytest.raises(SourceError, match="add a slash"):
        listing_of(tmp_path / "real.csv")


def test_include_exclude_and_limit(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.png", "raw/a.jpg", "raw/c.jpg", "raw/notes.txt")
    assert sources_of(tmp_path, include=("*.jpg",), exclude=("raw/c*",)) == ["a.jpg", "raw/a.jpg"]
    assert sources_of(tmp_path, limit=2) == ["a.jpg", "b.png"]
    listing = listing_of(tmp_path, exclude=("raw/**",), limit=3)
    assert len(list(listing.iterate())) == 2
    assert (listing.counts.num_excluded, listing.num_ignored) == (3, 0)


def test_nothing_to_convert_is_said_with_its_reasons(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.txt", "c.jpg")
    with pytest.raises(SourceError, match=r"no image .*; 1 left out by .*; 2 without an image's extension \(.txt 2\)"):
        sources_of(tmp_path, exclude=("c.*",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no image to convert in \S+empty$"):
        sources_of(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a.jpg", "no-extension", "odd.dat"])
def test_a_single_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    url = fill(tmp_path, name, "other.jpg") / name
    tasks = list(listing_of(url, tmp_path).iterate())
    assert [task.source for task in tasks] == [name]
    assert read_back(url, tasks) == [name.encode()]


def test_globs(tmp_path: Path) -> None:
    fill(tmp_path, "2023/a.jpg", "2024-01/a.jpg", "2024-01/deep/b.jpg", "2024-02/c.png", "2024-02/c.dat")
    assert sources_of(f"{tmp_path}/**/*.jpg") == ["2023/a.jpg", "2024-01/a.jpg", "2024-01/deep/b.jpg"]
    assert sources_of(f"{tmp_path}/2024-*/*") == ["2024-01/a.jpg", "2024-02/c.png"]
    assert sources_of(f"{tmp_path}/2024-02/*.dat") == ["c.dat"]
    tasks = list(listing_of(f"{tmp_path}/2024-0?/c.[pq]ng").iterate())
    assert [task.source for task in tasks] == ["2024-02/c.png"]
    assert read_back(f"{tmp_path}/2024-0?/c.[pq]ng", tasks) == [b"2024-02/c.png"]
    with pytest.raises(SourceError, match="no image to convert"):
        sources_of(f"{tmp_path}/*.jpg")


def test_keys_and_names_do_not_depend_on_how_the_source_was_named(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg")
    (tmp_path / "in" / "list.txt").write_text("a.jpg")
    folder, glob, file, by_list = (listing_of(f"{tmp_path}/in{rest}") for rest in ("", "/*.jpg", "/a.jpg", "/list.txt"))
    assert {each.root_url for each in (folder, glob, file, by_list)} == {f"{tmp_path}/in"}
    assert list(folder.iterate()) == list(glob.iterate()) == list(file.iterate())
    assert list(by_list.iterate()) == list(folder.iterate())


def test_a_folder_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    url = fill(tmp_path / "trip [2024]" / "day?", "a.jpg")
    tasks = list(listing_of(url).iterate())
    assert [task.source for task in tasks] == ["a.jpg"]
    assert read_back(url, tasks) == [b"a.jpg"]


def test_a_list_in_its_own_order_with_sizes_looked_up(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "in/b.dat", "far/c.jpg")
    url = tmp_path / "in" / "list.txt"
    url.write_text(f"b.dat\n{tmp_path}/far/c.jpg\nmissing.jpg\na.jpg\nb.dat\n")
    listing = listing_of(url, tmp_path / "in" / "out")
    tasks = list(listing.iterate())
    assert [task.source for task in tasks] == ["b.dat", f"{tmp_path}/far/c.jpg", "missing.jpg", "a.jpg"]
    assert (tasks[2].size_bytes, tasks[2].etag) == (0, "")
    assert read_back(url, [task for task in tasks if task.etag]) == [b"in/b.dat", b"far/c.jpg", b"in/a.jpg"]
    with pytest.raises(ObjectMissingError):
        read_back(url, [tasks[2]])


def test_a_long_list_keeps_its_order_and_may_be_left_early(tmp_path: Path) -> None:
    names = [f"{(index * 7919) % 300:03d}.jpg" for index in range(300)]
    fill(tmp_path, *names)
    (tmp_path / "list.csv").write_text("key\n" + "\n".join(names))
    tasks = list(listing_of(tmp_path / "list.csv").iterate())
    assert [task.source for task in tasks] == names
    assert all(task.size_bytes == 7 for task in tasks)
    partial = listing_of(tmp_path / "list.csv").iterate()
    assert next(partial).source == names[0]
    partial.close()


def test_a_prefix_and_a_single_object_in_memory() -> None:
    store = open_store("memory://sources", StorageConfig())
    for key in ("p/a.jpg", "p/b/c.png", "p/notes.txt", "q/a.jpg"):
        store.replace(key, key.encode())
    tasks = list(listing_of("memory://sources/p", "memory://sources/out").iterate())
    assert [task.source for task in tasks] == ["a.jpg", "b/c.png"]
    assert read_back("memory://sources/p", tasks) == [b"p/a.jpg", b"p/b/c.png"]
    assert sources_of("memory://sources/p/a.jpg") == ["a.jpg"]
    assert sources_of("memory://sources") == ["p/a.jpg", "p/b/c.png", "q/a.jpg"]
    assert sources_of("memory://sources/*/a.jpg") == ["p/a.jpg", "q/a.jpg"]
    with pytest.raises(SourceError, match="nothing at memory://sources/none"):
        listing_of("memory://sources/none")


def test_a_list_over_several_buckets() -> None:
    for bucket in ("lists-one", "lists-two"):
        open_store(f"memory://{bucket}", StorageConfig()).replace("k.jpg", bucket.encode())
    url = "memory://lists-one/all.txt"
    open_store("memory://lists-one", StorageConfig()).replace("all.txt", b"memory://lists-two/k.jpg\nk.jpg\n")
    tasks = list(listing_of(url).iterate())
    assert [task.source for task in tasks] == ["memory://lists-two/k.jpg", "k.jpg"]
    assert read_back(url, tasks) == [b"lists-two", b"lists-one"]
    store = source_store(SourceConfig(url=url))
    assert [info.key for info in store.list("memory://lists-two")] == ["memory://lists-two/k.jpg"]
    assert (store.url, store.has_atomic_create) == (url, False)
    for write in (
        lambda: store.create("memory://lists-two/x", b""),
        lambda: store.replace("memory://lists-two/k.jpg", b""),
        lambda: store.delete("memory://lists-two/k.jpg"),
    ):
        with pytest.raises(ObjectDeniedError, match="only read"):
            write()


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("in", "in", "same place"),
        ("in", "in/out", "destination .* inside the source"),
        ("in", ".", "source .* inside the destination"),
        ("link", "in/out", "destination .* inside the source"),
        ("in/*", "in", "same place"),
        ("in/**/*.jpg", "in/out", "destination .* inside the source"),
        ("in/*.jpg", ".", "source .* inside the destination"),
        ("in/*.jpg", "in/out", None),
        ("in", "in2", None),
        ("in", "s3://bucket/in", None),
        ("in/a.jpg", "in", None),
    ],
)
def test_overlap_with_the_destination(tmp_path: Path, source: str, destination: str, message: str | None) -> None:
    fill(tmp_path, "in/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    target = destination if "://" in destination else tmp_path / destination
    if message is None:
        assert len(list(listing_of(tmp_path / source, target).iterate())) == 1
    else:
        with pytest.raises(SourceError, match=message):
            listing_of(tmp_path / source, target)


def test_what_cannot_be_a_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in [("none", "nothing at"), ("none.csv", "nothing at"), ("pipe", "neither a folder nor a file")]:
        with pytest.raises(SourceError, match=message):
            listing_of(tmp_path / name)
    with pytest.raises(SourceError, match="cannot read the source"):
        listing_of(tmp_path / ("x" * 300))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of nobody in particular, where this process is not root: to root no folder is closed."""
    with tempfile.TemporaryDirectory(prefix="hf-") as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o777)
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)


def test_a_folder_that_may_not_be_read(open_folder: Path) -> None:
    (open_folder / "locked").mkdir(mode=0)
    with pytest.raises(SourceError, match="Permission denied"):
        listing_of(open_folder / "locked")


def test_a_folder_that_may_not_be_read_matters_where_something_below_it_is_wanted(open_folder: Path) -> None:
    fill(open_folder, "a/1.jpg", "b/2.jpg")
    (open_folder / "b/.Trashes").mkdir(mode=0)
    says = r"b/\.Trashes: .*Permission denied; give access to it, or leave it out with --exclude"
    for url, options in (
        (open_folder, {}),
        (open_folder, {"exclude": ("b/*", ".Trashes")}),
        (open_folder, {"include": ("*.jpg",)}),
        (f"{open_folder}/**/*.jpg", {}),
        (f"{open_folder}/b/*/*.jpg", {}),
    ):
        with pytest.raises(SourceError, match=says):
            sources_of(url, **options)
    for exclude in ("b/**", "b/.Trashes/**", "**/.Trashes/**", "?/.T*/**"):
        assert sources_of(open_folder, exclude=(exclude, "nothing/**"))[0] == "a/1.jpg"
    assert sources_of(f"{open_folder}/a/*.jpg") == ["1.jpg"]
    assert sources_of(f"{open_folder}/[ab]/*.jpg") == ["a/1.jpg", "b/2.jpg"]


def test_what_is_no_file_of_the_source_s_own_is_counted(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", "a.jpg", "z/b.jpg", "outside.jpg")
    (folder / "outside.jpg").rename(tmp_path / "outside.jpg")
    (folder / "linked.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "z/linked").symlink_to(tmp_path)
    (folder / "z/nothing.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe.jpg")
    listing = listing_of(folder)
    assert [task.source for task in listing.iterate()] == ["a.jpg", "linked.jpg", "z/b.jpg"], "a linked file is a file"
    assert (listing.counts.num_special, listing.counts.special_examples) == (
        4,
        ["loop", "pipe.jpg", "z/linked", "z/nothing.jpg"],
    )
    excluding = listing_of(folder, exclude=("z/**", "pipe.*"))
    list(excluding.iterate())
    assert excluding.counts.special_examples == ["loop"]
    matched = listing_of(f"{folder}/z/*.jpg")
    list(matched.iterate())
    assert matched.counts.special_examples == ["nothing.jpg"]
    with pytest.raises(SourceError, match="2 links to folders, links to nothing or devices, which are passed by"):
        sources_of(folder / "z", exclude=("b.jpg",))


def test_an_emptied_source_is_told_from_one_with_a_few_images_gone(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.jpg").write_bytes(b"x")
    single = SourceConfig(url=str(folder / "sub/a.jpg"))
    sources = [SourceConfig(url=url) for url in (str(folder), f"{folder}/", f"{folder}/**/*.jpg")]
    assert all(source_is_there(config) for config in [*sources, single])
    (folder / "sub/a.jpg").unlink()
    assert not any(source_is_there(config) for config in [*sources, single])
    shutil.rmtree(folder)
    assert not any(source_is_there(config) for config in sources)
    listed = tmp_path / "wanted.txt"
    listed.write_text("photos/a.jpg")
    assert source_is_there(SourceConfig(url=str(listed)))


def test_a_source_that_became_something_else_is_lost(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photos")
    with pytest.raises(SourceLostError, match="neither a folder nor a file"):
        source_is_there(SourceConfig(url=str(tmp_path / "photos")))


def test_a_pass_for_some_sources_does_without_what_it_is_not_for(open_folder: Path) -> None:
    fill(open_folder, "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/\x01.jpg", "notes.txt")
    (open_folder / "b/nothing.jpg").symlink_to(open_folder / "gone.jpg")
    (open_folder / ".Trashes").mkdir(mode=0)
    for url in (open_folder, f"{open_folder}/**/*.jpg"):
        listing = listing_of(url)
        with pytest.raises(SourceError, match="Permission denied"):
            list(listing.iterate())
        assert [task.source for task in listing.only({"a/2.jpg", "b/3.jpg", "b/4.jpg"}).iterate()] == [
            "a/2.jpg",
            "b/3.jpg",
        ]
        counts = listing.counts
        assert (counts.num_images, counts.num_unusable, counts.num_special, listing.num_ignored) == (2, 0, 0, 0)
        assert not counts.denied_folders
        # A folder where something wanted lay does not keep the others from being found, and is named.
        assert [task.source for task in listing.only({"a/1.jpg", ".Trashes/x/5.jpg"}).iterate()] == ["a/1.jpg"]
        assert listing.counts.denied_folders == [".Trashes"]
        assert not list(listing.only({"gone.jpg"}).iterate()), "the source is there, and not the image"


def test_a_pass_for_some_sources_of_an_emptied_folder_fails(tmp_path: Path) -> None:
    fill(tmp_path / "in", "notes.txt")
    with pytest.raises(SourceError, match="no image to convert"):
        list(listing_of(tmp_path / "in").only({"a.jpg"}).iterate())


def test_a_pass_for_some_names_of_a_list_looks_up_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "list.txt").write_text("c.jpg\nb.jpg\na.jpg\n")
    listing = listing_of(tmp_path / "list.txt").only({"a.jpg", "c.jpg"})
    asked, stat = [], listing.store.stat

    def looking_up(key: str) -> object:
        asked.append(Path(key).name)
        return stat(key)

    monkeypatch.setattr(listing.store, "stat", looking_up)
    assert [(task.source, task.size_bytes) for task in listing.iterate()] == [("c.jpg", 5), ("a.jpg", 5)]
    assert sorted(asked) == ["a.jpg", "c.jpg"]


def test_a_folder_that_may_not_be_read_says_nothing_about_whether_the_source_is_there(open_folder: Path) -> None:
    folder = fill(open_folder / "in", "a.jpg")
    (folder / ".Trashes").mkdir(mode=0)
    configs = [SourceConfig(url=str(folder)), SourceConfig(url=f"{folder}/**/*.jpg")]
    assert all(source_is_there(config) for config in configs)
    (folder / "a.jpg").unlink()
    assert not any(source_is_there(config) for config in configs)
    folder.chmod(0)
    for config in configs:
        with pytest.raises((SourceLostError, CredentialsError)):
            source_is_there(config)
