"""One place holds one run: another start fits it or is told which fields differ."""

from __future__ import annotations

import json

import pytest
from training_runs import memory_store, tiny_config

from pipeline.errors import DestinationError
from pipeline.training.record import RECORD_KEY, as_recorded, check_record, open_record

DATA = {"names_sha256": "a" * 64, "camera.full_well_e": (800.0, 40_000.0)}


def test_a_second_start_fits_and_may_be_longer() -> None:
    store = memory_store("record-fits")
    open_record(store, tiny_config(), DATA)
    before = store.read(RECORD_KEY)
    open_record(store, tiny_config(steps=99, time_budget_s=5.0, checkpoint_every_steps=1), DATA)
    assert store.read(RECORD_KEY) == before
    assert json.loads(before)["data.camera.full_well_e"] == [800.0, 40_000.0]


def test_checking_writes_nothing() -> None:
    store = memory_store("record-checked")
    assert not check_record(store, tiny_config(), DATA)
    assert not list(store.list())
    open_record(store, tiny_config(), DATA)
    assert check_record(store, tiny_config(steps=99), DATA)
    with pytest.raises(DestinationError, match="learning_rate is"):
        check_record(store, tiny_config(learning_rate=0.5), DATA)


def test_other_settings_are_named() -> None:
    store = memory_store("record-differs")
    open_record(store, tiny_config(), DATA)
    with pytest.raises(DestinationError) as caught:
        open_record(store, tiny_config(learning_rate=0.5, loss={"log_weight": 1.0}), {**DATA, "names_sha256": "b"})
    message = str(caught.value)
    assert "learning_rate is 0.001, not 0.5" in message
    assert "loss.log_weight is 0.25, not 1.0" in message
    assert "data.names_sha256 is" in message
    assert "batch_size" not in message


def test_a_run_that_an_earlier_version_began_goes_on() -> None:
    store = memory_store("record-older")
    open_record(store, tiny_config(), DATA)
    recorded = json.loads(store.read(RECORD_KEY))
    assert "loss.gradient_weight" not in recorded  # later than the first records, which know nothing of it
    open_record(store, tiny_config(), {**DATA, "scenes_sha256": "c" * 64})  # nor of the bytes of their scenes
    with pytest.raises(DestinationError, match=r"loss\.gradient_weight is null, not 0\.5"):
        open_record(store, tiny_config(loss={"log_weight": 0.25, "gradient_weight": 0.5}), DATA)


def test_other_bytes_of_a_scene_are_another_run() -> None:
    store = memory_store("record-scenes")
    open_record(store, tiny_config(), {**DATA, "scenes_sha256": "c" * 64})
    open_record(store, tiny_config(), {**DATA, "scenes_sha256": "c" * 64})
    with pytest.raises(DestinationError, match=r"data\.scenes_sha256 is"):
        open_record(store, tiny_config(), {**DATA, "scenes_sha256": "d" * 64})


def test_first_weights_may_have_moved() -> None:
    store = memory_store("record-moved")
    here, there = tiny_config(init="weights/a.pth"), tiny_config(init="/mnt/weights/a.pth")
    data = {**DATA, "init_sha256": "e" * 64}
    assert as_recorded(store, here, data) == here
    open_record(store, here, data)
    found = as_recorded(store, there, data)
    assert found.digest() == here.digest()
    open_record(store, found, data)
    other = {**DATA, "init_sha256": "f" * 64}
    assert as_recorded(store, there, other) == there
    with pytest.raises(DestinationError, match=r"data\.init_sha256 is"):
        open_record(store, there, other)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_a_damaged_record_is_no_licence_to_overwrite(content: bytes) -> None:
    store = memory_store(f"record-damaged-{content.hex()}")
    store.create(RECORD_KEY, content)
    with pytest.raises(DestinationError, match=r"training\.json"):
        open_record(store, tiny_config(), DATA)
    assert store.read(RECORD_KEY) == content


def test_a_conversion_is_not_trained_into() -> None:
    store = memory_store("record-conversion")
    store.create("_hdrfleet/job.json", b"{}")
    with pytest.raises(DestinationError, match="holds a conversion"):
        open_record(store, tiny_config(), DATA)
