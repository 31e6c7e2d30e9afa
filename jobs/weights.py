"""Reading weights, by built-in name or from a path or URL, and describing a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.config import StorageConfig
from pipeline.errors import StorageError, SystemicError, WeightsError
from pipeline.models.builtin import BUILT_IN_WEIGHTS, DEFAULT, read_default_weights
from pipeline.storage import open_store, redact_url


def read_weights(name: str, *, built_in: Sequence[str] = BUILT_IN_WEIGHTS) -> tuple[str, bytes | None]:
    """Return the weights' display name and the checkpoint's bytes; None for weights that are built in code.

    `default` are those that come with the package. Paths and URLs are read with the standard credential chain. Raises
    WeightsError when there is no such file; it offers the names in `built_in`.
    """
    if name == DEFAULT:
        return read_default_weights()
    if name in BUILT_IN_WEIGHTS:
        return name, None
    offered = f"give a .pth or .safetensors file, or one of: {', '.join(built_in)}"
    if not name:
        raise WeightsError(f"the name of the weights is empty; {offered}")
    if "://" not in name and Path(name).is_dir():
        raise WeightsError(f"cannot read weights {name}: it is a folder; {offered}")
    if "://" in name and "?" in name:
        raise WeightsError(
            f"{redact_url(name)}: a weights URL cannot have a query; download the file and give its path"
        )
    folder, _, file = name.rpartition("/")
    try:
        store = open_store(folder or ("/" if name.startswith("/") else "."), StorageConfig())
        return redact_url(file), store.read(file)
    except (StorageError, SystemicError, ValueError) as error:
        raise WeightsError(f"cannot read weights {redact_url(name)}: {error}; {offered}") from error


def describe_weights(name: str) -> dict[str, object]:
    """What `hdrfleet weights inspect` prints. Raises WeightsError."""
    from pipeline.models.checkpoint import inspect_weights

    summary = inspect_weights(*read_weights(name))
    description: dict[str, object] = {key: value for key, value in asdict(summary).items() if value is not None}
    description["is_released"] = summary.is_released
    return description
