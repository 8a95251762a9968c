"""Two cameras: a stereo pair as one batch, each by itself, and side by side in one topic."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from image_messages import compressed, encode
from node_process import (
    BEST_EFFORT,
    RELIABLE,
    first_true,
    ros_message,
    running_node,
    values_of,
    wait_for,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from tiny_network import painted
from vision_msgs.msg import Detection2DArray

pytestmark = pytest.mark.ros

MS = 1_000_000


def picture(class_name):
    """640x360 with one cone."""
    return painted((class_name, 128, 84, 32, 32), height_px=360, width_px=640)


def classes_of(answer):
    return [d.results[0].hypothesis.class_id for d in answer.detections]


class Pair:
    """Sends left pictures with a blue cone and right ones with a yellow cone."""

    def __init__(self, observer, namespace):
        self.observer, self.namespace = observer, namespace
        for side in ('left', 'right'):
            observer.listen(f'{namespace}/{side}/detections', Detection2DArray)
            publisher = observer.publisher(f'{namespace}/{side}/image', Image)
            wait_for(publisher.get_subscription_count, f'the subscription of {side}')
        self.timing = observer.listen(f'{namespace}/detector/timing', DiagnosticArray)

    def send(self, side, stamp_ns):
        bgr = picture('blue_cone' if side == 'left' else 'yellow_cone')
        message = ros_message(encode(bgr, 'bgr8'), stamp_ns, f'{side}_frame')
        self.observer.publisher(f'{self.namespace}/{side}/image', Image).publish(message)
        return stamp_ns

    def answer(self, side, stamp_ns):
        return self.observer.answer(f'{self.namespace}/{side}/detections', stamp_ns)

    def wait(self, side, stamp_ns):
        return wait_for(lambda: self.answer(side, stamp_ns), f'the answer of {side}')

    def greet(self):
        """Until both sides have answered and their times were heard, once."""

        def once():
            stamp_ns = self.observer.next_stamp_ns()
            self.send('left', stamp_ns)
            self.send('right', stamp_ns)
            return first_true(lambda: all(self.times(s, stamp_ns) for s in ('left', 'right')), 0.5)

        wait_for(once, 'first answers')

    def times(self, camera, stamp_ns):
        """Station times of one frame, or None."""
        for message in list(self.timing):
            values = values_of(message)
            if (values['camera'], int(values['stamp_ns'])) == (camera, stamp_ns):
                return values
        return None


def node_of(namespace, bundle, **parameters):
    """A fixture: a node of two cameras, which all tests of the file share."""

    @pytest.fixture(scope='module')
    def running(observer, tmp_path_factory):
        given = {'cameras': '[left, right]', **parameters}
        with running_node(tmp_path_factory, namespace, bundle, **given) as process:
            yield process

    return running


stereo = node_of(
    '/stereo', {'batch': 2}, batch='2', stereo_tolerance_ms='5.0', reliability='reliable'
)
each = node_of('/each', {}, image_topics='[/each/raw, /each/jpeg/compressed]', engine='onnxruntime')
halves = node_of(
    '/halves',
    {'layout': 'anchors'},
    side_by_side='true',
    image_topics='[/halves/stereo/compressed]',
    use_sim_time='true',
)


def test_publisher_with_incompatible_qos_is_named(observer, stereo):
    topic = '/stereo/left/image'
    observer.publisher(topic, Image, BEST_EFFORT)
    status = observer.wait_for_diagnostics(
        'stereo/detector: left', lambda s: '/observer offers best_effort' in s.message
    )
    assert status.level == 2
    assert 'but reliable' in status.message
    assert 'setting reliability' in status.message
    observer.forget(topic)


def test_pair_within_the_tolerance_is_one_batch(observer, stereo):
    pair = Pair(observer, '/stereo')
    pair.greet()
    stamp_ns = observer.next_stamp_ns()
    pair.send('left', stamp_ns)
    pair.send('right', stamp_ns + 4 * MS)
    left, right = pair.wait('left', stamp_ns), pair.wait('right', stamp_ns + 4 * MS)
    assert (classes_of(left), classes_of(right)) == (['blue_cone'], ['yellow_cone'])
    assert (left.header.frame_id, right.header.frame_id) == ('left_frame', 'right_frame')
    # One run of the network served both: to the microsecond the same time.
    times = wait_for(lambda: pair.times('left', stamp_ns), 'times')
    others = wait_for(lambda: pair.times('right', stamp_ns + 4 * MS), 'times')
    assert times['inference_ms'] == others['inference_ms']


def test_frames_outside_the_tolerance_are_answered_alone_and_warned_of(observer, stereo):
    pair = Pair(observer, '/stereo')
    pair.greet()
    stamp_ns = observer.next_stamp_ns()
    pair.send('left', stamp_ns)
    pair.send('right', stamp_ns + 8 * MS)
    assert classes_of(pair.wait('left', stamp_ns)) == ['blue_cone']
    pair.send('left', stamp_ns + 16 * MS)
    assert classes_of(pair.wait('right', stamp_ns + 8 * MS)) == ['yellow_cone']
    status = observer.wait_for_diagnostics(
        'stereo/detector: left', lambda s: 'partner' in s.message
    )
    assert status.level == 1


def test_each_camera_runs_by_itself_with_batch_1(observer, each):
    sources = {
        'left': ('/each/raw', Image, encode(picture('blue_cone'), 'bgr8')),
        'right': ('/each/jpeg/compressed', CompressedImage, compressed(picture('yellow_cone'))),
    }
    for side, (topic, message_type, fields) in sources.items():
        publisher = observer.publisher(topic, message_type)
        wait_for(publisher.get_subscription_count, f'the subscription of {side}')
        answers = observer.listen(f'/each/{side}/detections', Detection2DArray)

        def once(publisher=publisher, fields=fields, answers=answers):
            publisher.publish(ros_message(fields, observer.next_stamp_ns()))
            time.sleep(0.1)
            return list(answers)

        names = classes_of(wait_for(once, f'an answer of {side}, the other being silent')[-1])
        assert names == ['blue_cone' if side == 'left' else 'yellow_cone']
    values = observer.wait_for_diagnostics('each/detector: node', lambda s: True).values
    assert 'ONNX Runtime' in values['engine']


def side_by_side(left, right):
    """2560x720 JPEG."""
    wide = np.concatenate([picture(left), picture(right)], axis=1)
    return compressed(cv2.resize(wide, (2560, 720), interpolation=cv2.INTER_NEAREST))


def test_both_halves_are_answered_with_the_header_of_the_picture(observer, halves):
    topics = ('/halves/left/detections', '/halves/right/detections')
    for topic in topics:
        observer.listen(topic, Detection2DArray)
    publisher = observer.publisher('/halves/stereo/compressed', CompressedImage)
    wait_for(publisher.get_subscription_count, 'the subscription')

    def once():
        stamp_ns = observer.next_stamp_ns()
        message = ros_message(side_by_side('blue_cone', 'yellow_cone'), stamp_ns, 'stereo')
        publisher.publish(message)
        answers = [lambda t=t: observer.answer(t, stamp_ns) for t in topics]
        return all(first_true(a, 0.5) for a in answers) and [a() for a in answers]

    left, right = wait_for(once, 'both answers')
    assert (classes_of(left), classes_of(right)) == (['blue_cone'], ['yellow_cone'])
    assert left.header.frame_id == right.header.frame_id == 'stereo'
    for answer in (left, right):
        box = answer.detections[0].bbox
        assert (box.center.position.x, box.center.position.y) == pytest.approx((288, 200), abs=1)


def test_corrupt_jpeg_fails_by_name_for_both_cameras(observer, halves):
    fields = side_by_side('blue_cone', 'yellow_cone')
    fields.data = fields.data[: len(fields.data) // 2]
    publisher = observer.publisher('/halves/stereo/compressed', CompressedImage)
    publisher.publish(ros_message(fields, observer.next_stamp_ns()))
    for camera in ('left', 'right'):
        status = observer.wait_for_diagnostics(
            f'halves/detector: {camera}', lambda s: 'Premature end' in s.values['last failure']
        )
        assert int(status.values['failed']) == 1


def test_age_is_told_in_the_time_of_the_players_clock(observer, halves):
    """A bag of long ago, 20 ms behind its own clock."""
    long_ago_s = 1_500_000_000
    timing = observer.listen('/halves/detector/timing', DiagnosticArray)
    clock = observer.publisher('/clock', Clock, RELIABLE)
    images = observer.publisher('/halves/stereo/compressed', CompressedImage)
    fields = side_by_side('blue_cone', 'yellow_cone')
    wait_for(clock.get_subscription_count, 'the subscription of /clock')

    def once():
        message = Clock()
        message.clock.sec, message.clock.nanosec = long_ago_s, 20 * MS
        clock.publish(message)
        images.publish(ros_message(fields, long_ago_s * 10**9))
        values = [values_of(m) for m in list(timing) if m.header.stamp.sec == long_ago_s]
        return next((v for v in values if 'age_ms' in v), None)

    assert wait_for(once, 'a frame with an age')['age_ms'] == '20.000'
