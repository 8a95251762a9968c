"""Two eyes, their place on the car, and the ground: against exact projections the other way."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
from placing import boxes_of, mounted, placed, rig_of, staged
from planted_calibration import RAW, SIZE, ZED, camera_info, eyes, pair, rays_within, taken

from cone_perception.classes import BLUE, LARGE_ORANGE, UNKNOWN, YELLOW
from cone_perception.errors import CalibrationError
from cone_perception.positions.camera import CameraModel
from cone_perception.positions.ground import LARGEST_SHARE, TURNED, ground_range
from cone_perception.positions.locate import GROUND, HEIGHT
from cone_perception.positions.rig import SHAKE_RAD, Mount, Rig
from cone_perception.settings import DetectorSettings
from cone_perception.types import Frame, Positions
from training.simulate.camera import PinholeCamera

# --- the rig ---


@pytest.mark.parametrize('zero_disparity', [True, False])
@pytest.mark.parametrize('lens', ['barrel', 'rational', 'fisheye'])
def test_points_seen_by_both_eyes_get_their_depth_back(lens, zero_disparity):
    (left, right), turn, move = pair(lens, zero_disparity)
    rig = Rig.of(left, right, RAW, DetectorSettings(), None, 'left_optical')
    assert rig.right
    assert not rig.why_mono
    assert rig.optical_frame == 'left_optical'
    assert rig.baseline_m == pytest.approx(np.linalg.norm(move), rel=1e-9)
    assert (abs(rig.zero_px) > 5) == (not zero_disparity)
    rng = np.random.default_rng(4)
    points_m = rays_within(0.5, rng, 300) * rng.uniform(3, 30, (300, 1))  # of the left camera
    first, second = np.reshape(left.r, (3, 3)), np.reshape(right.r, (3, 3))
    pixels = taken(left, points_m @ first.T), taken(right, (points_m @ turn.T + move) @ second.T)
    seen, other = rig.left.rectify_points(pixels[0]), rig.right.rectify_points(pixels[1])
    assert np.abs(seen[:, 1] - other[:, 1]).max() < 1e-3
    depth_m = rig.left.fx_px * rig.baseline_m / (seen[:, 0] - other[:, 0] - rig.zero_px)
    true_m = points_m @ first.T
    np.testing.assert_allclose(rig.left.rays(seen) * depth_m[:, None], true_m, atol=1e-2)


@pytest.mark.parametrize(
    'right, topics, message',
    [
        (eyes(0.0)[1], ZED, r'the baseline is zero: P\[3\] .* set stereo: false'),
        (eyes(-0.12)[1], ZED, r'the eyes are swapped: .* 0.120 m to the left .* Swap'),
        (eyes(120.0)[1], ZED, 'the eyes stand 120 m apart, which cannot be'),
        (eyes(fx=700.0)[1], ZED, 'focal lengths fx of the rectified eyes differ: 690 .* 700 px'),
        (eyes(cy=357.0)[1], ZED, 'rows cy of the rectified eyes differ: 355 px left, 357 px right'),
        (eyes(size=(640, 360))[1], ZED, '1280x720, the right one of 640x360: .* the same size'),
        (eyes()[1], [ZED[0], RAW[1]], f'{ZED[0]} is rectified, but {RAW[1]} is raw'),
        (
            eyes()[1]._replace(p=(*(0.0,) * 10, 1.0, 0.0)),
            ZED,
            f'{ZED[1]}: P .* is zero, .* calibrated together',
        ),
        (eyes(r=np.zeros(9))[1], RAW, f'{RAW[1]}: R .* is zero, .* calibrate them together'),
        (eyes()[1]._replace(d=(0.1,)), RAW, f'{RAW[1]}: D of camera_info has 1 numbers'),
        (eyes()[1]._replace(distortion_model='fov'), RAW, f"{RAW[1]}: .* model 'fov'"),
    ],
)
def test_eyes_that_contradict_each_other_leave_the_left_one_alone(right, topics, message):
    rig = Rig.of(camera_info(), right, topics, DetectorSettings(stereo=False), None)
    assert rig.right is None
    assert rig.baseline_m == 0
    assert rig.zero_px == 0
    assert rig.left == CameraModel.of(camera_info(), topics == ZED or topics[0] == ZED[0])
    assert re.search(message, rig.why_mono), rig.why_mono


def test_camera_infos_that_were_exchanged_are_told_as_swapped_eyes():
    left, right = eyes()
    assert 'the eyes are swapped' in Rig.of(right, left, ZED, DetectorSettings(), None).why_mono


def test_a_rig_needs_a_left_eye_and_no_right_one():
    left, right = eyes()
    alone = Rig.of(left, None, ZED[:1], DetectorSettings(), None)
    assert alone.right is None
    assert not alone.why_mono
    side_by_side = Rig.of(left, right, ZED[:1], DetectorSettings(), None)
    assert side_by_side.right
    assert side_by_side.baseline_m == pytest.approx(0.12)
    nothing = left._replace(k=(0.0,) * 9, p=(0.0,) * 12)
    with pytest.raises(CalibrationError, match=f'^{ZED[0]}: P and K of camera_info are zero'):
        Rig.of(nothing, right, ZED, DetectorSettings(), None)


# --- the mount ---


def settings(height_m=0.95, pitch_deg=4.0, roll_deg=-2.0, yaw_deg=10.0, **more):
    names = {'height_m': height_m, 'pitch_deg': pitch_deg, 'roll_deg': roll_deg, 'yaw_deg': yaw_deg}
    return DetectorSettings(**{f'mount_{name}': value for name, value in (names | more).items()})


def test_the_mount_of_the_settings_stands_as_the_renderers_camera_does():
    rng = np.random.default_rng(5)
    for _ in range(50):
        pitch, roll, yaw = rng.uniform(-40, 40, 3)
        place = rng.uniform(0.2, 2, 3)
        given = {'x_m': place[0], 'y_m': place[1]}
        mount = Mount.of(settings(place[2], pitch, roll, yaw, **given))
        turns = {'yaw_rad': yaw, 'pitch_rad': pitch, 'roll_rad': roll}
        turns = {name: float(np.radians(angle)) for name, angle in turns.items()}
        camera = PinholeCamera(*SIZE, 700, 700, 640, 360, position_m=tuple(place), **turns)
        points_m = rng.normal(0, 5, (20, 3))
        back = mount.to_base(known(camera.to_optical(points_m)))
        np.testing.assert_allclose(back.xyz_m, points_m, atol=1e-9)
        assert back.frame_id == 'base_footprint'
        axis = cv2.Rodrigues(mount.rotation)[0].ravel()
        half = np.linalg.norm(axis) / 2
        quaternion = [*(axis / (2 * half) * np.sin(half)), np.cos(half)]
        same = Mount.from_transform(place, quaternion, 'map')
        np.testing.assert_allclose(same.rotation, mount.rotation, atol=1e-6)
        np.testing.assert_allclose(same.translation_m, place)
        assert same.frame_id == 'map'
    assert Mount.of(DetectorSettings()) is None


def known(xyz_m, covariance_m2=None):
    count = len(xyz_m)
    covariance_m2 = np.zeros((count, 3, 3)) if covariance_m2 is None else covariance_m2
    return Positions(xyz_m, covariance_m2, np.ones(count, np.int64), 'left_optical')


def test_signs_of_the_mount_are_those_that_the_settings_name():
    ahead, right = np.array([[0.0, 0.0, 10.0]]), np.array([[1.0, 0.0, 0.0]])
    straight = {'pitch_deg': 0.0, 'roll_deg': 0.0, 'yaw_deg': 0.0}
    down = Mount.of(settings(**straight | {'pitch_deg': 5.0})).to_base(known(ahead)).xyz_m[0]
    assert down[2] == pytest.approx(0.95 - 10 * np.sin(np.radians(5)))
    left = Mount.of(settings(**straight | {'yaw_deg': 5.0})).to_base(known(ahead)).xyz_m[0]
    assert left[1] == pytest.approx(10 * np.sin(np.radians(5)))
    clockwise = Mount.of(settings(**straight | {'roll_deg': 5.0})).to_base(known(right)).xyz_m[0]
    assert clockwise[1:] == pytest.approx([-np.cos(np.radians(5)), 0.95 - np.sin(np.radians(5))])
    mount = Mount.of(settings(**straight))
    rig = Rig.of(*eyes(), ZED, settings(), mount)
    assert rig.mount_of(0) is mount
    assert rig.mount_of(1).translation_m == pytest.approx([0, -0.12, 0.95])
    assert Rig.of(*eyes(), ZED, settings(), None).mount_of(1) is None


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (1, 1, 0, 0), (0, 0, float('nan'), 1)])
def test_a_transform_must_be_a_rotation(quaternion):
    with pytest.raises(CalibrationError, match='the transform to base_link .* is no rotation'):
        Mount.from_transform((0, 0, 1), quaternion, 'base_link')


def test_the_car_that_pitches_and_rolls_widens_the_covariance():
    mount = Mount.of(settings())
    rng = np.random.default_rng(6)
    spread = rng.normal(0, 1, (3, 3)) * [[0.05], [0.02], [0.4]]
    xyz_m = np.array([[2.0, 1.0, 18.0], [np.nan] * 3])
    covariance_m2 = np.stack([spread @ spread.T, np.full((3, 3), np.nan)])
    placed = mount.to_base(known(xyz_m, covariance_m2))
    samples = (xyz_m[0] + rng.normal(size=(200_000, 3)) @ spread.T) @ mount.rotation.T
    samples = samples + mount.translation_m
    turns = rng.normal(0, SHAKE_RAD, (200_000, 3)) * [1, 1, 0]
    moved = samples + np.cross(turns, samples)
    np.testing.assert_allclose(placed.covariance_m2[0], np.cov(moved.T), atol=1e-3, rtol=0.03)
    assert np.isnan(placed.xyz_m[1]).all()
    assert np.isnan(placed.covariance_m2[1]).all()


# --- the ground ---


def seen_feet(mount, camera, feet_m):
    """(N, 2) pixels of points of the ground, given in the car's frame."""
    return camera.project((feet_m - mount.translation_m) @ mount.rotation)


def test_the_ground_gives_back_the_axis_behind_the_edge_that_is_seen():
    mount, camera = Mount.of(settings()), CameraModel.of(camera_info(), rectified=True)
    rng = np.random.default_rng(7)
    count = 200
    away, bearing = rng.uniform(2, 12, count), np.radians(10 + rng.uniform(-35, 35, count))
    outward = np.column_stack([np.cos(bearing), np.sin(bearing), np.zeros(count)])
    plate_m = rng.choice([0.228, 0.285], count)
    edges_px = seen_feet(mount, camera, outward * (away - TURNED * plate_m / 2)[:, None])
    depth_m, sigma_m = ground_range(camera, mount, edges_px, np.full(count, 0.5), plate_m)
    axes_m = (outward * away[:, None] - mount.translation_m) @ mount.rotation
    np.testing.assert_allclose(depth_m, axes_m[:, 2], atol=1e-9)
    assert np.isfinite(sigma_m).all()


@pytest.mark.parametrize('edge', [(2.0, 0.0, 0.0), (4.0, 1.0, 0.0), (8.0, -2.0, 0.0)])
@pytest.mark.parametrize('sigma_px', [0.3, 3.0])
def test_the_deviation_on_the_ground_is_what_row_turn_and_plate_make_of_it(edge, sigma_px):
    mount, camera = Mount.of(settings()), CameraModel.of(camera_info(), rectified=True)
    rng = np.random.default_rng(8)
    feet_px = seen_feet(mount, camera, np.array([edge]))
    row_sigma_px = np.array([sigma_px])
    (depth_m,), (sigma_m,) = ground_range(camera, mount, feet_px, row_sigma_px, np.full(1, 0.228))
    found = []
    for turn in rng.normal(0, SHAKE_RAD, (4000, 2)):
        tilted = replace(mount, rotation=cv2.Rodrigues(np.array([*turn, 0]))[0] @ mount.rotation)
        noisy = feet_px + rng.normal(0, sigma_px, (1, 2)) * [0, 1]
        angle = rng.uniform(0, np.pi / 2)
        plate_m = np.full(1, 0.228 * (np.cos(angle) + np.sin(angle)) / TURNED)
        found.append(ground_range(camera, tilted, noisy, row_sigma_px, plate_m)[0][0])
    assert np.std(found) == pytest.approx(sigma_m, rel=0.06)
    assert np.mean(found) == pytest.approx(depth_m, abs=0.15 * sigma_m)


def test_near_the_horizon_the_ground_says_nothing():
    mount, camera = Mount.of(settings(1.0, 0.0, 0.0, 0.0)), CameraModel.of(camera_info(), True)
    rows = np.arange(300.0, 480.0)
    feet_px = np.column_stack([np.full(len(rows), 650.0), rows])
    row_sigma_px, plate_m = np.full(len(rows), 1.0), np.zeros(len(rows))
    depth_m, sigma_m = ground_range(camera, mount, feet_px, row_sigma_px, plate_m)
    usable = np.isfinite(sigma_m)
    # The share is that of the angle below the horizon: sqrt(1 + (690 * 0.3 degrees)^2) rows.
    least = np.hypot(1, 690 * SHAKE_RAD) / LARGEST_SHARE
    assert (usable == (rows - 355 > least)).all()
    assert usable.any()
    np.testing.assert_allclose(depth_m[usable], 690 / (rows[usable] - 355))
    nowhere = np.full((1, 2), np.nan)
    assert np.isinf(ground_range(camera, mount, nowhere, row_sigma_px[:1], plate_m[:1])[1]).all()


def test_with_the_mount_one_eye_places_near_cones_by_the_ground():
    spots = [(3.0, 0.8, YELLOW), (5.0, -1.0, BLUE), (7.0, 1.5, LARGE_ORANGE), (20.0, 0.0, BLUE)]
    pair = staged(spots)
    blind, sighted = (replace(rig_of(pair, each), right=None) for each in (None, mounted()))
    _, by_height, _ = placed(pair, blind)
    locator, positions, errors_m = placed(pair, sighted)
    near = pair[0].feet_m('left')[:, 2] < 10
    assert set(by_height.source.tolist()) == {HEIGHT}
    assert set(positions.source[near].tolist()) == {GROUND}
    assert positions.counts['ground'] >= 3
    assert np.abs(errors_m[near]).max() < 0.15
    # The ground does not ask for the class; the side that meets it must be seen.
    boxes = boxes_of(pair[0])
    unknown = replace(boxes, class_id=np.full(len(boxes), UNKNOWN))
    again = locator.locate(unknown, Frame(pair[0].image))
    assert np.abs(again.xyz_m - pair[0].feet_m('base'))[near].max() < 0.3
    for true_m, box in zip(pair[0].feet_m('base')[near], boxes.xyxy_px[near], strict=True):
        seen = []
        for side, border in ((3, 719.0), (1, 0.0)):
            cut = box.copy()
            cut[side] = border
            one = replace(boxes[:1], xyxy_px=cut[None])
            seen.append(locator.locate(one, Frame(pair[0].image)))
        assert [each.source.tolist() for each in seen] == [[0], [GROUND]]
        assert np.isnan(seen[0].covariance_m2).all()
        assert np.abs(seen[1].xyz_m[0, 0] - true_m[0]) < 0.2
