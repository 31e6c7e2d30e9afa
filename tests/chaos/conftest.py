"""Fixtures of the tests in which a node is cut off: machines with addresses of their own, and what they convert."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from commands import environment
from cut_off import NUM_PHOTOS, OPTIONS, Library, MakeCluster
from independent_checker import Folder, comparable, require_whole
from network_namespaces import Switch
from photographs import jpeg, picture
from separate_machines import TESTS, SeparateCluster
from watched_run import FOLDER, NODE, PACE, Engines


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    root = tmp_path_factory.mktemp("partition")
    folder = root / "photos"
    folder.mkdir()
    inputs = {f"{index:02}.jpg": jpeg(picture(96, 64, seed=index)) for index in range(NUM_PHOTOS)}
    for name, data in inputs.items():
        (folder / name).write_bytes(data)
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH", ""))))
    env = {FOLDER: str(Engines(root / "engines").folder), NODE: "quiet", PACE: "0", "PYTHONPATH": path}
    command = [sys.executable, "-m", "watched_run", "convert", folder, root / "whole", "--executor", "local", *OPTIONS]
    quiet = subprocess.run(
        command, env=environment(root / "home", env), capture_output=True, text=True, timeout=300, check=False
    )
    assert quiet.returncode == 0, quiet.stderr
    return Library(folder, inputs, comparable(require_whole(Folder(root / "whole"), inputs)))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's: the paths of its sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="hf-") as short:
        yield Path(short)


@pytest.fixture
def switch(short_folder: Path) -> Iterator[Switch]:
    """It ends, with all that runs on its machines, before `short_folder` is removed."""
    with Switch() as made:
        yield made


@pytest.fixture
def make_cluster(switch: Switch, short_folder: Path, tmp_path: Path) -> Iterator[MakeCluster]:
    made = []

    def make(env: Mapping[str, str] | None = None) -> SeparateCluster:
        made.append(SeparateCluster(switch, short_folder, tmp_path, env))
        return made[-1]

    yield make
    for each in made:
        each.close()
