"""Packages that only evaluation needs: loaded where they are used, with one line that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from pipeline.errors import ConfigError


def load_extra(module: str, package: str) -> ModuleType:
    """Import `module`, which the PyPI project `package` brings. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this needs the package {package}, which is not installed ({error}): pip install 'hdrfleet[evaluate]'"
        ) from error
