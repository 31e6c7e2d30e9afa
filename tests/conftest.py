"""Fixtures that every tier shares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import resume
from hypothesis import settings

# Examples are the same in every run, and no example fails for being slow on a busy machine.
settings.register_profile("hdrfleet", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("hdrfleet")

# One thread is faster for the small arrays of tests, and leaves the other cores to other work. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["servers.fixtures", "left_out"]

pytest_addoption = resume.add_option
pytest_configure = resume.register

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of test data that is not part of the repository; it need not be there."""
    return Path(os.environ.get("HDRFLEET_TEST_DATA", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data(shared_folder: Path) -> Path:
    """The folder of real photographs and HDR images that is not part of the repository."""
    root = shared_folder
    if not (root / "photos" / "index.csv").is_file():
        pytest.skip(f"no real test images at {root}; set HDRFLEET_TEST_DATA to a folder that holds photos/index.csv")
    return root


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on this machine with two CPUs, in a home of its own; stopped at the end."""
    import ray
    from ray._private.authentication_test_utils import reset_auth_token_state

    home = tmp_path_factory.mktemp("ray-home")
    with tempfile.TemporaryDirectory(prefix="hf-") as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        # Workers import engines of tests by name.
        patch.setenv("PYTHONPATH", str(REPOSITORY / "tests"), prepend=os.pathsep)
        # Ray keeps the mode that it read first. After a test that showed a token, this driver would ask the head for
        # one, which has none; the head would then take every actor for one that nobody needs.
        reset_auth_token_state()
        for attempt in (1, 2, 3):
            try:
                ray.init(
                    num_cpus=2,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=150 * 2**20,
                    _temp_dir=short,
                    _node_ip_address="127.0.0.1",
                )
                break
            except Exception:  # Ray gives a raylet 30 s to start, which a machine that is busy may exceed
                ray.shutdown()
                if attempt == 3:
                    raise
        yield
        ray.shutdown()
