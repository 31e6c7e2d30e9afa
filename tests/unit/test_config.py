from __future__ import annotations

import pytest

from pipeline.config import ConversionConfig, build_config
from pipeline.errors import ConfigError
from pipeline.flow import STAGE_S_PER_MEGAPIXEL


def config(**parts: object) -> ConversionConfig:
    return build_config(source={"url": "in"}, destination={"url": "out"}, **parts)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"inference": {"tile_px": 130}}, "inference.tile_px: tile_px must be a multiple of 4; 128 and 132 are near"),
        ({"inference": {"device": "tpu"}}, "device must be auto, cpu, cuda or cuda:N"),
        ({"encode": {"compression": "b44"}}, "compression must be none, zip, piz, htj2k256, dwaa or dwaa:LEVEL"),
        ({"encode": {"compression": "dwaa:0"}}, "DWAA level"),
        ({"encode": {"pixel_type": "uint"}}, "encode.pixel_type"),
        ({"sharding": {"max_images": 0}}, "sharding.max_images"),
        ({"execution": {"executor": "local", "address": "ray://x"}}, "an address needs the ray executor"),
        ({"execution": {"executor": "local", "num_workers": 2}}, "the local executor is one worker"),
        ({"model": {"weights": ""}}, "model.weights: it is empty"),
        ({"execution": {"placement": {"accelerator_type": "x" * 65}}}, "it should have at most 64 characters"),
        ({"execution": {"wrokers": 2}}, "execution.wrokers: Extra inputs are not permitted"),
    ],
)
def test_a_bad_option_is_one_line_that_names_it(parts: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**parts)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "https://user@host/x", "s3://key:with/sla/secret@b/x"])
def test_credentials_in_urls_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(source={"url": url}, destination={"url": "out"})
    assert "must not hold credentials" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host:8080/a@b/x", "s3://bucket/a:b@2x/c", "/photos/a:b@c"])
def test_an_at_sign_in_a_path_is_no_credential(url: str) -> None:
    assert build_config(source={"url": url}, destination={"url": "out"}).source.url == url


def test_an_anonymous_store_takes_no_profile() -> None:
    with pytest.raises(ConfigError, match="anonymous store takes no profile"):
        build_config(
            source={"url": "s3://b", "storage": {"anonymous": True, "profile": "p"}}, destination={"url": "out"}
        )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"encode": {"compression": "piz"}}, True),
        ({}, {"inference": {"precision": "fp32", "tile_px": 512}}, True),
        ({}, {"sharding": {"max_images": 3}, "execution": {"executor": "local"}}, True),
        ({}, {"encode": {"exposure_ev": 1.0}}, False),
        ({}, {"encode": {"pixel_type": "float"}}, False),
        ({}, {"encode": {"compression": "dwaa"}}, False),
        ({"encode": {"compression": "dwaa"}}, {"encode": {"compression": "DWAA:45"}}, True),
        ({"encode": {"compression": "dwaa:45"}}, {"encode": {"compression": "dwaa:15"}}, False),
    ],
)
def test_the_pixel_digest_covers_what_changes_pixels_and_nothing_else(
    one: dict[str, object], other: dict[str, object], same: bool
) -> None:
    assert (config(**one).pixel_digest() == config(**other).pixel_digest()) is same


def test_a_config_survives_json() -> None:
    original = config(encode={"compression": "dwaa:15", "exposure_ev": -1.5}, inference={"tile_px": 256})
    assert ConversionConfig.model_validate_json(original.model_dump_json()) == original


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"decode": {"timeout_s": 301}}, "decode.timeout_s: 301 s, .* at most 300, or .*image_timeout_s at least 602"),
        ({"decode": {"timeout_s": 40}, "execution": {"image_timeout_s": 79}}, "give at most 39.5, or"),
        ({"decode": {"timeout_s": 40}, "execution": {"shard_timeout_s": 100}}, "ends the worker after 50 s"),
        ({"execution": {"image_timeout_s": 7200}}, "image_timeout_s: 7200 s .* give less .* more than 7200"),
        ({"execution": {"image_timeout_s": 9, "shard_timeout_s": 8}}, "shard_timeout_s ends the worker after 8 s"),
        ({"decode": {"timeout_s_per_megapixel": 16}}, "less than or equal to 15"),
    ],
)
def test_a_deadline_that_another_one_makes_void_is_refused(parts: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(**parts)


def test_deadlines_that_were_not_given_follow_a_shorter_one() -> None:
    assert (config().execution.shard_timeout_s, config().execution.image_timeout_s) == (7200, 600)
    assert config().decode.timeout_s == 120
    assert config(execution={"image_timeout_s": 60}).decode.timeout_s == 30
    short = config(execution={"shard_timeout_s": 100})
    assert (short.execution.image_timeout_s, short.decode.timeout_s) == (50, 25)
    largest = config(decode={"timeout_s": 300, "timeout_s_per_megapixel": 15})
    assert 2 * largest.decode.timeout_s_per_megapixel <= STAGE_S_PER_MEGAPIXEL


def test_a_recorded_config_with_void_deadlines_can_be_read() -> None:
    recorded = config().model_dump(mode="json")
    recorded["decode"]["timeout_s"] = 600
    assert ConversionConfig.model_validate(recorded).decode.timeout_s == 600
    with pytest.raises(ConfigError, match="at least 1200"):
        build_config(**recorded)
