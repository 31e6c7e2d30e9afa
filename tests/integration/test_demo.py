"""`hdrfleet demo` from end to end, as `make demo` starts it: not through PATH, in a folder of one's own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import environment, hdrfleet, hdrfleet_here, rows_of
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
BROKEN = {"broken.jpg": "decode_truncated"}
NUM_IMAGES = 8


class Demo:
    """What one run of it left in `folder` and said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "demo-output"
        (root / "bin").mkdir()
        program = root / "bin/hdrfleet"
        program.write_text(f"#!{sys.executable}\nfrom jobs.cli import main\n\nmain()\n")
        program.chmod(0o755)
        self.ended = self.in_shell("bin/hdrfleet demo --executor local", timeout_s=150)

    def in_shell(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a line in a shell that finds no hdrfleet in its PATH."""
        env = environment(self.root / "home", {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)})
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    assert demo.ended.returncode == 0, demo.ended.stderr
    return demo


@pytest.mark.timeout(200)
def test_all_but_the_broken_picture_are_converted(demo: Demo) -> None:
    check_rows(demo.folder)
    assert "decode_truncated (1)" in demo.ended.stdout


@pytest.mark.timeout(200)
def test_the_contact_sheet_is_a_picture_with_something_on_it(demo: Demo) -> None:
    check_sheet(demo.folder)


@pytest.mark.timeout(200)
def test_scores_and_places_are_printed(demo: Demo) -> None:
    said = demo.ended.stdout + demo.ended.stderr
    scores = [line.split() for line in demo.ended.stdout.splitlines() if line.startswith("scene_")]
    assert len(scores) == 5
    for _, ours, of_srgb, *_ in scores:
        assert 10 < float(of_srgb) < float(ours) < 80, "the network comes closer than a plain decode"
    for place in ("photos", "hdr/images", "hdr/manifest", "contact-sheet.png"):
        assert f"demo-output/{place}\n" in said
        assert (demo.folder / place).exists()


@pytest.mark.timeout(200)
def test_the_next_step_works_as_it_is_printed(demo: Demo) -> None:
    step = next(line for line in demo.ended.stderr.splitlines() if line.startswith("next: ")).removeprefix("next: ")
    assert shlex.split(step)[:3] == ["bin/hdrfleet", "query", "demo-output/hdr"]
    answer = demo.in_shell(step)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 1 + NUM_IMAGES


@pytest.mark.timeout(200)
def test_once_more_replaces_the_earlier_demo(demo: Demo) -> None:
    left = [demo.folder / "photos/of-yesterday.jpg", demo.folder / "hdr/images/of-yesterday.exr"]
    for path in left:
        path.write_bytes(b"earlier")
    before = {row["source"]: row["started_at"] for row in rows_of(demo.folder / "hdr")}
    assert hdrfleet_here("demo", demo.folder, "--executor", "local") == 0
    assert not any(path.exists() for path in left)
    rows = check_rows(demo.folder)
    assert all(row["started_at"] > before[row["source"]] for row in rows)
    check_sheet(demo.folder)


@pytest.mark.timeout(60)
def test_a_folder_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "demo-output/photos/mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert hdrfleet_here("demo", tmp_path / "demo-output", "--executor", "local") == 2
    err = capsys.readouterr().err
    assert "holds something else than an earlier demo; name an empty or new folder [bad_destination]" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_on_ray_as_make_demo_runs_it(tmp_path: Path) -> None:
    ended = hdrfleet("demo", tmp_path / "demo", home=tmp_path / "home", timeout_s=300)
    assert ended.returncode == 0, ended.stderr
    check_rows(tmp_path / "demo")
    check_sheet(tmp_path / "demo")


def check_rows(folder: Path) -> list[dict[str, object]]:
    rows = rows_of(folder / "hdr")
    photos = sorted(path.name for path in (folder / "photos").iterdir())
    assert len(photos) == NUM_IMAGES
    assert sorted(str(row["source"]) for row in rows) == photos
    assert {row["source"]: row["error_code"] for row in rows if row["status"] != "ok"} == BROKEN
    assert all((folder / "hdr" / str(row["output"])).is_file() for row in rows if row["status"] == "ok")
    return rows


def check_sheet(folder: Path) -> None:
    with Image.open(folder / "contact-sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    height, width, _ = pixels.shape
    assert 400 < width < 4000
    assert 150 * NUM_IMAGES < height < 10_000
    for part in np.array_split(pixels, 4):
        assert part.std() > 10, "every quarter has a picture on it"
