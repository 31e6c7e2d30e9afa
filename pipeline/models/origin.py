"""What weights say of their training: the scenes they learnt from, as a .safetensors file names them. No torch here.

Released checkpoints and files of other tools say nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import resources

from pipeline.models.builtin import DEFAULT_FILE, DEFAULT_SHA256

_KEY = "training"
_DEFAULT_SCENES = DEFAULT_FILE.replace(".safetensors", ".scenes.txt")
_LENGTH_BYTES = 8


def training_metadata(step: int, scenes: Iterable[str]) -> dict[str, str]:
    """Return the metadata of a .safetensors file of weights that learnt from `scenes`, by name, for `step` steps.

    It has one entry, because safetensors does not order them: equal weights give equal bytes.
    """
    return {_KEY: json.dumps({"scenes": sorted(set(scenes)), "step": step}, sort_keys=True)}


def learnt_scenes(data: bytes | None) -> frozenset[str]:
    """Return the names of the scenes that weights, the bytes of their file, are known to have learnt from.

    Empty where the file does not say, also for weights that are built in code (None). The default weights, whose bytes
    are pinned, have a list of their own.
    """
    if data is None:
        return frozenset()
    if hashlib.sha256(data).hexdigest() == DEFAULT_SHA256:
        lines = resources.files("pipeline.models").joinpath("weights", _DEFAULT_SCENES).read_text("utf-8").splitlines()
        return frozenset(line for line in lines if line and not line.startswith("#"))
    try:
        # Format: a length as 8 bytes, little-endian, then as many bytes of JSON (github.com/huggingface/safetensors).
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
        scenes = json.loads(header["__metadata__"][_KEY])["scenes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return frozenset()
    return frozenset(name for name in scenes if isinstance(name, str)) if isinstance(scenes, list) else frozenset()
