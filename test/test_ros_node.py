"""One camera, one node in a process of its own: frames, faults, settings, health, lifecycle."""

from __future__ import annotations

import inspect
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from image_messages import ENCODINGS, encode
from node_process import (
    BEST_EFFORT,
    RELIABLE,
    ros_message,
    running_node,
    stamp_ns_of,
    values_of,
    wait_for,
)
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleNodeMixin
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from tiny_network import CLASS_NAMES, painted
from vision_msgs.msg import Detection2DArray

from cone_perception.answering.answer import STATIONS
from cone_perception.bags.reader import detections_of
from cone_perception.ros import diagnostics
from cone_perception.ros.rclpy_repairs import RobustLifecycleNode
from cone_perception.ros.transport import NODE_PROFILE, NODE_SEGMENT_BYTES

pytestmark = pytest.mark.ros

NODE = '/one/detector'
TOPIC = '/one/camera/image'
OK, WARN, ERROR = 0, 1, 2

BLUE_PX = (256, 168, 320, 232)
YELLOW_PX = (640, 360, 704, 424)
"""Left, top, right, bottom in a picture of 1280x720; they fill cells of the tiny network."""

MOMENTS = ('received', 'started', 'prepared', 'inferred', 'decoded', 'located', 'published')


def picture():
    """1280x720 with a blue and a yellow cone."""
    return painted(('blue_cone', *BLUE_PX[:2], 64, 64), ('yellow_cone', *YELLOW_PX[:2], 64, 64))


@pytest.fixture(scope='module')
def node(observer, tmp_path_factory):
    """An active node that listens to TOPIC and has answered once."""
    with running_node(tmp_path_factory, '/one', {}, expected_width_px='640') as process:
        ask_until_answered(observer, 'bgr8')
        yield process


def send(observer, fields, qos=RELIABLE, topic=TOPIC):
    """Send one picture; returns its stamp."""
    stamp_ns = observer.next_stamp_ns()
    message = ros_message(fields, stamp_ns)
    publisher = observer.publisher(topic, type(message), qos)
    wait_for(publisher.get_subscription_count, f'the subscription of {topic}')
    publisher.publish(message)
    return stamp_ns


def answer_of(observer, stamp_ns):
    return observer.answer('/one/camera/detections', stamp_ns)


def ask(observer, fields, qos=RELIABLE):
    """Send one picture and return its answer."""
    observer.listen('/one/camera/detections', Detection2DArray)
    stamp_ns = send(observer, fields, qos)
    return wait_for(lambda: answer_of(observer, stamp_ns), f'an answer to {fields.encoding}')


def ask_until_answered(observer, encoding, qos=RELIABLE):
    """Both sides know each other only some time after they started."""
    observer.listen('/one/camera/detections', Detection2DArray)

    def once():
        stamp_ns = send(observer, encode(picture(), encoding), qos)
        time.sleep(0.1)
        return answer_of(observer, stamp_ns)

    return wait_for(once, 'a first answer')


@contextmanager
def another_participant():
    """A node apart from the observer's: one participant cannot publish two types on a topic."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('other', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


EVERY_RECORD = QoSProfile(depth=1000)
"""~/timing comes in bursts."""


def camera_health(observer, condition=lambda status: True):
    return observer.wait_for_diagnostics('one/detector: camera', condition)


def test_answer_has_the_header_and_the_boxes_of_the_picture(observer, node):
    answer = ask(observer, encode(picture(), 'bgr8'))
    assert answer.header.frame_id == 'camera_link'
    assert all(d.header == answer.header for d in answer.detections)
    found = detections_of(answer, CLASS_NAMES)
    names = [CLASS_NAMES[index] for index in found.class_id]
    assert sorted(names) == ['blue_cone', 'yellow_cone']
    for name, box in zip(names, found.xyxy_px, strict=True):
        np.testing.assert_allclose(box, BLUE_PX if name == 'blue_cone' else YELLOW_PX, atol=0.01)


def test_picture_without_cones_is_answered_with_an_empty_array(observer, node):
    answer = ask(observer, encode(np.full((720, 1280, 3), 114, np.uint8), 'bgr8'))
    assert len(answer.detections) == 0


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_is_answered(observer, node, encoding):
    """Both cones where the encoding carries colour; padded rows, as cameras send them."""
    answer = ask(observer, encode(picture(), encoding, padding=16))
    names = {d.results[0].hypothesis.class_id for d in answer.detections}
    if encoding not in ('mono8', 'mono16', '8UC1', '16UC1'):
        assert names == {'blue_cone', 'yellow_cone'}


def spoilt(**changes):
    return SimpleNamespace(**{**vars(encode(picture(), 'bgr8')), **changes})


@pytest.mark.parametrize(
    ('fields', 'complaint'),
    [
        (spoilt(width=0, height=0, step=0, data=b''), 'no pixels'),
        (spoilt(data=b'\0' * 1000), '1000 bytes of data'),
        (spoilt(step=100), 'step is 100'),
        (spoilt(encoding='made_up'), "'made_up'"),
        (spoilt(height=2**31, width=2**30, step=2**31), 'a row needs'),
    ],
    ids=['zero-sized', 'truncated', 'short step', 'unknown encoding', 'huge'],
)
def test_lying_message_fails_by_name_and_the_next_frame_is_answered(
    observer, node, fields, complaint
):
    stamp_ns = send(observer, fields)
    status = camera_health(observer, lambda s: complaint in s.values['last failure'])
    assert status.level in (WARN, ERROR)
    assert complaint in status.message
    assert int(status.values['failed']) >= 1
    assert answer_of(observer, stamp_ns) is None, 'an empty answer would say: no cones'
    assert len(ask(observer, encode(picture(), 'bgr8')).detections) == 2
    assert node.is_alive()


@pytest.mark.parametrize('qos', [BEST_EFFORT, RELIABLE], ids=['best effort', 'reliable'])
def test_raw_720p_arrives_from_both_kinds_of_publishers(observer, node, qos):
    # Most of them, not all: a busy machine drops some. Without the profile, best effort brings
    # next to none.
    ask_until_answered(observer, 'bgr8', qos)
    stamps = []
    for _ in range(30):
        stamps.append(send(observer, encode(picture(), 'bgr8'), qos))
        time.sleep(0.07)
    wait_for(lambda: answer_of(observer, stamps[-1]), 'the last answer')
    assert sum(answer_of(observer, stamp_ns) is not None for stamp_ns in stamps) >= 20


def test_transport_profile_was_loaded(observer, node):
    """Fast DDS's own segment is half a MiB."""
    assert max(node.shared_memory().values()) > NODE_SEGMENT_BYTES
    status = observer.wait_for_diagnostics('one/detector: node', lambda s: True)
    assert status.values['transport profile'] == str(NODE_PROFILE)


def test_station_times_of_each_frame_are_published(observer, node):
    timing = observer.listen(f'{NODE}/timing', DiagnosticArray, EVERY_RECORD)
    wait_for(lambda: ask(observer, encode(picture(), 'bgr8')) and timing, 'a first timing')
    answer = ask(observer, encode(picture(), 'bgr8'))
    stamp_ns = stamp_ns_of(answer)
    messages = wait_for(lambda: [m for m in list(timing) if stamp_ns_of(m) == stamp_ns], 'it')
    values = values_of(messages[0])
    assert values['camera'] == 'camera'
    assert int(values['stamp_ns']) == stamp_ns
    parts = [float(values[f'{name}_ms']) for name in STATIONS]
    assert min(parts) >= 0
    assert float(values['total_ms']) == pytest.approx(sum(parts), abs=0.01)
    assert float(values['age_ms']) >= 0
    assert (values['outcome'], values['reason']) == ('answered', '')
    moments = [int(values[f'{name}_ns']) for name in MOMENTS]
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] == pytest.approx(float(values['total_ms']) * 1e6, abs=1000)


def test_every_frame_that_was_received_is_told_of_once(observer, node):
    """More than the node can answer, and one that cannot be read."""
    timing = observer.listen(f'{NODE}/timing', DiagnosticArray, EVERY_RECORD)

    def told_of(stamp_ns):
        return [values_of(message) for message in list(timing) if stamp_ns_of(message) == stamp_ns]

    wait_for(lambda: ask(observer, encode(picture(), 'bgr8')) and timing, 'a first timing')
    small = encode(picture()[:64, :64], 'bgr8')
    # What was sent again while the first was asked for has arrived when nothing comes any more.
    quiet = camera_health(observer, lambda health: float(health.values['rate in (Hz)']) == 0)
    timing.clear()
    received = int(quiet.values['received'])
    stamps = [send(observer, small) for _ in range(100)]
    broken = send(observer, spoilt(encoding='made_up'))
    wait_for(lambda: told_of(broken), 'the record of the broken one')
    stamps.append(stamp_ns_of(ask(observer, small)))
    wait_for(lambda: told_of(stamps[-1]), 'the last record')
    (record,) = told_of(broken)
    assert record['outcome'] == 'failed'
    assert "'made_up'" in record['reason']
    moments = [key for key in record if key.endswith('_ns')]
    assert moments == ['stamp_ns', 'received_ns', 'started_ns']
    assert max(len(told_of(stamp_ns)) for stamp_ns in stamps) == 1
    counted = ('answered', 'dropped', 'failed')

    def all_told(health) -> bool:
        """Pictures that were sent again while one was asked for may come after the last answer."""
        values = {name: int(health.values[name]) for name in ('received', *counted)}
        all_counted = values['received'] == sum(values[name] for name in counted)
        return all_counted and values['received'] - received == len(timing) > 1

    camera_health(observer, all_told)


def test_health_names_engine_model_rates_and_latencies(observer, node):
    for _ in range(5):
        ask(observer, encode(picture(), 'bgr8'))
    values = observer.wait_for_diagnostics('one/detector: node', lambda s: s.level == OK).values
    assert values['state'] == 'active'
    assert 'CPU' in values['engine']
    assert len(values['model sha256']) == 64
    values = camera_health(observer).values
    assert float(values['rate in (Hz)']) > 0
    assert float(values['rate out (Hz)']) > 0
    assert int(values['received']) >= int(values['answered']) + int(values['failed'])
    for station in ('age', *STATIONS, 'total'):
        assert float(values[f'{station}_ms p50']) <= float(values[f'{station}_ms p99'])


def test_stamps_of_another_day_give_no_age(observer, node):
    message = ros_message(encode(picture(), 'bgr8'), stamp_ns=1_600_000_000 * 10**9)
    timing = observer.listen(f'{NODE}/timing', DiagnosticArray, EVERY_RECORD)
    observer.publisher(TOPIC, Image).publish(message)
    found = wait_for(lambda: [m for m in list(timing) if m.header.stamp.sec == 1_600_000_000], 'it')
    assert 'age_ms' not in values_of(found[0])


def test_small_pictures_are_warned_of(observer, node):
    small = encode(picture()[::4, ::4], 'bgr8')

    def warned(status):
        """Failures of the tests before come first in the message, as long as they are recent."""
        ask(observer, small)
        return 'smaller than the expected' in status.message

    status = camera_health(observer, warned)
    assert status.level == WARN
    assert '320x180' in status.message


@pytest.mark.parametrize(
    ('name', 'value', 'seen'),
    [
        ('classes', ['yellow_cone'], {'yellow_cone'}),
        ('thresholds', ['blue_cone:1.0', 'yellow_cone:0.9'], {'blue_cone', 'yellow_cone'}),
        ('region', [0.0, 0.0, 0.4, 0.0, 0.4, 1.0, 0.0, 1.0], {'blue_cone'}),
        ('min_height_px', 65.0, set()),
        ('max_height_px', 63.0, set()),
    ],
)
def test_live_setting_changes_the_next_answer(observer, node, name, value, seen):
    neutral = 0.0 if isinstance(value, float) else ['']
    if name == 'region':
        neutral = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert observer.set_parameter(NODE, name, value) == ''
    try:
        answer = ask(observer, encode(picture(), 'bgr8'))
    finally:
        assert observer.set_parameter(NODE, name, neutral) == ''
    assert {d.results[0].hypothesis.class_id for d in answer.detections} == seen
    assert len(ask(observer, encode(picture(), 'bgr8')).detections) == 2


@pytest.mark.parametrize(
    ('name', 'value', 'complaint'),
    [
        ('model', '/another', 'read-only'),
        ('cameras', ['left'], 'read-only'),
        ('silence_s', 1.0, 'read-only'),
        ('min_height_px', -1.0, 'min_height_px'),
        ('min_height_px', 'tall', 'min_height_px'),
        ('thresholds', ['blue_cone:2'], 'blue_cone'),
        ('thresholds', ['green_cone:0.5'], 'green_cone'),
        ('classes', ['green_cone'], 'green_cone'),
        ('region', [0.0, 0.0, 1.0, 1.0], 'three corners'),
        ('modle', '/another', 'modle'),
    ],
)
def test_wrong_setting_is_refused_by_name(observer, node, name, value, complaint):
    assert complaint in observer.set_parameter(NODE, name, value)
    assert len(ask(observer, encode(picture(), 'bgr8')).detections) == 2


def test_parameters_carry_description_and_range(observer, node):
    descriptor = observer.describe_parameter(NODE, 'max_height_px')
    assert 'boxes higher' in descriptor.description
    assert descriptor.floating_point_range[0].to_value == 16384
    assert not descriptor.read_only
    descriptor = observer.describe_parameter(NODE, 'engine')
    assert 'openvino' in descriptor.additional_constraints
    assert descriptor.read_only


def test_debug_picture_comes_only_while_it_is_wanted(observer, node):
    topic = '/one/camera/debug_image'
    heard = []
    subscription = observer.node.create_subscription(Image, topic, heard.append, RELIABLE)
    try:
        wait_for(lambda: ask(observer, encode(picture(), 'bgr8')) and heard, 'a debug picture')
        message = heard[-1]
        assert (message.width, message.height, message.encoding) == (1280, 720, 'bgr8')
        assert message.header.frame_id == 'camera_link'
        drawn = np.frombuffer(message.data, np.uint8).reshape(720, 1280, 3)
        assert (drawn != picture()).any()
        assert observer.set_parameter(NODE, 'debug_image', False) == ''
        answers = [ask(observer, encode(picture(), 'bgr8')) for _ in range(3)]
        # One of a picture from before may still be on its way.
        assert not {stamp_ns_of(m) for m in heard} & {stamp_ns_of(a) for a in answers}
    finally:
        observer.set_parameter(NODE, 'debug_image', True)
        observer.node.destroy_subscription(subscription)


def test_silent_camera_is_explained(observer, node):
    """Each reason in turn: nobody there, another type, and a publisher that never sends."""
    observer.forget(TOPIC)
    status = camera_health(observer, lambda s: 'nobody publishes' in s.message)
    assert status.level == ERROR
    assert TOPIC in status.message
    with another_participant() as other:
        other.create_publisher(CompressedImage, TOPIC, RELIABLE)
        status = camera_health(observer, lambda s: 'CompressedImage' in s.message)
        assert 'transport' in status.message
    observer.publisher(TOPIC, Image, BEST_EFFORT)
    status = camera_health(observer, lambda s: 'nothing arrives' in s.message)
    assert 'fastdds_shared_memory.xml' in status.message
    ask_until_answered(observer, 'bgr8')
    camera_health(observer, lambda s: 'no frame' not in s.message)


def test_shared_memory_too_small_for_a_silent_camera_is_named(monkeypatch):
    named = {'node_namespace': '/', 'node_name': 'zed', 'topic_type': 'sensor_msgs/msg/Image'}
    offered = SimpleNamespace(**named, qos_profile=RELIABLE)
    graph = SimpleNamespace(get_publishers_info_by_topic=lambda topic: [offered])
    monkeypatch.setattr(diagnostics, 'shared_memory_shortage', lambda: '/dev/shm has 64 MiB')
    reason = diagnostics.why_silent(graph, TOPIC, 'sensor_msgs/msg/Image', BEST_EFFORT)
    assert '/dev/shm has 64 MiB' in reason


def test_lifecycle_goes_down_and_up_again(observer, node):
    assert observer.state(NODE) == 'active'
    assert observer.change_state(NODE, 'deactivate')
    assert not observer.change_state(NODE, 'deactivate'), 'an impossible transition is refused'
    assert observer.state(NODE) == 'inactive'
    assert observer.change_state(NODE, 'cleanup')
    status = observer.wait_for_diagnostics(
        'one/detector: node', lambda s: s.values['state'] == 'unconfigured'
    )
    assert 'engine' not in status.values
    assert observer.change_state(NODE, 'configure')
    assert observer.change_state(NODE, 'activate')
    assert len(ask_until_answered(observer, 'bgr8').detections) == 2


def test_what_rclpy_lacks_is_still_lacking(repository):
    """When this fails, delete from ros/rclpy_repairs.py what rclpy does by itself."""
    assert 'destroy_node' not in vars(LifecycleNode) | vars(LifecycleNodeMixin)
    refuses = 'RCLError' in inspect.getsource(LifecycleNodeMixin._LifecycleNodeMixin__change_state)
    assert refuses != ('_LifecycleNodeMixin__change_state' in vars(RobustLifecycleNode))
    supported = (repository / 'README.md').read_text()
    assert 'Humble' in supported or 'Jazzy' in supported, 'Kilted refuses transitions by itself'
