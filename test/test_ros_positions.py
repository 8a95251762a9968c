"""Cones in metres from the node: camera_info and tf as they come, change, and contradict."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from image_messages import encode
from node_process import LATCHED, first_true, ros_message, running_node, values_of, wait_for
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from sensor_msgs.msg import CameraInfo, Image
from tiny_network import painted
from vision_msgs.msg import Detection3DArray

from cone_perception.classes import CLASS_NAMES
from cone_perception.ros.calibration import CalibrationListener
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon

pytestmark = pytest.mark.ros

FOCAL_PX, BASELINE_M, DISPARITY_PX = 700.0, 0.16, 30
GRAIN = np.random.default_rng(0).integers(-12, 12, (64, 64, 1))
"""What a matching needs: a painted cone without it looks alike everywhere."""


DARK = np.full((720, 1280, 3), 3, np.uint8)


def picture(eye):
    """1280x720 with a blue cone, farther left in the right eye."""
    left_px = 640 - (DISPARITY_PX if eye == 'right' else 0)
    bgr = painted(('blue_cone', left_px, 360, 64, 64))
    cone = bgr[360:424, left_px : left_px + 64]
    cone[:] = np.clip(cone.astype(int) + GRAIN, 0, 255)
    return bgr


def camera_info(stamp_ns, baseline_m=0.0, frame_id='left_optical', **changes):
    f = FOCAL_PX
    k, r = [f, 0.0, 640, 0, f, 360, 0, 0, 1], [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
    p = [f, 0.0, 640, -f * baseline_m, 0, f, 360, 0, 0, 0, 1, 0]
    fields = {'width': 1280, 'height': 720, 'distortion_model': 'plumb_bob', 'd': [0.0] * 5}
    message = CameraInfo(**fields | {'k': k, 'r': r, 'p': p} | changes)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id
    return message


class Car:
    """Both eyes of one car, and what its node says of a pair of pictures."""

    def __init__(self, observer, namespace):
        self.observer, self.namespace = observer, namespace
        self.timing = observer.listen(f'{namespace}/detector/timing', DiagnosticArray)
        self.cones = observer.listen(f'{namespace}/detector/cones', Detection3DArray)
        for eye in ('left', 'right'):
            for name, kind in (('image', Image), ('camera_info', CameraInfo)):
                topic = f'{namespace}/{eye}/{name}'
                publisher = observer.publisher(topic, kind)
                wait_for(publisher.get_subscription_count, f'the subscription of {topic}')

    def calibrate(self, eye, *baseline_m, times=1, **changes):
        for _ in range(times):
            message = camera_info(self.observer.next_stamp_ns(), *baseline_m, **changes)
            self.observer.publisher(f'{self.namespace}/{eye}/camera_info', CameraInfo).publish(
                message
            )

    def look(self, *eyes, dark=''):
        """Send a picture of each eye until the node tells of it; returns outcomes and cones."""

        def once():
            stamp_ns = self.observer.next_stamp_ns()
            for eye in eyes:
                # The tiny network finds the cone where the left eye has it.
                bgr = DARK if eye == dark else picture(eye if eyes[1:] else 'left')
                message = ros_message(encode(bgr, 'bgr8'), stamp_ns, f'{eye}_optical')
                self.observer.publisher(f'{self.namespace}/{eye}/image', Image).publish(message)

            def told():
                values = map(values_of, list(self.timing))
                of_these = {v['camera']: v for v in values if v['stamp_ns'] == str(stamp_ns)}
                return of_these if set(of_these) == set(eyes) else None

            records = first_true(told, 1.0)
            if records is None or 'answered' not in {r['outcome'] for r in records.values()}:
                return None
            stamp = divmod(stamp_ns, 10**9)
            heard = [
                m for m in list(self.cones) if (m.header.stamp.sec, m.header.stamp.nanosec) == stamp
            ]
            return SimpleNamespace(records=records, cones=heard[0] if heard else None)

        return wait_for(once, f'an answer to {eyes}')

    def status(self, eye, condition=lambda status: True):
        name = f'{self.namespace.lstrip("/")}/detector: {eye}'
        return self.observer.wait_for_diagnostics(name, condition)


@pytest.fixture(scope='module')
def car(observer, tmp_path_factory):
    given = {'cameras': '[left, right]', 'stereo': 'true', 'stereo_tolerance_ms': '5.0'}
    given |= {'mount_height_m': '0.57', 'mount_pitch_deg': '4.0'}  # the ground agrees
    with running_node(tmp_path_factory, '/metres', {}, **given):
        yield Car(observer, '/metres')


def ahead_m(message):
    (cone,) = message.detections
    return cone.results[0].pose.pose.position.x


def test_boxes_come_without_a_calibration_and_it_is_said_to_be_missing(car):
    seen = car.look('left', 'right')
    assert seen.cones is None
    assert {eye: r['outcome'] for eye, r in seen.records.items()} == {
        'left': 'answered',
        'right': 'matched',
    }
    for eye in ('left', 'right'):
        told = f'no positions: nothing came on /metres/{eye}/camera_info'

        def said(status, told=told):
            # A first picture that got lost leaves an eye without its partner, which is told before.
            return car.look('left', 'right') and told in status.message

        assert car.status(eye, said).level == 1


def test_dark_left_eye_is_told_and_the_right_one_answers_without_a_calibration(car):
    def told(status):
        seen = car.look('left', 'right', dark='left')
        assert {eye: r['outcome'] for eye, r in seen.records.items()} == {
            'left': 'matched',
            'right': 'answered',
        }
        assert seen.records['left']['reason'].startswith('this eye is dark')
        return 'this eye is dark (grey level 3, the other eye ' in status.message

    status = car.status('left', told)
    assert (status.level, status.values['picture (px)']) == (1, '1280x720')
    assert int(status.values['dark']) >= 1
    assert float(status.values['rate out (Hz)']) > 0


def test_pair_with_camera_info_gives_cones_in_metres(car):
    car.calibrate('left')
    car.calibrate('right', BASELINE_M)
    car.status('left', lambda s: s.values.get('baseline (m)') == f'{BASELINE_M:.4f}')
    seen = car.look('left', 'right')
    assert seen.cones.header.frame_id == 'base_footprint'
    depth_m = FOCAL_PX * BASELINE_M / DISPARITY_PX
    assert ahead_m(seen.cones) == pytest.approx(depth_m, abs=0.3)
    assert float(seen.records['left']['locate_ms']) > 0
    status = car.status('left', lambda s: float(s.values['cones: stereo (Hz)']) > 0)
    assert status.values['mounted by'] == 'settings'
    assert int(car.status('right').values['matched']) >= 2


def test_lone_eye_goes_on_by_height(car):
    seen = car.look('right')
    assert seen.records['right']['outcome'] == 'answered'
    assert ahead_m(seen.cones) == pytest.approx(3.6, abs=0.7)
    status = car.status('right', lambda s: float(s.values['cones: height (Hz)']) > 0)
    assert 'no partner' in status.message


def test_only_a_calibration_that_differs_is_a_change(car):
    car.calibrate('right', BASELINE_M, times=30)
    car.calibrate('right', 2 * BASELINE_M)
    status = car.status('right', lambda s: s.values['calibration changed'] != '0')
    assert status.values['calibration changed'] == '1'
    status = car.status('left', lambda s: s.values['baseline (m)'] == f'{2 * BASELINE_M:.4f}')
    assert status.values['calibration changed'] == '0'


def test_contradicting_calibration_is_named_and_one_eye_goes_on(car):
    car.calibrate('right', -BASELINE_M)
    car.status('left', lambda s: s.values['baseline (m)'] == 'none')
    seen = car.look('left', 'right')
    assert ahead_m(seen.cones) == pytest.approx(3.6, abs=0.7)
    # Lone eyes of the test before are told of first, as long as they are recent.
    status = car.status('left', lambda s: 'the eyes are swapped' in s.message)
    assert status.level == 1
    car.calibrate('right', BASELINE_M)
    car.status('left', lambda s: 'swapped' not in s.message)


def test_calibration_of_another_size_costs_the_positions_and_is_named(car):
    car.calibrate('left', width=640, height=360)
    car.calibrate('right', BASELINE_M, width=640, height=360)
    car.status('left', lambda s: s.values['calibration changed'] == '1')

    def named(status):
        seen = car.look('left', 'right')
        assert seen.cones is None
        return 'pictures are 1280x720, but camera_info is for 640x360' in status.message

    assert car.status('left', named).level == 1


TF2_ROS = '''
"""Buffer and TransformListener as tf2_ros documents them, as far as static transforms go."""
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time
from rclpy.qos import DurabilityPolicy, QoSProfile


class TransformException(Exception):
    pass


class LookupException(TransformException):
    pass


class Buffer:
    def __init__(self, cache_time=None, node=None):
        self.known = {}

    def lookup_transform(self, target_frame, source_frame, time, timeout=None):
        assert isinstance(time, Time)
        try:
            return self.known[target_frame, source_frame]
        except KeyError:
            raise LookupException(f'"{source_frame}" does not exist.') from None


class TransformListener:
    def __init__(self, buffer, node, *, spin_thread=False):
        def take(message):
            buffer.known[message.header.frame_id, message.child_frame_id] = message

        self.node = node
        qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_static_sub = node.create_subscription(TransformStamped, '/tf_static', take, qos)

    def unregister(self):
        self.node.destroy_subscription(self.tf_static_sub)
'''


def calibration_of(observer, **settings):
    settings = DetectorSettings(cameras=('mast',), **settings)
    group, horizons = MutuallyExclusiveCallbackGroup(), {'mast': Horizon()}
    return CalibrationListener(observer.node, settings, CLASS_NAMES, horizons, group)


def send_info(observer, calibration, frame_id):
    publisher = observer.publisher('/mast/camera_info', CameraInfo)

    def once():
        publisher.publish(camera_info(observer.next_stamp_ns(), frame_id=frame_id))
        return first_true(lambda: 'mast' in calibration.rigs.locators, 0.2)

    wait_for(once, 'the calibration')


def test_mounting_comes_from_tf_where_the_settings_have_none(observer, tmp_path, monkeypatch):
    (tmp_path / 'tf2_ros.py').write_text(TF2_ROS)
    monkeypatch.syspath_prepend(tmp_path)
    calibration = calibration_of(observer)
    rigs = calibration.rigs
    try:
        send_info(observer, calibration, 'mast_optical')
        told = 'tf does not say where mast_optical stands in base_footprint: LookupException'
        wait_for(lambda: any(told in w for w in rigs.warnings('mast')), 'what tf lacks')
        transform = TransformStamped(child_frame_id='mast_optical')
        transform.header.frame_id = 'base_footprint'
        at, turn = transform.transform.translation, transform.transform.rotation
        at.x, at.y, at.z = -0.5, 0.0, 0.95
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5  # looks straight ahead
        observer.publisher('/tf_static', TransformStamped, LATCHED).publish(transform)
        wait_for(lambda: rigs.notes('mast')['mounted by'] == 'tf', 'the mounting')
        assert rigs.warnings('mast') == []
        mount = rigs.locators['mast'].rig.mount
        assert mount.frame_id == 'base_footprint'
        assert (mount.rotation @ [0, 0, 1]).tolist() == pytest.approx([1, 0, 0])
        assert mount.translation_m.tolist() == [-0.5, 0.0, 0.95]
        # It is not asked any more.
        wait_for(lambda: not observer.node.count_subscribers('/tf_static'), 'the end of listening')
    finally:
        calibration.stop()
        observer.forget('/mast/camera_info')
        observer.forget('/tf_static')
        sys.modules.pop('tf2_ros')


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({}, 'tf2_ros is not installed'),
        ({'mount_from': 'tf', 'mount_height_m': 1.0}, 'and mount_from: settings'),
        ({'mount_from': 'settings'}, 'mount_height_m is 0: set it'),
    ],
)
def test_mounting_that_nobody_tells_is_said_with_what_to_set(observer, settings, says):
    calibration = calibration_of(observer, **settings)
    try:
        send_info(observer, calibration, 'mast_optical')
        (warning,) = calibration.rigs.warnings('mast')
        assert warning.startswith('cones are placed in mast_optical, not in base_footprint: ')
        assert says in warning
    finally:
        calibration.stop()
        observer.forget('/mast/camera_info')


def test_no_tf_is_asked_where_the_settings_tell_the_mounting(observer):
    calibration = calibration_of(observer, mount_height_m=1.0)
    try:
        send_info(observer, calibration, 'mast_optical')
        assert calibration.rigs.warnings('mast') == []
        assert math.isclose(calibration.rigs.locators['mast'].rig.mount.translation_m[2], 1.0)
    finally:
        calibration.stop()
        observer.forget('/mast/camera_info')
