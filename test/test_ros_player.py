"""The player of bags, the monitor and the echo, each in a process of its own, over DDS."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from recorded_drive import at, camera_info, image, write

from cone_perception.bags.reader import (
    CAMERA_INFO,
    DETECTIONS,
    IMAGE,
    BagMessage,
    bag_types,
    header_stamp_ns,
    open_bag,
    read_messages,
    write_image_bag,
)
from cone_perception.errors import SourceError
from cone_perception.replay.drive.frames import DueFrame, ReadAhead, due_frames
from cone_perception.replay.processes import python_job
from cone_perception.replay.ros import player as player_module
from cone_perception.replay.ros.player import (
    InFlight,
    _check_stamps,
    _in_time,
    _lateness,
    _with_recorded_stamps,
)
from cone_perception.replay.traces import Camera, Drive, Pace
from cone_perception.types import Frame

pytestmark = pytest.mark.ros

TOPIC, INFO = '/camera/image', '/camera/camera_info'
START_NS = 1_700_000_000_000_000_000
GAPS_NS = (0, 40_000_000, 240_000_000, 260_000_000)


@pytest.fixture
def start():
    """Starts a module in a process that ends with the test."""
    started = []

    def popen(module, job):
        command = python_job(module, job)
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def bag(tmp_path):
    """Four small pictures at uneven times, told apart by their brightness."""
    frames = [
        Frame(np.full((4, 6, 3), 10 * index, np.uint8), START_NS + gap, 'left')
        for index, gap in enumerate(GAPS_NS)
    ]
    write_image_bag(tmp_path / 'bag', frames, TOPIC)
    return tmp_path / 'bag'


def drive_of(bag):
    return Drive(bag, '', (Camera('front', TOPIC, False),), 4, 0.26, 'mcap')


def play_job(bag, log, pace=Pace(), stamps='header', wait_s=30.0):  # noqa: B008
    return {
        'drive': drive_of(bag), 'pace': pace, 'log': log, 'stamps': stamps, 'wait_s': wait_s,
        'answers': {}, 'timing': None,
    }  # fmt: skip


def read_log(path):
    """Entries of messages; on a busy machine the player's log also tells that it was late."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if 'problem' not in entry]


def play_to_a_monitor(tmp_path, start, job, echoed=(), infos=()):
    """Play and record into `recorded`; logs are `sent` and `received`.

    echoed: topics of detections that are recorded in place of the pictures and camera_info.
    """
    topics = dict.fromkeys(echoed, DETECTIONS) or {TOPIC: IMAGE} | dict.fromkeys(infos, CAMERA_INFO)
    monitor_job = {'out': tmp_path / 'recorded', 'log': tmp_path / 'received', 'topics': topics}
    monitor = start('monitor', monitor_job)
    ready = monitor.stdout.readline() if echoed else ''
    player = start('player', job)
    assert player.wait(40) == 0, player.stderr.read()
    time.sleep(0.5)
    monitor.terminate()
    assert monitor.wait(10) == 0, monitor.stderr.read()
    assert ready + monitor.stdout.read() == 'ready\n'


def test_monitor_records_what_the_player_sends_byte_by_byte(tmp_path, bag, start):
    play_to_a_monitor(tmp_path, start, play_job(bag, tmp_path / 'sent'))
    sent, received = tmp_path / 'sent', tmp_path / 'received'
    with open_bag(bag) as played, open_bag(tmp_path / 'recorded') as recorded:
        before = [message.data for message in read_messages(played, [TOPIC])]
        after = [message.data for message in read_messages(recorded, [TOPIC])]
    assert after == before
    stamps = [header_stamp_ns(data) for data in before]
    assert [entry['stamp_ns'] for entry in read_log(sent)] == stamps
    assert [entry['stamp_ns'] for entry in read_log(received)] == stamps
    for out_entry, back_entry in zip(read_log(sent), read_log(received), strict=True):
        assert out_entry['sent_ns'] < back_entry['received_ns']


@pytest.mark.parametrize('stamps', ['header', 'recorded'])
def test_camera_info_goes_before_each_picture_and_the_first_one_ahead(tmp_path, start, stamps):
    # The calibration changes between the second and the third picture; it was recorded before each.
    widths = (32, 32, 64, 64)
    messages = []
    for index, width in enumerate(widths):
        messages += [(INFO, at(index), camera_info(at(index), width))]
        messages += [(TOPIC, at(index) + 10**6, image(at(index)))]
    bag = write(tmp_path / 'bag', messages)
    job = play_job(bag, tmp_path / 'sent', stamps=stamps)
    play_to_a_monitor(tmp_path, start, job, infos=[INFO])
    with open_bag(tmp_path / 'recorded') as recorded:
        came = [
            (message.topic, bag_types().deserialize_cdr(message.data, message.type_name))
            for message in read_messages(recorded, [TOPIC, INFO])
        ]
    assert came[0][0] == INFO
    infos, images = ([m for topic, m in came if topic == each] for each in (INFO, TOPIC))
    assert [message.width for message in infos] == [32, *widths]
    of_infos, of_images = ([m.header.stamp for m in each] for each in (infos[1:], images))
    assert of_infos == of_images
    late_ns = 10**6 if stamps == 'recorded' else 0
    assert [stamp.nanosec % 10**8 for stamp in of_images] == [late_ns] * 4


@pytest.mark.parametrize('form', ['raw', 'compressed'])
def test_echo_answers_with_the_header_and_nothing_else(tmp_path, start, form):
    stamps = [START_NS + index * 100_000_000 for index in range(6)]
    frames = [Frame(np.zeros((8, 8, 3), np.uint8), stamp, 'front_optical') for stamp in stamps]
    write_image_bag(tmp_path / 'bag', frames, TOPIC, compressed=form == 'compressed')
    camera = Camera('front', TOPIC, form == 'compressed')
    echo = start('echo', {'cameras': [camera]})
    drive = Drive(tmp_path / 'bag', '', (camera,), 6, 0.5, 'mcap')
    job = play_job(tmp_path / 'bag', tmp_path / 'sent') | {'drive': drive}
    play_to_a_monitor(tmp_path, start, job, echoed=['/front/detections'])
    echo.terminate()
    assert echo.wait(10) == 0
    with open_bag(tmp_path / 'recorded') as reader:
        answers = list(read_messages(reader, ['/front/detections']))
    assert len(answers) >= 3, 'best effort: a busy machine may lose some'
    assert {header_stamp_ns(answer.data) for answer in answers} <= set(stamps)
    for answer in answers:
        message = bag_types().deserialize_cdr(answer.data, answer.type_name)
        assert message.header.frame_id == 'front_optical'
        assert len(message.detections) == 0


class Clock:
    """Time that goes on only while somebody sleeps."""

    def __init__(self):
        self.now_ns = 5_000_000_000

    def monotonic_ns(self):
        return self.now_ns

    def sleep(self, for_s):
        self.now_ns += math.ceil(for_s * 1e9)


@pytest.mark.parametrize(
    ('pace', 'expected_ms'),
    [
        (Pace(), (0, 40, 240, 260)),
        (Pace(rate=2.0), (0, 20, 120, 130)),
        (Pace('hz', hz=10), (0, 100, 200, 300)),
        (Pace('fast'), (0, 0, 0, 0)),
    ],
)
def test_each_message_comes_when_it_is_due(bag, monkeypatch, pace, expected_ms):
    clock = Clock()
    monkeypatch.setattr(player_module, 'time', clock)
    started_ns = clock.now_ns
    with ReadAhead(due_frames(drive_of(bag), pace, [])) as ahead:
        came_ns = [clock.now_ns - started_ns for _ in _in_time(ahead, started_ns)]
    assert [ns / 1e6 for ns in came_ns] == pytest.approx(expected_ms, abs=1e-3)


def test_player_that_nobody_hears_says_so(tmp_path, bag, start):
    player = start('player', play_job(bag, tmp_path / 'sent', wait_s=0.5))
    assert player.wait(20) == 1
    assert f'nobody subscribed to {TOPIC}' in player.stderr.read()


def test_player_puts_the_times_of_recording_into_the_stamps(tmp_path, start):
    """Stamps of zero, as of a driver that does not fill them."""
    frames = [Frame(np.full((4, 6, 3), 10 * index, np.uint8)) for index in range(4)]
    write_image_bag(tmp_path / 'bag', frames, TOPIC)
    options = {'pace': Pace('hz', hz=10), 'stamps': 'recorded'}
    play_to_a_monitor(tmp_path, start, play_job(tmp_path / 'bag', tmp_path / 'sent', **options))
    assert [entry['index'] for entry in read_log(tmp_path / 'sent')] == [0, 1, 2, 3]
    with open_bag(tmp_path / 'bag') as reader, open_bag(tmp_path / 'recorded') as recorded:
        played = list(read_messages(reader, [TOPIC]))
        arrived = [message.data for message in read_messages(recorded, [TOPIC])]
    assert [header_stamp_ns(data) for data in arrived] == [each.time_ns for each in played]
    assert [data[12:] for data in arrived] == [each.data[12:] for each in played]


@pytest.mark.parametrize(('flags', 'order'), [(b'\0\1\0\0', 'little'), (b'\0\0\0\0', 'big')])
def test_recorded_stamp_is_written_in_the_order_of_the_message(flags, order):
    old = flags + b'\0' * 8 + b'the rest'
    message = BagMessage(TOPIC, 'sensor_msgs/msg/Image', 7_000_000_009, old)
    (frame,) = _with_recorded_stamps(iter([DueFrame(0, 0, 0, message)]))
    data = frame.message.data
    assert data == flags + (7).to_bytes(4, order) + (9).to_bytes(4, order) + b'the rest'
    assert header_stamp_ns(data) == 7_000_000_009


def test_lateness_is_told_when_more_than_a_twentieth_is_late():
    late_s = [0.025 if index < 2 else 0.019 for index in range(40)]
    assert _lateness(late_s) == []
    (problem,) = _lateness([*late_s, 0.04])
    assert '3 of 41 pictures were sent more than 20 ms late, by up to 40 ms' in problem


def test_equal_stamps_of_one_topic_are_found_early(tmp_path):
    left, right = [], []
    for index in range(10):
        _check_stamps(tmp_path, '/left', left, 5 if index < 9 else 6)
    for _ in range(9):
        _check_stamps(tmp_path, '/right', right, 0)
    with pytest.raises(SourceError, match='/right all have the stamp 0'):
        _check_stamps(tmp_path, '/right', right, 0)


class Flight:
    """An InFlight of cameras a, b, ... without ROS, that never waits long."""

    def __init__(self, limit, cameras, timing=None):
        self.callbacks = {}
        node = SimpleNamespace(create_subscription=self._subscribe)
        topics = {name: f'/{name}' for name in cameras}
        self.flight = InFlight(node, limit, topics, timing)

    def _subscribe(self, kind, topic, callback, *_, **__):
        self.callbacks[topic] = callback

    def send(self, camera, stamp_ns):
        self.flight.wait_for_room(camera)
        self.flight.leave(camera, stamp_ns)

    def is_held_back(self, camera):
        thread = threading.Thread(target=self.flight.wait_for_room, args=[camera], daemon=True)
        thread.start()
        thread.join(0.2)
        return thread.is_alive()

    def answer(self, camera, stamp_ns):
        stamp = stamp_ns.to_bytes(4, 'little')
        self.callbacks[f'/{camera}'](b'\0\1\0\0' + bytes(4) + stamp)


def test_one_camera_has_as_many_in_flight_as_allowed(monkeypatch):
    monkeypatch.setattr(player_module, 'ANSWER_TIMEOUT_S', 60.0)
    flight = Flight(2, 'a')
    flight.send('a', 1)
    assert flight.is_held_back('a'), 'the first one goes alone'
    flight.answer('a', 1)
    flight.send('a', 2)
    flight.send('a', 3)
    assert flight.is_held_back('a')
    flight.answer('a', 2)
    assert not flight.is_held_back('a')


def test_drop_that_the_node_tells_of_makes_room_too(monkeypatch):
    monkeypatch.setattr(player_module, 'ANSWER_TIMEOUT_S', 60.0)
    flight = Flight(1, 'ab', '/timing')
    flight.send('b', 7)
    for camera, held_back in (('a', True), ('b', False)):
        values = {'camera': camera, 'stamp_ns': '7', 'outcome': 'dropped'}
        status = DiagnosticStatus(values=[KeyValue(key=k, value=v) for k, v in values.items()])
        flight.callbacks['/timing'](DiagnosticArray(status=[status]))
        assert flight.is_held_back('b') == held_back


def test_picture_that_is_never_answered_is_given_up_and_told(monkeypatch):
    monkeypatch.setattr(player_module, 'ANSWER_TIMEOUT_S', 0.1)
    flight = Flight(1, 'a')
    flight.send('a', 1)
    flight.send('a', 2)
    assert '1 pictures had no answer' in flight.flight.problems()[0]
    flight.flight.wait_for_all()
    assert '2 pictures had no answer' in flight.flight.problems()[0]
