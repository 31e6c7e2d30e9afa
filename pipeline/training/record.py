"""`training.json`: what a training run is, created once, so that another run cannot grow into the same place."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline.errors import DestinationError, ObjectExistsError, ObjectMissingError
from pipeline.simulation.response import SRGB_PROBABILITY
from pipeline.storage import ObjectStore
from pipeline.training.config import TrainingConfig

RECORD_KEY = "training.json"
_CONVERSION_KEY = "_hdrfleet/job.json"
_INIT_DIGEST = "data.init_sha256"
_LATER = ("data.scenes_sha256",)
# As `_NEUTRAL` of the configuration: what came later, with what was done before there was a choice.
_NEUTRAL_DATA = {"camera.srgb_probability": SRGB_PROBABILITY}
_MAX_NAMED = 6


def open_record(store: ObjectStore, config: TrainingConfig, data: Mapping[str, object]) -> None:
    """Create the record of a run, or check that this start fits the one that is there.

    `data` describes what is learnt from. Raises DestinationError, naming the fields, when the recorded run differs in
    anything but its length and where it runs, or when the place belongs to something else.
    """
    if not check_record(store, config, data):
        text = json.dumps(_fields(config, data), indent=1, sort_keys=True)
        try:
            store.create(RECORD_KEY, text.encode())
        except ObjectExistsError:
            check_record(store, config, data)


def check_record(store: ObjectStore, config: TrainingConfig, data: Mapping[str, object]) -> bool:
    """Return whether the place holds the record of this run, and write nothing. Raises as `open_record` does."""
    fields, recorded = _fields(config, data), _read(store)
    if recorded is None:
        if _holds(store, _CONVERSION_KEY):
            raise DestinationError(f"{store.url} holds a conversion; give training a folder of its own")
        return False
    # Older records know their scenes by name alone.
    recorded = {name: fields[name] for name in _LATER if name in fields} | recorded
    if recorded != fields:
        raise DestinationError(
            f"{store.url} holds a training run with other settings: {_differences(recorded, fields)}; "
            "give those settings, or another OUT"
        )
    return True


def as_recorded(store: ObjectStore, config: TrainingConfig, data: Mapping[str, object]) -> TrainingConfig:
    """Return `config` with its first weights named as in the record here, where those are the same bytes.

    Weights may have moved, or be named by another path, since the run began. Raises DestinationError for a record that
    cannot be read.
    """
    fields, recorded = _fields(config, data), _read(store) or {}
    init = recorded.get("init")
    if isinstance(init, str) and recorded.get(_INIT_DIGEST) == fields.get(_INIT_DIGEST):
        return config.model_copy(update={"init": init})
    return config


def _fields(config: TrainingConfig, data: Mapping[str, object]) -> dict[str, object]:
    """The record as it will be read back: tuples become lists."""
    known = {name: value for name, value in data.items() if (name, value) not in _NEUTRAL_DATA.items()}
    fields = {**config.bound_fields(), **{f"data.{name}": value for name, value in known.items()}}
    read_back: dict[str, object] = json.loads(json.dumps(fields))
    return read_back


def _read(store: ObjectStore) -> dict[str, object] | None:
    try:
        loaded = json.loads(store.read(RECORD_KEY))
    except ObjectMissingError:
        return None
    except ValueError as error:
        raise DestinationError(f"{store.url}/{RECORD_KEY} is not readable: {error}") from error
    if not isinstance(loaded, dict):
        raise DestinationError(f"{store.url}/{RECORD_KEY} is not the record of a training run")
    return loaded


def _holds(store: ObjectStore, key: str) -> bool:
    try:
        store.stat(key)
    except ObjectMissingError:
        return False
    return True


def _differences(recorded: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    names = sorted(name for name in {*recorded, *wanted} if recorded.get(name) != wanted.get(name))
    shown = [f"{name} is {_short(recorded.get(name))}, not {_short(wanted.get(name))}" for name in names[:_MAX_NAMED]]
    return "; ".join(shown) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
