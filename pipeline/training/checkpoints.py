"""Checkpoints of a training run, in any object store: what they hold, when they count, which one is used.

A checkpoint is three objects, each under 16 MiB at the published width: `step-<n>.weights.pt` (network and average),
`step-<n>.optimiser.pt` (moments, loss scale, random state) and, created last, `step-<n>.json` with the sizes and
digests of the other two: its presence commits the checkpoint. Nothing that is read back can run code.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pipeline.errors import DestinationError, ObjectExistsError, ObjectMissingError
from pipeline.models.origin import training_metadata
from pipeline.storage import ObjectStore
from pipeline.training.config import SCHEMA_VERSION

FOLDER = "checkpoints"
WEIGHTS_FOLDER = "weights"
BEST_WEIGHTS = f"{WEIGHTS_FOLDER}/best.safetensors"
FINAL_WEIGHTS = "hdrunet.safetensors"

_COMMIT = re.compile(rf"{FOLDER}/step-(\d{{8,}})\.json")
_OF_A_STEP = re.compile(rf"(?:{FOLDER}|{WEIGHTS_FOLDER})/step-(\d{{8,}})\.[a-z.]+")


@dataclass(frozen=True, slots=True)
class Best:
    """The lowest validation score so far, and the step that reached it."""

    score: float
    step: int


@dataclass(frozen=True)
class TrainingState:
    """All that a run needs to go on as if it had not stopped.

    `network` and `average` map parameter names to float32 tensors; `optimiser` and `scaler` are PyTorch's state
    dicts; `random_state` is torch's CPU generator's. `elapsed_s` is the time spent in the loop.
    """

    step: int
    elapsed_s: float
    num_skipped: int
    num_updates: int
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    scaler: Mapping[str, Any]
    random_state: Tensor
    best: Best | None = None


@dataclass(frozen=True, slots=True)
class _Commit:
    """What `step-<n>.json` says. `parts` maps part names to size in bytes and SHA-256 (hex)."""

    step: int
    elapsed_s: float
    num_skipped: int
    num_updates: int
    config_digest: str
    parts: dict[str, tuple[int, str]]
    best: Best | None = None
    schema_version: int = field(default=SCHEMA_VERSION)


class DamagedCheckpointError(Exception):
    """One checkpoint cannot be used; the message says why. Stays within training: the one before it is taken."""


class Checkpoints:
    """The checkpoints and exported weights of one run. One process writes them; any may read.

    `scenes` names what the weights learn from, and have learnt from before: the exported files say so.
    """

    def __init__(self, store: ObjectStore, *, config_digest: str, keep: int, scenes: Iterable[str] = ()) -> None:
        self._store = store
        self._config_digest = config_digest
        self._keep = keep
        self._scenes = tuple(scenes)

    def save(self, state: TrainingState) -> int:
        """Write a checkpoint and the averaged weights of its step; return the bytes. Then remove what is too old.

        Objects of the same step that a killed run left without a commit are replaced. Raises DestinationError where the
        step is committed already: another process trains here.
        """
        parts = {
            "weights": _dump({"network": _plain(state.network), "average": _plain(state.average)}),
            "optimiser": _dump(
                {
                    "optimiser": dict(state.optimiser),
                    "scaler": dict(state.scaler),
                    "random_state": state.random_state,
                }
            ),
        }
        self._require_uncommitted(state.step)
        for name, data in parts.items():
            self._write(_part_key(state.step, name), data)
        self._write(f"{WEIGHTS_FOLDER}/{_stem(state.step)}.safetensors", self._export(state))
        commit = _Commit(
            step=state.step,
            elapsed_s=state.elapsed_s,
            num_skipped=state.num_skipped,
            num_updates=state.num_updates,
            config_digest=self._config_digest,
            parts={name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in parts.items()},
            best=state.best,
        )
        self._commit(state.step, json.dumps(asdict(commit), indent=1).encode())
        self._prune()
        return sum(map(len, parts.values()))

    def save_best(self, state: TrainingState) -> None:
        """Make this step's averaged weights `weights/best.safetensors`."""
        self._store.replace(BEST_WEIGHTS, self._export(state))

    def save_final(self, state: TrainingState) -> None:
        """Make this step's averaged weights `hdrunet.safetensors`, the result of the run."""
        self._store.replace(FINAL_WEIGHTS, self._export(state))

    def _export(self, state: TrainingState) -> bytes:
        """The averaged weights as a .safetensors file, float32, that `load_weights` reads."""
        return save_safetensors(_plain(state.average), metadata=training_metadata(state.step, self._scenes))

    def steps(self) -> list[int]:
        """The steps of the committed checkpoints, ascending."""
        found = (_COMMIT.fullmatch(info.key) for info in self._store.list(FOLDER))
        return sorted(int(match[1]) for match in found if match)

    def load_newest(self, on_damage: Callable[[int, str], None]) -> TrainingState | None:
        """Load the newest usable checkpoint; None when the run has none. `on_damage` hears of each unusable one.

        Unusable ones are removed, so that the run can reach their step again. Raises DestinationError when every
        checkpoint is unusable: starting anew would then be the user's decision.
        """
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            try:
                state = self.load(step)
            except DamagedCheckpointError as error:
                damaged.append((step, str(error)))
                continue
            for bad_step, reason in damaged:
                on_damage(bad_step, reason)
                self._store.delete(_commit_key(bad_step))
            return state
        if damaged:
            step, reason = damaged[0]
            raise DestinationError(
                f"{self._store.url}: no usable checkpoint among {len(damaged)}; the newest, step {step}: {reason}; "
                f"remove {FOLDER}/ to train anew"
            )
        return None

    def load(self, step: int) -> TrainingState:
        """Load one committed checkpoint. Raises DamagedCheckpointError."""
        commit = self._read_commit(step)
        weights, optimiser = (self._read_part(step, name, commit) for name in ("weights", "optimiser"))
        try:
            return TrainingState(
                step=step,
                elapsed_s=commit.elapsed_s,
                num_skipped=commit.num_skipped,
                num_updates=commit.num_updates,
                network=weights["network"],
                average=weights["average"],
                optimiser=optimiser["optimiser"],
                scaler=optimiser["scaler"],
                random_state=optimiser["random_state"],
                best=commit.best,
            )
        except KeyError as error:
            raise DamagedCheckpointError(f"lacks {error}") from error

    def _read_commit(self, step: int) -> _Commit:
        try:
            values = json.loads(self._store.read(_commit_key(step)))
            best, parts = values.pop("best"), values.pop("parts")
            commit = _Commit(
                **values,
                best=Best(**best) if best else None,
                parts={name: (int(size), str(digest)) for name, (size, digest) in parts.items()},
            )
        except (ObjectMissingError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedCheckpointError(f"{_commit_key(step)} is unreadable: {error}") from error
        if commit.step != step or commit.config_digest != self._config_digest:
            raise DamagedCheckpointError(f"{_commit_key(step)} is of another run")
        return commit

    def _read_part(self, step: int, name: str, commit: _Commit) -> dict[str, Any]:
        key = _part_key(step, name)
        try:
            data = self._store.read(key)
        except ObjectMissingError as error:
            raise DamagedCheckpointError(f"{key} is missing") from error
        if (len(data), hashlib.sha256(data).hexdigest()) != commit.parts.get(name):
            raise DamagedCheckpointError(f"{key} does not hold the bytes that were written")
        try:
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise DamagedCheckpointError(f"{key} cannot be read: {type(error).__name__}") from error
        if not isinstance(loaded, dict):
            raise DamagedCheckpointError(f"{key} holds {type(loaded).__name__}")
        return loaded

    def _require_uncommitted(self, step: int) -> None:
        try:
            self._store.stat(_commit_key(step))
        except ObjectMissingError:
            return
        raise self._taken(step)

    def _commit(self, step: int, data: bytes) -> None:
        """Create the object that makes the checkpoint count; one with these bytes is our own, its answer lost."""
        try:
            self._store.create(_commit_key(step), data)
        except ObjectExistsError:
            if self._store.read(_commit_key(step)) != data:
                raise self._taken(step) from None

    def _taken(self, step: int) -> DestinationError:
        return DestinationError(
            f"{self._store.url}: another training has written the checkpoint of step {step:,}; stop one of the two and "
            "start the other again"
        )

    def _write(self, key: str, data: bytes) -> None:
        """Create the object, or replace what a killed run left of it at a step that it did not commit."""
        try:
            self._store.create(key, data)
        except ObjectExistsError:
            self._store.replace(key, data)

    def _prune(self) -> None:
        """Remove all but the newest checkpoints, each commit before its parts, and parts that no commit covers."""
        kept = self.steps()[-self._keep :]
        for folder in (FOLDER, WEIGHTS_FOLDER):
            keys = [info.key for info in self._store.list(folder)]
            for key in sorted(keys, key=lambda key: (_COMMIT.fullmatch(key) is None, key)):
                match = _OF_A_STEP.fullmatch(key)
                if match and int(match[1]) not in kept:
                    self._store.delete(key)


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies: what a file holds must not depend on the device or memory format of the run."""
    return {
        name: tensor.detach().to("cpu").contiguous(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def _dump(values: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _stem(step: int) -> str:
    return f"step-{step:08d}"


def _commit_key(step: int) -> str:
    return f"{FOLDER}/{_stem(step)}.json"


def _part_key(step: int, name: str) -> str:
    return f"{FOLDER}/{_stem(step)}.{name}.pt"
