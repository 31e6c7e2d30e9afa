from __future__ import annotations

import pytest

from pipeline.config import ConversionConfig, build_config
from pipeline.errors import ConfigError


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
