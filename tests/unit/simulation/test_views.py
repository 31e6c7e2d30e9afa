"""Geometry on a panorama whose pixels hold the direction that they are seen in, so that views can be read as rays."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.simulation.scenes import HdrScene
from pipeline.simulation.views import MAX_FOV_DEG, MAX_PITCH_DEG, MIN_FOV_DEG, box_downscale, perspective, sample_view

FloatArray = NDArray[np.float32]


def direction_panorama(width: int) -> FloatArray:
    """Unit vectors (right, up, forward): the middle column looks forward, the right half right, the top row up."""
    longitude = ((np.arange(width) + 0.5) / width * 2 - 1) * np.pi
    latitude = (0.5 - (np.arange(width // 2) + 0.5) / (width // 2)) * np.pi
    along, up = np.meshgrid(longitude, latitude)
    rays = np.stack([np.cos(up) * np.sin(along), np.sin(up), np.cos(up) * np.cos(along)], axis=2)
    return rays.astype(np.float32)


RAYS = direction_panorama(512)


def noise_panorama(width: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((width // 2, width, 3), dtype=np.float32)


def angle_deg(one: FloatArray, other: FloatArray) -> float:
    cosine = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def expected_rays(size: int, yaw_deg: float, pitch_deg: float, fov_deg: float) -> NDArray[np.float64]:
    """A pinhole camera by rotation matrices: pitch about the axis to the right, then yaw about the vertical one."""
    yaw, pitch = np.radians([yaw_deg, pitch_deg])
    turn_up = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    turn_right = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    plane = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.radians(fov_deg) / 2)
    x, y = np.meshgrid(plane, -plane)
    rays = np.stack([x, y, np.ones_like(x)], axis=2)
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    return rays @ (turn_right @ turn_up).T


@pytest.mark.parametrize("fov_deg", [30.0, 60.0, 90.0])
@pytest.mark.parametrize(("yaw_deg", "pitch_deg"), [(0, 0), (75, 0), (0, 30), (-135, -30), (180, 20), (179.9, -7)])
def test_every_pixel_sees_along_its_ray(yaw_deg: float, pitch_deg: float, fov_deg: float) -> None:
    view = perspective(RAYS, 64, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=fov_deg)
    assert view.shape == (64, 64, 3)
    assert view.dtype == np.float32
    # Bilinear interpolation of unit vectors and the average over a pixel err by less than a tenth of a source pixel.
    np.testing.assert_allclose(view, expected_rays(64, yaw_deg, pitch_deg, fov_deg), atol=1e-3)


@pytest.mark.parametrize(
    ("yaw_deg", "pitch_deg", "ray"),
    [(0, 0, (0, 0, 1)), (90, 0, (1, 0, 0)), (-90, 0, (-1, 0, 0)), (180, 0, (0, 0, -1)), (0, 90, (0, 1, 0))],
)
def test_yaw_turns_right_and_pitch_up(yaw_deg: float, pitch_deg: float, ray: tuple[int, int, int]) -> None:
    view = perspective(RAYS, 64, yaw_deg=yaw_deg, pitch_deg=pitch_deg, fov_deg=60)
    np.testing.assert_allclose(view[31:33, 31:33].mean(axis=(0, 1)), ray, atol=2e-3)


def test_the_picture_stands_upright_and_is_not_mirrored() -> None:
    view = perspective(RAYS, 64, yaw_deg=0, pitch_deg=0, fov_deg=60)
    assert (np.diff(view[..., 0], axis=1) > 0).all(), "what is to the right must be on the right"
    assert (np.diff(view[..., 1], axis=0) < 0).all(), "what is above must be at the top"


@pytest.mark.parametrize("fov_deg", [30.0, 60.0, 90.0])
def test_the_field_of_view_is_that_between_the_edges_and_symmetric(fov_deg: float) -> None:
    size = 128
    view = perspective(RAYS, size, yaw_deg=40, pitch_deg=0, fov_deg=fov_deg)
    left, right = (view[63:65, column].mean(axis=0) for column in (0, -1))
    outermost = np.tan(np.radians(fov_deg) / 2) * (1 - 1 / size)  # the centres of the outermost pixels
    assert angle_deg(left, right) == pytest.approx(2 * np.degrees(np.arctan(outermost)), abs=0.02)
    forward = view @ np.array([np.sin(np.radians(40)), 0, np.cos(np.radians(40))], np.float32)
    for same in (forward.T, forward[::-1], forward[:, ::-1]):
        np.testing.assert_allclose(forward, same, atol=2e-4)


@pytest.mark.parametrize("columns", [1, 37, 128, 255])
def test_turning_the_camera_is_rolling_the_panorama(columns: int) -> None:
    # Rolled by any number of columns, the seam lies elsewhere: noise would show it.
    panorama = noise_panorama(256)
    turned = perspective(panorama, 48, yaw_deg=160, pitch_deg=15, fov_deg=80)
    rolled = np.roll(panorama, columns, axis=1)
    same = perspective(rolled, 48, yaw_deg=160 + columns * 360 / 256, pitch_deg=15, fov_deg=80)
    np.testing.assert_allclose(same, turned, atol=1e-4)


def test_whole_turns_change_nothing() -> None:
    panorama = noise_panorama(256)
    views = [perspective(panorama, 48, yaw_deg=yaw, pitch_deg=-10, fov_deg=50) for yaw in (-170, 190, 550)]
    np.testing.assert_allclose(views[1], views[0], atol=1e-4)
    np.testing.assert_allclose(views[2], views[0], atol=1e-4)


def test_a_coarser_view_is_the_average_of_a_finer_one() -> None:
    # 200 columns: 32 px over 90 degrees are sampled twice as densely as 64 px, so both look at the same points.
    panorama = noise_panorama(200)
    coarse, fine = (perspective(panorama, size, yaw_deg=25, pitch_deg=10, fov_deg=90) for size in (32, 64))
    np.testing.assert_allclose(coarse, box_downscale(fine, 2), atol=1e-5)
    assert coarse.std() < 0.9 * fine.std(), "the finer view should hold detail for this to mean anything"


def test_a_constant_sky_stays_constant_also_at_the_poles() -> None:
    panorama = np.full((64, 128, 3), 3.5, np.float32)
    for pitch_deg in (-90, -45, 0, 45, 90):
        view = perspective(panorama, 32, yaw_deg=10, pitch_deg=pitch_deg, fov_deg=90)
        np.testing.assert_allclose(view, 3.5, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_box_downscale_averages_whole_blocks(factor: int) -> None:
    image = np.random.default_rng(0).random((24, 36, 3), dtype=np.float32)
    small = box_downscale(image, factor)
    assert small.shape == (24 // factor, 36 // factor, 3)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.mean(axis=(0, 1)), image.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        small[2, 3], image[2 * factor : 3 * factor, 3 * factor : 4 * factor].mean((0, 1)), rtol=1e-5
    )


def test_box_downscale_leaves_out_what_fills_no_block() -> None:
    image = np.random.default_rng(0).random((11, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(box_downscale(image, 3), box_downscale(image[:9, :6], 3))


def test_views_of_a_panorama_stay_within_the_stated_angles() -> None:
    scene = HdrScene("rays", RAYS, is_panorama=True)
    pitches, fovs, yaws = [], [], []
    for seed in range(60):
        view = sample_view(scene, 32, np.random.default_rng(seed))
        centre = view[15:17, 15:17].mean(axis=(0, 1))
        outermost = angle_deg(view[15:17, 0].mean(axis=0), view[15:17, -1].mean(axis=0))
        fovs.append(2 * np.degrees(np.arctan(np.tan(np.radians(outermost) / 2) / (1 - 1 / 32))))
        pitches.append(np.degrees(np.arcsin(centre[1] / np.linalg.norm(centre))))
        yaws.append(np.degrees(np.arctan2(centre[0], centre[2])))
    assert max(np.abs(pitches)) <= MAX_PITCH_DEG + 0.1
    assert max(np.abs(pitches)) > MAX_PITCH_DEG / 2
    assert min(fovs) >= MIN_FOV_DEG - 0.1
    assert max(fovs) <= MAX_FOV_DEG + 0.1
    assert max(fovs) - min(fovs) > 40
    assert np.histogram(yaws, bins=4, range=(-180, 180))[0].min() > 3, "every quarter of the horizon should be seen"


def test_a_panorama_is_enlarged_at_most_about_twice() -> None:
    # 1.42 columns a degree: 64 px are at least 22.5 degrees, 100 px at least 35.2, 128 px at least 45.
    for size, narrowest in ((64, MIN_FOV_DEG), (100, 35.2), (128, 45.0)):
        fovs = []
        for seed in range(8):
            view = sample_view(HdrScene("rays", RAYS, is_panorama=True), size, np.random.default_rng(seed))
            fovs.append(angle_deg(view[size // 2, 0], view[size // 2, -1]))
        assert min(fovs) > narrowest - 0.5
        assert min(fovs) < narrowest + 15


@pytest.mark.parametrize(
    ("max_enlargement", "narrowest", "widest"), [(1.0, 90.0, 90.0), (1.5, 60.0, 90.0), (4.0, 30.0, 90.0)]
)
def test_the_allowed_enlargement_decides_how_narrow_a_view_may_be(
    max_enlargement: float, narrowest: float, widest: float
) -> None:
    # 1.42 columns a degree: 128 px at an enlargement of 1 are 90 degrees.
    fovs = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view = sample_view(HdrScene("rays", RAYS, is_panorama=True), 128, rng, max_enlargement)
        fovs.append(angle_deg(view[64, 0], view[64, -1]))
    assert narrowest - 1 < min(fovs) < narrowest + 8
    assert widest - 8 < max(fovs) < widest


def test_a_photograph_is_enlarged_no_more_than_allowed() -> None:
    for max_enlargement in (0.8, 1.0, 3.0):
        sides = []
        for seed in range(60):
            view = sample_view(ramp(100, 100), 60, np.random.default_rng(seed), max_enlargement)
            sides.append(np.ptp(view[1:-1, 1:-1, 0]) * 60 / 57)
        assert min(sides) > 60 / max_enlargement - 1.5
        assert min(sides) < 60 / max_enlargement + 6


def ramp(height: int, width: int) -> HdrScene:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return HdrScene("ramp", np.dstack([rows, columns, rows + columns]), is_panorama=False)


@pytest.mark.parametrize(("height", "width", "size"), [(120, 200, 32), (200, 120, 64), (70, 90, 64), (300, 64, 96)])
def test_crops_are_square_evenly_sampled_and_inside_the_photograph(height: int, width: int, size: int) -> None:
    scene = ramp(height, width)
    smallest = min(height, width, size / 2)
    for seed in range(40):
        view = sample_view(scene, size, np.random.default_rng(seed))
        assert view.shape == (size, size, 3)
        rows, columns = view[..., 0], view[..., 1]
        assert rows.min() >= 0
        assert rows.max() <= height - 1
        assert columns.min() >= 0
        assert columns.max() <= width - 1
        steps = np.concatenate([np.diff(rows[1:-1], axis=0).ravel(), np.abs(np.diff(columns[:, 1:-1], axis=1)).ravel()])
        np.testing.assert_allclose(steps, steps.mean(), atol=2e-3)
        side = float(steps.mean()) * size
        assert smallest - 0.2 <= side <= min(height, width) + 0.2
        np.testing.assert_allclose(view[..., 2], rows + columns, atol=1e-2)


def test_crops_differ_in_scale_and_place_and_reach_the_edges() -> None:
    scene = ramp(100, 100)
    views = [sample_view(scene, 24, np.random.default_rng(seed)) for seed in range(80)]
    sides = [np.ptp(view[..., 0]) * 24 / 23 for view in views]
    assert min(sides) < 15
    assert max(sides) > 85
    assert min(view[..., 0].min() for view in views) < 2
    assert max(view[..., 0].max() for view in views) > 97


@pytest.mark.parametrize("side", [64, 68, 69, 70, 74, 77, 81])
def test_a_photograph_smaller_than_half_the_view_is_taken_whole(side: int) -> None:
    # exp(log(69)) is a little more than 69: the crop once was larger than its photograph.
    for seed in range(5):
        view = sample_view(ramp(side, side), 2 * side + 2, np.random.default_rng(seed))
        assert np.ptp(view[..., 0]) == pytest.approx(side - 1, abs=0.01)


@pytest.mark.parametrize("is_panorama", [True, False])
def test_views_depend_on_the_generator_alone_and_half_are_mirrored(is_panorama: bool) -> None:
    scene = HdrScene("rays", RAYS, is_panorama=True) if is_panorama else ramp(100, 100)
    across = 0 if is_panorama else 1
    num_mirrored = 0
    for seed in range(100):
        view = sample_view(scene, 16, np.random.default_rng(seed))
        assert view.dtype == np.float32
        assert view.flags.c_contiguous
        # To the right of the optical axis lies what is clockwise from above; in a mirrored view it lies to the left.
        left, right = view[8, 0], view[8, -1]
        num_mirrored += int(left[2] * right[0] < left[0] * right[2] if is_panorama else left[across] > right[across])
    assert num_mirrored == pytest.approx(50, abs=4 * 5)
    one, same, other = (sample_view(scene, 16, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
