from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cone_perception.classes import YELLOW
from training.simulate.bag import BASELINE_M, DriveFrame, drive_frames
from training.simulate.camera import PinholeCamera, load_camera
from training.simulate.scene import SimulateSettings
from training.simulate.scenery.library import make_library
from training.simulate.staged import fence, stage_scene, take_pair

SMALL = SimulateSettings(width_px=320, height_px=180, fallen=0)


def pixels(camera: PinholeCamera, points_m: np.ndarray) -> np.ndarray:
    """(N, 2) where world points lie in the picture; the upper left corner is 0, 0."""
    optical = camera.to_optical(points_m)
    return camera.distort(optical[:, :2] / optical[:, 2:]) + 0.5


@pytest.fixture(scope='module')
def drive() -> list[DriveFrame]:
    """Four pairs of pictures, the left eye's first."""
    frames = list(drive_frames(SMALL, 4, 1.0, 4, stereo=True))
    assert sum(len(frame.labels) for frame in frames) > 20
    return frames


def test_a_cone_keeps_its_number_and_its_place_from_picture_to_picture(drive) -> None:
    places: dict[int, set[tuple[float, ...]]] = {}
    for frame in drive:
        assert len({label.cone for label in frame.labels}) == len(frame.labels)
        for label in frame.labels:
            places.setdefault(label.cone, set()).add(label.foot_m)
    assert max(map(len, places.values())) == 1
    assert len(set.union(*places.values())) == len(places)
    assert all(foot[2] == 0 for feet in places.values() for foot in feet)


def test_the_eyes_are_one_baseline_apart(drive) -> None:
    for frame in drive:
        shift = frame.feet_m('left') - frame.feet_m('right')
        np.testing.assert_allclose(shift, [[BASELINE_M, 0, 0]] * len(frame.labels), atol=1e-9)


def test_the_nominal_mount_leads_from_the_eye_to_the_car() -> None:
    """Without pitch, roll and bounce of the car the camera's mount is that of its file."""
    file = load_camera()
    camera = replace(file, position_m=(30.0, -4.0, file.position_m[2]), yaw_rad=2.2)
    feet = np.array([[25.0, 1.0, 0.0], [20.0, 9.0, 0.0]])
    optical = camera.to_optical(feet)
    sin, cos = np.sin(file.pitch_rad), np.cos(file.pitch_rad)
    mount = np.array([[0, -sin, cos], [-1, 0, 0], [0, -cos, -sin]])
    base = optical @ mount.T + (0, 0, file.position_m[2])
    np.testing.assert_allclose(camera.to_level(feet), base, atol=1e-9)
    ahead = np.array([30 + 10 * np.cos(2.2), -4 + 10 * np.sin(2.2), 0.0])
    np.testing.assert_allclose(camera.to_level(ahead), [10, 0, 0], atol=1e-9)


def test_feet_project_to_the_foot_of_their_boxes(drive) -> None:
    across, below = [], []
    for frame in drive:
        camera = frame.camera
        feet = np.array([label.foot_m for label in frame.labels])
        away = feet - (*camera.position_m[:2], 0)
        # As far towards the camera as the plate of the largest cone may reach.
        near = feet - 0.21 * away / np.linalg.norm(away, axis=1, keepdims=True)
        x, y, lowest = (
            pixels(camera, feet)[:, 0],
            *(pixels(camera, at)[:, 1] for at in (feet, near)),
        )
        for k, label in enumerate(frame.labels):
            if label.visible > 0.98:
                left, _, right, bottom = label.xyxy_px
                across.append((left + right) / 2 - x[k])
                below.append(bottom - y[k])
                assert y[k] - 1 < bottom < lowest[k] + 2
    assert len(across) > 20
    assert np.median(np.abs(across)) < 0.05
    assert np.abs(across).max() < 1.0
    assert np.median(below) < 0.5


def test_the_car_sees_the_same_cone_from_either_eye(drive) -> None:
    for left, right in zip(drive[::2], drive[1::2], strict=True):
        here, there = (
            dict(zip([label.cone for label in eye.labels], eye.feet_m('base'), strict=True))
            for eye in (left, right)
        )
        both = set(here) & set(there)
        assert both
        assert all((here[cone] == there[cone]).all() for cone in both)
        assert all(place[0] > 0 for place in here.values())


def test_a_staged_fence_stands_where_it_was_put() -> None:
    library = make_library(3)
    scene = stage_scene(fence(8.0, 0.7, 5, YELLOW), library)
    left, right = take_pair(scene, library, SimulateSettings(), noise=2.0)
    for eye in (left, right):
        assert [label.cone for label in eye.labels] == [0, 1, 2, 3, 4]
        assert {label.class_id for label in eye.labels} == {YELLOW}
        np.testing.assert_allclose(eye.feet_m('base')[:, 0], 8.0)
        np.testing.assert_allclose(eye.feet_m('base')[:, 1], [1.4, 0.7, 0, -0.7, -1.4], atol=1e-9)
    assert left.image.shape == (720, 1280, 3)
    apart = left.image[:200].astype(int) - right.image[:200]
    assert 2 < apart.std() < 8
