"""What weights say of the scenes that they learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from jobs.weights import read_weights
from pipeline.models.origin import learnt_scenes, training_metadata

HOLDOUT = Path(__file__).resolve().parents[3] / "docs/training/holdout.txt"


def weights(metadata: dict[str, str] | None) -> bytes:
    return bytes(save({"bias": torch.zeros(3)}, metadata=metadata))


def test_a_file_names_its_scenes() -> None:
    data = weights(training_metadata(7, ["noon/garden", "desk", "Zürich", "desk"]))
    assert learnt_scenes(data) == {"noon/garden", "desk", "Zürich"}


def test_equal_training_gives_equal_bytes() -> None:
    assert len(training_metadata(7, ["a"])) == 1, "safetensors does not order entries"
    assert weights(training_metadata(7, {"a", "b", "c"})) == weights(training_metadata(7, ["c", "b", "a"]))


def test_the_default_weights_have_learnt_from_all_but_the_held_out_scenes() -> None:
    learnt, held_out = learnt_scenes(read_weights("default")[1]), set(HOLDOUT.read_text().split())
    assert (len(learnt), len(held_out)) == (46, 14), "as the model card says"
    assert learnt.isdisjoint(held_out)


def header(value: object) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text


SILENT = {
    "built in": None,
    "empty": b"",
    "pytorch": b"PK\x03\x04" + bytes(60),
    "no metadata": weights(None),
    "of another tool": weights({"format": "pt"}),
    "an earlier release": weights({"step": "2353"}),
    "no json": weights({"training": "a, b"}),
    "no object": header(["__metadata__"]),
    "no scenes": weights({"training": "{}"}),
    "scenes are a text": weights({"training": '{"scenes": "desk"}'}),
    "scenes are nested": weights({"training": '{"scenes": [["desk"], 1, null]}'}),
    "deep": weights({"training": "[" * 100_000}),
    "cut off": weights(training_metadata(7, ["desk"]))[:40],
}


@pytest.mark.parametrize("case", SILENT)
def test_files_that_do_not_say_are_taken_to_have_learnt_nothing_known(case: str) -> None:
    assert learnt_scenes(SILENT[case]) == frozenset()
