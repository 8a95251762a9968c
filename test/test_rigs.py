"""What camera_info and the mounting make of cameras: locators, bands, and what is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cone_perception import images
from cone_perception.answering.rigs import Rigs, info_topics
from cone_perception.classes import CLASS_NAMES
from cone_perception.positions.rig import Mount
from cone_perception.settings import DetectorSettings
from cone_perception.types import CameraPicture, Detections, Frame
from cone_perception.views import Horizon, mounted_row

FOCAL_PX, BASELINE_M = 700.0, 0.12
MOUNT = {'mount_height_m': 0.95, 'mount_pitch_deg': 4.0}
EYES = {'left': '/cam/left/image', 'right': '/cam/right/image'}
INFOS = {'left': '/cam/left/camera_info', 'right': '/cam/right/camera_info'}
GREY = Frame(np.full((720, 1280, 3), 114, np.uint8))
CONE = Detections(
    np.array([[640, 360, 690, 430]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
)


def camera_info(baseline_m=0.0, focal_px=FOCAL_PX, frame_id='left_optical', **changes):
    """sensor_msgs/CameraInfo of a rectified camera of 1280x720."""
    f = focal_px
    fields = {'width': 1280, 'height': 720, 'distortion_model': 'plumb_bob', 'd': [0.0] * 5}
    fields |= {'k': [f, 0, 640, 0, f, 360, 0, 0, 1], 'r': [1.0, 0, 0, 0, 1, 0, 0, 0, 1]}
    fields['p'] = [f, 0, 640, -f * baseline_m, 0, f, 360, 0, 0, 0, 1, 0]
    header = SimpleNamespace(frame_id=frame_id)
    return SimpleNamespace(header=header, **fields | changes)


def rigs_of(*cameras, **settings):
    topics = {camera: EYES.get(camera, f'/{camera}/image') for camera in cameras}
    infos = {camera: INFOS.get(camera, f'/{camera}/camera_info') for camera in cameras}
    horizons = {camera: Horizon() for camera in cameras}
    made = DetectorSettings(cameras=cameras, **settings)
    return Rigs(made, topics, infos, CLASS_NAMES, horizons), horizons


def stereo(**settings):
    return rigs_of('left', 'right', stereo=True, **settings)[0]


def test_camera_info_and_mounting_place_cones_and_lay_the_band():
    rigs, horizons = rigs_of('front', **MOUNT)
    assert rigs.warnings('front') == ['no positions: nothing came on /front/camera_info']
    assert rigs.notes('front')['positions in'] == 'none'
    assert not rigs.take('front', camera_info())
    assert rigs.warnings('front') == []
    places = rigs.locators['front'].locate(CONE, GREY)
    assert (places.frame_id, places.known.tolist()) == ('base_footprint', [True])
    assert 2 < places.xyz_m[0, 0] < 5
    row_px = mounted_row(FOCAL_PX, 360.0, 0.95, 4.0)
    assert horizons['front'].row_px(720) == pytest.approx(row_px, abs=0.01)
    notes = rigs.notes('front')
    assert (notes['positions in'], notes['mounted by']) == ('base_footprint', 'settings')
    assert (notes['baseline (m)'], notes['calibration changed']) == ('none', '0')


def test_another_calibration_replaces_the_first():
    rigs, _ = rigs_of('front')
    rigs.take('front', camera_info())
    before = rigs.locators['front']
    assert rigs.take('front', camera_info(focal_px=1400.0))
    after = rigs.locators['front']
    assert rigs.notes('front')['calibration changed'] == '1'
    first, second = (each.locate(CONE, GREY).xyz_m[0, 2] for each in (before, after))
    assert second == pytest.approx(2 * first, rel=0.05)


def test_calibration_that_keeps_changing_is_told_and_the_rig_seldom_made_anew(monkeypatch):
    """Two cameras of one name: both publish, by turns."""
    now_s = 100.0
    monkeypatch.setattr('cone_perception.answering.rigs.time.monotonic', lambda: now_s)
    rigs, _ = rigs_of('front', **MOUNT)
    both = {bytes(12) + name: camera_info(focal_px=f) for name, f in ((b'a', 700.0), (b'b', 900.0))}
    taken = 0
    for _ in range(300):
        for content, message in both.items():
            now_s += 1 / 60
            taken += bool(rigs.hear('front', content, lambda message=message: message))
    assert taken <= 6
    assert rigs.warnings('front') == [
        'camera_info keeps changing: two publishers? It is taken now and then only'
    ]
    # One of them ends: the other one counts, and the warning goes.
    now_s += 10
    for _ in range(2):
        rigs.hear('front', bytes(12) + b'b', lambda: both[bytes(12) + b'b'])
    assert rigs.locators['front'].rig.left.fx_px == 900
    assert rigs.warnings('front') == []


@pytest.mark.parametrize(('raw', 'yaw_deg'), [(True, 3.0), (True, -2.0), (False, 3.0)])
def test_mount_from_tf_is_of_the_camera_and_the_cones_of_its_rectified_pictures(raw, yaw_deg):
    """Toed-in eyes: R turns the rays of the left one, which looks to the right, straight."""
    angle = np.radians(yaw_deg)
    about_y = [np.cos(angle), 0, np.sin(angle), 0, 1, 0, -np.sin(angle), 0, np.cos(angle)]
    turn = np.reshape(about_y, (3, 3))  # x right, z forward: rays turn to the right
    rigs, _ = rigs_of('front', mount_from='tf', rectified='no' if raw else 'yes')
    ahead = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    # The rectified camera looks straight ahead, so the camera itself does after R^T.
    rigs.mount('front', Mount(ahead @ turn if raw else ahead, np.array([0.0, 0.0, 1.0])))
    rigs.take('front', camera_info(r=about_y))
    rig = rigs.locators['front'].rig
    np.testing.assert_allclose(rig.mount.rotation, ahead, atol=1e-12)
    # The point straight ahead of the car is where the rectified picture has its middle.
    middle = np.array([[rig.left.cx_px, rig.left.cy_px]])
    seen_px = rig.left.unrectify_points(middle)
    assert abs(seen_px[0, 0] - 640) == pytest.approx(
        FOCAL_PX * np.tan(abs(angle)) if raw else 0, abs=0.1
    )
    raw_ray = np.array([(seen_px[0, 0] - 640) / FOCAL_PX, 0, 1])
    told = (ahead @ turn if raw else ahead) @ raw_ray
    np.testing.assert_allclose(told / np.linalg.norm(told), [1, 0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'k': [0.0] * 9, 'p': [0.0] * 12}, '/front/image: P and K of camera_info are zero'),
        ({'width': 0}, '/front/image: camera_info is for pictures of 0x720'),
        ({'d': [0.1, 0.0, 0.0], 'distortion_model': 'plumb_bob'}, 'D of camera_info has 3 numbers'),
    ],
)
def test_calibration_that_cannot_be_used_takes_positions_and_band_away(changes, reason):
    rigs, horizons = rigs_of('front', **MOUNT)
    rigs.take('front', camera_info())
    rigs.take('front', camera_info(**changes))
    assert rigs.locators == {}
    (warning,) = rigs.warnings('front')
    assert warning.startswith('no positions: ')
    assert reason in warning
    assert horizons['front'].fixed is None
    rigs.take('front', camera_info())
    assert rigs.warnings('front') == []
    assert horizons['front'].fixed


def test_band_that_would_leave_the_picture_follows_the_boxes():
    rigs, horizons = rigs_of('front', mount_height_m=0.95, mount_pitch_deg=40.0)
    rigs.take('front', camera_info())
    (warning,) = rigs.warnings('front')
    assert 'the band follows the boxes, not the mounting: with a pitch of 40.0 degrees' in warning
    assert horizons['front'].fixed is None
    assert rigs.locators


def test_cones_lie_in_the_frame_of_the_camera_until_its_mounting_is_known():
    rigs, horizons = rigs_of('front')
    assert rigs.unmounted_frames() == {'front': ''}
    rigs.take('front', camera_info(frame_id='front_optical'))
    (warning,) = rigs.warnings('front')
    assert warning.startswith('cones are placed in front_optical, not in base_footprint: ')
    assert 'set it, or mount_from: tf' in warning
    assert rigs.locators['front'].locate(CONE, GREY).frame_id == 'front_optical'
    assert rigs.unmounted_frames() == {'front': 'front_optical'}
    mount = Mount.of(DetectorSettings(**MOUNT))
    rigs.mount('front', mount)
    assert rigs.unmounted_frames() == {}
    assert rigs.warnings('front') == []
    assert rigs.notes('front')['mounted by'] == 'tf'
    row_px = mounted_row(FOCAL_PX, 360.0, 0.95, 4.0)
    assert horizons['front'].row_px(720) == pytest.approx(row_px, abs=0.01)


def test_settings_do_not_count_where_tf_is_asked_for():
    rigs, _ = rigs_of('front', mount_from='tf', **MOUNT)
    rigs.take('front', camera_info())
    assert rigs.unmounted_frames() == {'front': 'left_optical'}


def test_two_eyes_share_a_locator_once_both_calibrations_came():
    rigs = stereo(**MOUNT)
    rigs.take('left', camera_info())
    assert list(rigs.locators) == ['left']  # by height alone
    assert rigs.warnings('left') == []
    assert rigs.warnings('right') == ['no positions: nothing came on /cam/right/camera_info']
    rigs.take('right', camera_info(BASELINE_M))
    assert rigs.locators['left'] is rigs.locators['right']
    assert rigs.warnings('left') == rigs.warnings('right') == []
    assert rigs.notes('left')['baseline (m)'] == '0.1200'


def test_right_eye_alone_is_not_placed_before_the_left_one_is_known():
    rigs = stereo(**MOUNT)
    rigs.take('right', camera_info(BASELINE_M))
    assert rigs.locators == {}
    assert rigs.warnings('left') == ['no positions: nothing came on /cam/left/camera_info']


@pytest.mark.parametrize(
    ('right', 'reason'),
    [
        (camera_info(-BASELINE_M), 'the eyes are swapped'),
        (camera_info(), 'the baseline is zero'),
        (camera_info(BASELINE_M, width=640), 'the right one of 640x720'),
        (camera_info(BASELINE_M, focal_px=800.0), 'focal lengths fx of the rectified eyes differ'),
    ],
)
def test_eyes_that_contradict_each_other_leave_the_left_one_alone(right, reason):
    rigs = stereo(**MOUNT)
    rigs.take('left', camera_info())
    rigs.take('right', right)
    assert list(rigs.locators) == ['left']
    assert any(reason in warning for warning in rigs.warnings('left'))
    assert any(reason in warning for warning in rigs.warnings('right'))
    rigs.take('right', camera_info(BASELINE_M))
    assert rigs.warnings('left') == rigs.warnings('right') == []


def test_cameras_without_stereo_are_rigs_of_their_own():
    rigs, _ = rigs_of('left', 'right', **MOUNT)
    rigs.take('right', camera_info())
    assert list(rigs.locators) == ['right']
    rigs.take('left', camera_info())
    assert rigs.locators['left'] is not rigs.locators['right']


def test_picture_of_another_size_is_told():
    rigs, _ = rigs_of('front', **MOUNT)
    rigs.take('front', camera_info())
    small = CameraPicture.of_bgr(np.zeros((360, 640, 3), np.uint8))
    assert not rigs.locators['front'].locate(CONE, small).known.any()
    assert any('640x360' in warning for warning in rigs.warnings('front'))


def test_pictures_as_sent_are_converted_once_each_and_only_for_cones(monkeypatch):
    converted = []
    whole = images.to_bgr

    def counted(message):
        if message.height == 720:
            converted.append(message)
        return whole(message)

    monkeypatch.setattr(images, 'to_bgr', counted)
    rigs = stereo(**MOUNT)
    rigs.take('left', camera_info())
    rigs.take('right', camera_info(BASELINE_M))
    grain = np.random.default_rng(0).integers(40, 200, (2, 720 * 1280 * 4), dtype=np.uint8)
    eyes = [CameraPicture(data, 'bgra8', 1280, 720, 5120) for data in grain]
    levels = [images.grey_level(eye) for eye in eyes]
    assert levels == pytest.approx([120, 120], abs=1)
    assert converted == []
    rigs.locators['left'].locate(CONE, *eyes)
    assert list(map(id, converted)) == list(map(id, eyes))
    rigs.locators['left'].locate(Detections.empty(), *eyes)
    assert len(converted) == 2


@pytest.mark.parametrize(
    ('settings', 'images', 'infos'),
    [
        ({}, ['/a/rect/image'], ['/a/rect/camera_info']),
        ({}, ['/a/image/compressed', '/b/image'], ['/a/camera_info', '/b/camera_info']),
        ({'side_by_side': True}, ['/s/image'] * 2, ['/s/camera_info'] * 2),
        (
            {'side_by_side': True, 'stereo': True},
            ['/s/image'] * 2,
            ['left/camera_info', 'right/camera_info'],
        ),
        ({'info_topics': ('x', '/y')}, ['/a/image', '/b/image'], ['x', '/y']),
    ],
)
def test_camera_info_is_looked_for_beside_the_pictures_or_where_settings_say(
    settings, images, infos
):
    cameras = ('left', 'right')[: len(images)]
    made = DetectorSettings(cameras=cameras, **settings)
    topics = info_topics(made, dict(zip(cameras, images, strict=True)))
    assert list(topics.values()) == infos
