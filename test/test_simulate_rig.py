"""Each error of the rig moves the picture as computed by hand, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cone_perception.errors import RecipeError, SettingsError
from training.simulate.bag import DriveFrame, drive_frames
from training.simulate.camera import PinholeCamera
from training.simulate.dataset import write_dataset
from training.simulate.renderer import render
from training.simulate.rig.eyes import BASELINE_M
from training.simulate.rig.settings import RigSettings
from training.simulate.rig.shutter import Shutter
from training.simulate.scene import Scene, SimulateSettings, read_settings
from training.simulate.scenery.library import Library, make_library
from training.simulate.staged import stage_scene, take_pair

PLAIN = PinholeCamera(1280, 720, 700.0, 700.0, 639.5, 359.5, position_m=(0.0, 0.0, 1.0))
PLACES = np.array([(6.0, 2.0), (7.0, -2.5), (9.0, 0.3)])
SMALL = SimulateSettings(width_px=320, height_px=180, clutter=0)


@pytest.fixture(scope='module')
def library() -> Library:
    return make_library(3)


@pytest.fixture(scope='module')
def scene(library: Library) -> Scene:
    return stage_scene([(x, y, 0) for x, y in PLACES.tolist()], library)


def middles(frame: DriveFrame) -> np.ndarray:
    """(3, 2) middle of each box relative to the principal point, pixels."""
    boxes = {label.cone: np.array(label.xyxy_px).reshape(2, 2).mean(0) for label in frame.labels}
    return np.array([boxes[cone] for cone in range(3)]) - (640, 360)


@pytest.mark.parametrize(
    'error,moved',
    [
        ({'right_yaw_deg': 0.5}, lambda x, y: (700 * math.tan(math.radians(0.5)), 0)),
        ({'right_pitch_deg': 0.5}, lambda x, y: (0, -700 * math.tan(math.radians(0.5)))),
        ({'right_roll_deg': 2.0}, lambda x, y: (math.radians(2) * y, -math.radians(2) * x)),
        ({'right_focal_error': 0.02}, lambda x, y: (0.02 * x, 0.02 * y)),
    ],
)
def test_an_error_of_the_right_eye_moves_its_picture(
    scene: Scene, library: Library, error: dict[str, float], moved: Any
) -> None:
    left, right = take_pair(scene, library, SimulateSettings(), PLAIN)
    settings = SimulateSettings(rig=RigSettings(**error))
    same, wrong = take_pair(scene, library, settings, PLAIN)
    np.testing.assert_array_equal(same.image, left.image)
    assert wrong.info == right.info
    expected = [moved(x, y) for x, y in middles(right)]
    # To first order in the angle, away from the middle of the picture.
    np.testing.assert_allclose(middles(wrong) - middles(right), expected, atol=1.0)
    assert np.abs(middles(wrong) - middles(right)).max() > 4


def test_both_focal_lengths_and_the_baseline_may_differ_from_their_calibration(
    scene: Scene, library: Library
) -> None:
    left, right = take_pair(scene, library, SimulateSettings(), PLAIN)
    settings = SimulateSettings(rig=RigSettings(focal_error=0.03))
    for here, longer in zip((left, right), take_pair(scene, library, settings, PLAIN), strict=True):
        np.testing.assert_allclose(middles(longer), 1.03 * middles(here), atol=0.5)
        assert longer.info == here.info
    settings = SimulateSettings(rig=RigSettings(baseline_error_m=0.03))
    _, apart = take_pair(scene, library, settings, PLAIN)
    shift = np.column_stack([-700 * 0.03 / PLACES[:, 0], np.zeros(3)])
    np.testing.assert_allclose(middles(apart) - middles(right), shift, atol=0.5)
    assert apart.info.p[3] == pytest.approx(-700 * BASELINE_M)


def test_the_right_eye_gathers_less_light(scene: Scene, library: Library) -> None:
    left, right = take_pair(scene, library, SimulateSettings(), PLAIN)
    settings = SimulateSettings(rig=RigSettings(right_exposure=0.4))
    same, dark = take_pair(scene, library, settings, PLAIN)
    np.testing.assert_array_equal(same.image, left.image)
    assert dark.image.mean() == pytest.approx(0.4 * right.image.mean(), rel=0.02)


def test_turned_about_its_own_axes_a_camera_sees_the_turn() -> None:
    held = replace(PLAIN, yaw_rad=2.0, pitch_rad=0.3, roll_rad=-0.2)
    change = held.turned(0.05, -0.02, 0.1).rotation @ held.rotation.T
    level = PLAIN.rotation
    np.testing.assert_allclose(
        change, replace(PLAIN, yaw_rad=0.05, pitch_rad=-0.02, roll_rad=0.1).rotation @ level.T,
        atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(held.turned(0, 0, 0).rotation, held.rotation, atol=1e-12)


def drive(**rig: float) -> list[DriveFrame]:
    settings = replace(SMALL, rig=RigSettings(**rig))
    return list(drive_frames(settings, 4, 1.0, 2, stereo=True))


def test_the_right_picture_is_taken_later_and_its_stamp_need_not_say_so() -> None:
    plain, late, hidden = (
        drive(),
        drive(right_late_ms=20, right_stamp_ms=20),
        drive(right_late_ms=20),
    )
    for before, told, untold in zip(plain, late, hidden, strict=True):
        if before.eye == 'left':
            assert before.stamp_ns == told.stamp_ns == untold.stamp_ns == told.taken_ns
            np.testing.assert_array_equal(before.image, told.image)
            continue
        assert told.taken_ns == untold.taken_ns == before.taken_ns + 20_000_000
        assert told.stamp_ns == told.taken_ns
        assert untold.stamp_ns == before.stamp_ns
        np.testing.assert_array_equal(told.image, untold.image)
        assert (told.image != before.image).any()
        way = np.subtract(told.camera.position_m, before.camera.position_m)
        assert 0.1 < np.linalg.norm(way) < 0.2
    lying = drive(right_stamp_ms=-15)[1]
    np.testing.assert_array_equal(lying.image, plain[1].image)
    assert lying.stamp_ns == lying.taken_ns - 15_000_000


def test_each_row_of_a_rolling_shutter_is_that_of_its_own_moment(
    scene: Scene, library: Library
) -> None:
    def pose(moment: float) -> PinholeCamera:
        """moment: -0.5 at the first row, 0.5 at the last."""
        place_m = (0.3 * moment, 0.05 * moment, 1.0)
        return replace(PLAIN, position_m=place_m, yaw_rad=0.02 * moment, pitch_rad=0.01 * moment)

    settings = SimulateSettings()
    shutter = Shutter.of(pose(-0.5), pose(0.0), pose(0.5))
    rolling = render(scene, pose(0.0), library, settings, shutter=shutter)
    still = render(scene, pose(0.0), library, settings)
    for row in (430, 450, 600, 680):
        own = render(scene, pose((row + 0.5) / 720 - 0.5), library, settings)
        if row > 500:  # fine gravel, which interpolation softens
            smooth, torn = (
                np.abs(taken.image[row].astype(int) - own.image[row]).mean()
                for taken in (rolling, still)
            )
            assert smooth < 0.4 * torn
        else:  # where cones stand
            assert (rolling.ids[row] != own.ids[row]).sum() <= 2
            assert (still.ids[row] != own.ids[row]).sum() >= 8
    for label in rolling.labels:
        bottom = label.xyxy_px[3]
        own = render(scene, pose(bottom / 720 - 0.5), library, settings)
        (twin,) = (one for one in own.labels if one.cone == label.cone)
        assert twin.xyxy_px[3] == pytest.approx(bottom, abs=0.1)


def test_a_drive_with_a_rolling_shutter_has_other_pictures_and_the_same_truth() -> None:
    for plain, rolling in zip(drive(), drive(readout_ms=20), strict=True):
        assert (plain.image != rolling.image).any()
        feet = {label.cone: label.foot_m for label in plain.labels}
        assert all(feet.get(one.cone, one.foot_m) == one.foot_m for one in rolling.labels)
        assert plain.camera == rolling.camera


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    turned = replace(SMALL, rig=RigSettings(right_yaw_deg=0.1))
    with pytest.raises(SettingsError, match=r'rig\.right_yaw_deg would do nothing: the drive'):
        next(iter(drive_frames(turned, 4, 1.0, 2)))
    assert next(iter(drive_frames(replace(SMALL, rig=RigSettings(readout_ms=5)), 4, 1.0, 2)))
    with pytest.raises(SettingsError, match='a data set has one eye'):
        write_dataset(tmp_path / 'set', turned, 1, {'train': 1, 'val': 0, 'test': 0})
    with pytest.raises(RecipeError, match='right_yaw_deg: 90 is refused'):
        RigSettings(right_yaw_deg=90)


def test_rig_errors_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / 'rig.yaml').write_text('photo: 0.5\nrig: {right_yaw_deg: 0.1, readout_ms: 12}\n')
    settings = read_settings(tmp_path / 'rig.yaml')
    assert settings.rig == RigSettings(right_yaw_deg=0.1, readout_ms=12)
    (tmp_path / 'rig.yaml').write_text('rig: {right_jaw_deg: 0.1}\n')
    with pytest.raises(RecipeError, match='right_jaw_deg'):
        read_settings(tmp_path / 'rig.yaml')
