"""The weights that come with the package; docs/model-card.md says what they are. No torch here."""

from __future__ import annotations

import hashlib
from importlib import resources

from pipeline.errors import WeightsError

DEFAULT = "default"
BUILT_IN_WEIGHTS = (DEFAULT, "identity")
"""Names that stand for weights which need no file of the user's."""
DEFAULT_FILE = "hdrunet-default.safetensors"
DEFAULT_SHA256 = "1030b157cd4f522fb4d4c0088b3ef1cdc6e2ca9e75589842315f8bc38699a4ee"


def read_default_weights() -> tuple[str, bytes]:
    """Return the default weights' file name and bytes. Raises WeightsError where the file is missing or damaged."""
    try:
        data = resources.files("pipeline.models").joinpath("weights", DEFAULT_FILE).read_bytes()
    except OSError as error:
        raise WeightsError(f"the package holds no {DEFAULT_FILE} ({error}); install hdrfleet again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != DEFAULT_SHA256:
        raise WeightsError(
            f"{DEFAULT_FILE} is damaged: its sha256 is {found}, not {DEFAULT_SHA256}; install hdrfleet again"
        )
    return DEFAULT_FILE, data
