"""What a checkpoint holds, when it counts, and what happens to a damaged one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from training_runs import memory_store, tiny_config

from pipeline.config import StorageConfig
from pipeline.errors import DestinationError
from pipeline.models.checkpoint import load_weights
from pipeline.storage import ObjectStore, open_store
from pipeline.training.checkpoints import (
    BEST_WEIGHTS,
    FINAL_WEIGHTS,
    Best,
    Checkpoints,
    DamagedCheckpointError,
    TrainingState,
)
from pipeline.training.learner import Learner
from pipeline.training.peers import Peers
from pipeline.training.start import starting_network


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), StorageConfig())


def state(step: int, width: int = 8) -> TrainingState:
    return replace(learnt(width), step=step)


@cache
def learnt(width: int) -> TrainingState:
    config = tiny_config(width=width)
    network = starting_network("identity", None, width=width, seed=0)
    learner = Learner(config, network, device=torch.device("cpu"), precision="fp32", peers=Peers())
    ldr = torch.full((1, 3, 16, 16), 99, dtype=torch.uint8)
    for _ in range(2):  # two, so that the weights and their average differ
        learner.learn((ldr, ldr.float() / 255 + 0.1), 1e-3)
    return TrainingState(step=0, elapsed_s=1.5, num_skipped=2, best=Best(0.25, 3), **learner.state())


def checkpoints(store: ObjectStore, keep: int = 3, digest: str = "d" * 64) -> Checkpoints:
    return Checkpoints(store, config_digest=digest, keep=keep)


def no_damage(step: int, reason: str) -> None:
    raise AssertionError(f"step {step}: {reason}")


def test_everything_comes_back_bit_for_bit(store: ObjectStore) -> None:
    saved = state(12)
    checkpoints(store).save(saved)
    loaded = checkpoints(store).load_newest(no_damage)
    assert loaded is not None
    assert (loaded.step, loaded.elapsed_s, loaded.num_skipped, loaded.num_updates) == (12, 1.5, 2, 2)
    assert loaded.best == Best(0.25, 3)
    for name in ("network", "average"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert list(before) == list(after)
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(loaded.random_state, saved.random_state)
    before, after = saved.optimiser, loaded.optimiser
    assert before["param_groups"] == after["param_groups"]
    for index, moments in before["state"].items():
        assert all(torch.equal(value, after["state"][index][name]) for name, value in moments.items())


def test_no_checkpoint_is_no_error(store: ObjectStore) -> None:
    assert checkpoints(store).load_newest(no_damage) is None


def test_the_parts_of_the_published_width_stay_under_16_mib() -> None:
    store = memory_store("checkpoint-sizes")
    checkpoints(store).save(state(1, width=64))
    sizes = {info.key: info.size_bytes for info in store.list()}
    assert len(sizes) == 4
    assert max(sizes.values()) < 16 * 2**20


def test_exported_weights_load_for_conversion_and_are_the_average(store: ObjectStore) -> None:
    saved, kept = state(4), checkpoints(store)
    kept.save(saved)
    kept.save_best(saved)
    kept.save_final(saved)
    for key in ("weights/step-00000004.safetensors", BEST_WEIGHTS, FINAL_WEIGHTS):
        weights = load_weights(key, store.read(key))
        assert weights.width == 8
        assert all(torch.equal(weights.state[name], tensor) for name, tensor in saved.average.items())
        assert not torch.equal(weights.state["conv_last.bias"], saved.network["conv_last.bias"])


def test_only_the_newest_are_kept(store: ObjectStore) -> None:
    kept = checkpoints(store, keep=2)
    for step in (1, 2, 3, 10):
        kept.save(state(step))
    assert kept.steps() == [3, 10]
    steps = {int(info.key.partition("step-")[2][:8]) for info in store.list()}
    assert steps == {3, 10}
    assert len(list(store.list("checkpoints"))) == 6
    assert len(list(store.list("weights"))) == 2


def test_what_a_killed_run_left_does_not_count_and_is_replaced(store: ObjectStore) -> None:
    kept = checkpoints(store)
    kept.save(state(1))
    store.create("checkpoints/step-00000002.weights.pt", b"torn")
    assert kept.steps() == [1]
    kept.save(state(2))
    loaded = kept.load_newest(no_damage)
    assert loaded is not None
    assert loaded.step == 2


def test_a_step_that_another_training_has_committed_is_not_written_over(store: ObjectStore) -> None:
    ours, theirs = checkpoints(store), checkpoints(store)
    theirs.save(state(1))
    before = {info.key: store.read(info.key) for info in store.list()}
    with pytest.raises(DestinationError, match="another training has written the checkpoint of step 1"):
        ours.save(state(1))
    assert {info.key: store.read(info.key) for info in store.list()} == before


def damage(store: ObjectStore, how: str) -> None:
    weights, commit = "checkpoints/step-00000002.weights.pt", "checkpoints/step-00000002.json"
    match how:
        case "missing part":
            store.delete(weights)
        case "truncated part":
            store.replace(weights, store.read(weights)[:-7])
        case "flipped bit":
            data = bytearray(store.read(weights))
            data[len(data) // 2] ^= 1
            store.replace(weights, bytes(data))
        case "torn commit":
            store.replace(commit, store.read(commit)[:20])
        case "commit of something else":
            store.replace(commit, b'{"a": 1}')
        case "empty commit":
            store.replace(commit, b"[]")


@pytest.mark.parametrize(
    "how",
    ["missing part", "truncated part", "flipped bit", "torn commit", "commit of something else", "empty commit"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(store: ObjectStore, how: str) -> None:
    kept = checkpoints(store)
    kept.save(state(1))
    kept.save(state(2))
    damage(store, how)
    named: list[tuple[int, str]] = []
    loaded = kept.load_newest(lambda step, reason: named.append((step, reason)))
    assert loaded is not None
    assert loaded.step == 1
    assert [step for step, _ in named] == [2]
    assert "step-00000002" in named[0][1]
    assert kept.steps() == [1]
    kept.save(state(2))
    again = kept.load_newest(no_damage)
    assert again is not None
    assert again.step == 2


def test_when_all_are_damaged_nothing_is_trained_over_them(store: ObjectStore) -> None:
    kept = checkpoints(store)
    kept.save(state(2))
    damage(store, "flipped bit")
    with pytest.raises(DestinationError, match=r"no usable checkpoint.*step-00000002"):
        kept.load_newest(no_damage)
    assert kept.steps() == [2]


def test_a_checkpoint_of_another_configuration_is_refused(store: ObjectStore) -> None:
    checkpoints(store).save(state(2))
    with pytest.raises(DamagedCheckpointError, match="of another run"):
        checkpoints(store, digest="e" * 64).load(2)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo ran > bomb",)


def test_a_hostile_checkpoint_runs_no_code(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = checkpoints(store)
    kept.save(state(2))
    buffer = io.BytesIO()
    torch.save({"network": {}, "average": _Bomb()}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(_Bomb(), protocol=2)):
        store.replace("checkpoints/step-00000002.weights.pt", data)
        commit = json.loads(store.read("checkpoints/step-00000002.json"))
        commit["parts"]["weights"] = [len(data), hashlib.sha256(data).hexdigest()]
        store.replace("checkpoints/step-00000002.json", json.dumps(commit).encode())
        with pytest.raises(DamagedCheckpointError, match="cannot be read"):
            kept.load(2)
    assert not (tmp_path / "bomb").exists()
