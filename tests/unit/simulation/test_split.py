from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, SceneError
from pipeline.simulation.split import learnt_among, read_names, split_names

NAMES = [f"place_{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(600)]


def test_every_name_is_on_one_side_in_the_given_order() -> None:
    split = split_names(NAMES)
    assert set(split["train"]).isdisjoint(split["holdout"])
    assert sorted(split["train"] + split["holdout"]) == sorted(NAMES)
    assert split["train"] == [name for name in NAMES if name in set(split["train"])]


def test_about_a_fifth_is_held_out() -> None:
    share = len(split_names(NAMES)["holdout"]) / len(NAMES)
    assert share == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / len(NAMES)) ** 0.5)


def test_more_scenes_move_none() -> None:
    before, after = split_names(NAMES[::2]), split_names(NAMES)
    assert set(before["train"]) <= set(after["train"])
    assert set(before["holdout"]) <= set(after["holdout"])


def test_the_split_is_the_same_for_ever() -> None:
    # Another hash, or another rule for numbers, would let weights be judged by scenes that they have learnt.
    names = ["courtyard", "noon_grass", "studio_small_03", "venice_sunset", "kloppenheim_05", "canary_wharf"]
    split = split_names(names)
    assert split["holdout"] == ["noon_grass", "kloppenheim_05", "canary_wharf"]


@pytest.mark.parametrize("form", ["{}_0{}", "{}{}", "{}-{}", "{} 1{}", "in/{}/00{}"])
def test_names_that_differ_in_trailing_numbers_stay_together(form: str) -> None:
    for place in NAMES[:40]:
        split = split_names([*(form.format(place, k) for k in range(8)), *NAMES[300:]])
        sides = {side for side, members in split.items() if any(place in name for name in members)}
        assert len(sides) == 1


def test_numbers_alone_are_names() -> None:
    split = split_names([f"{k:03d}" for k in range(200)])
    assert len(split["holdout"]) == pytest.approx(40, abs=4 * (200 * 0.2 * 0.8) ** 0.5)


def test_named_scenes_are_held_out_and_no_others() -> None:
    split = split_names(["a", "b", "c", "d"], holdout=["c", "a"])
    assert split == {"train": ["b", "d"], "holdout": ["a", "c"]}


def test_a_held_out_scene_that_is_not_there_is_refused() -> None:
    with pytest.raises(SceneError, match="x, z"):
        split_names(["a", "b"], holdout=["z", "a", "x"])


@pytest.mark.parametrize(("holdout", "side"), [([], "holdout"), (["a", "b"], "train")])
def test_an_empty_side_is_refused(holdout: list[str], side: str) -> None:
    with pytest.raises(SceneError, match=f"no scene is left for {side}"):
        split_names(["a", "b"], holdout=holdout)


@pytest.mark.parametrize("name", ["venice_sunset", "hdri/venice_sunset", "venice_sunset_4k", "old/Venice_Sunset_1k"])
def test_a_scene_is_known_in_any_folder_and_resolution(name: str) -> None:
    assert learnt_among(["desk", name, "sunset"], {"venice_sunset", "lake"}) == [name]
    assert learnt_among(["venice_sunset"], [name]) == ["venice_sunset"]


def test_scenes_that_share_a_file_name_are_known_by_their_folders() -> None:
    learnt = {"sky/scene", "sea/scene", "lake"}
    assert learnt_among(["wood/scene", "sky/scene", "Sea/scene_2k", "old/lake"], learnt) == [
        "sky/scene",
        "Sea/scene_2k",
        "old/lake",
    ]
    assert learnt_among(["a/scene", "b/scene"], {"scene"}) == []
    assert learnt_among(["sky/venice_1k"], {"venice_1k", "venice_2k"}) == ["sky/venice_1k"]


def test_other_scenes_are_not_known() -> None:
    assert learnt_among(["studio_02", "venice", "venice_sunset_b"], {"studio_01", "venice_sunset"}) == []
    assert learnt_among(["studio_02"], frozenset()) == []


def test_names_are_read_without_remarks(tmp_path: Path) -> None:
    file = tmp_path / "holdout.txt"
    file.write_text("# kept back\n\n a_place \nb_place\n")
    assert read_names(file, "--holdout") == ("a_place", "b_place")
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"--holdout: .* names no scene"):
        read_names(file, "--holdout")
    with pytest.raises(ConfigError, match="--holdout: cannot read"):
        read_names(tmp_path / "missing", "--holdout")
