"""Importing the library stays light: heavy packages load only where they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = {
    "pipeline": {"ray", "torch", "fsspec", "s3fs", "duckdb", "OpenEXR"},
    "pipeline.config": {"ray", "torch", "fsspec", "s3fs", "duckdb", "OpenEXR", "pyarrow"},
    "pipeline.sharding": {"ray", "torch", "s3fs", "duckdb", "OpenEXR"},
    "pipeline.job": {"ray", "torch", "s3fs"},
    "pipeline.codecs.decoder_child": {"ray", "torch", "fsspec", "s3fs", "duckdb", "OpenEXR", "pyarrow"},
    "pipeline.inference.tiling": {"ray", "torch"},
    "pipeline.simulation.camera": {"ray", "torch", "fsspec", "s3fs", "duckdb", "pyarrow", "scipy"},
    "pipeline.evaluation": {"ray", "torch", "fsspec", "duckdb", "OpenEXR", "scipy", "skimage", "flip_evaluator"},
    "pipeline.training.run": {"ray", "s3fs", "duckdb", "scipy", "matplotlib", "tensorboard"},
    "jobs.cli": {"ray", "torch", "fsspec", "s3fs", "duckdb", "OpenEXR", "pyarrow", "yaml", "jsonschema", "botocore"},
    "jobs.cluster.validate": {"ray", "torch", "fsspec", "pyarrow", "jsonschema", "botocore", "cfnlint"},
}


@pytest.mark.parametrize("module", LIGHT)
def test_import_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert LIGHT[module].isdisjoint(loaded), LIGHT[module] & set(loaded)
