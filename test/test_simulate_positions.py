from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.simulate.bag import BASELINE_M, DriveFrame, drive_frames
from training.simulate.camera import load_camera
from training.simulate.scene import SimulateSettings

SMALL = SimulateSettings(width_px=320, height_px=180, fallen=0)


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
    misses = []
    for frame in drive:
        optical = frame.feet_m(frame.eye)
        pixels = frame.camera.distort(optical[:, :2] / optical[:, 2:]) + 0.5
        for label, (x, y) in zip(frame.labels, pixels, strict=True):
            left, top, right, bottom = label.xyxy_px
            if label.visible > 0.98:
                misses.append(((left + right) / 2 - x, bottom - y, bottom - top))
    across, below, tall = np.array(misses).T
    assert len(misses) > 20
    assert np.median(np.abs(across)) < 0.05
    assert np.abs(across).max() < 1.0
    # The near edge of the plate lies below its middle.
    assert (below > -0.3).all()
    assert (below < 0.3 + 0.12 * tall).all()


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
