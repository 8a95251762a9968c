"""A drive through the pipeline: what becomes of each picture, by a clock that the test sets."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from recorded_drive import at, frame_at, image, pictures, serialised, write

from cone_perception.bags.reader import IMAGE, BagMessage, bag_types, camera_info_message
from cone_perception.engines import EngineInfo
from cone_perception.errors import EngineError, EngineLostError
from cone_perception.model_card import ModelCard, NetworkFile
from cone_perception.pipeline import ConeDetector
from cone_perception.positions.camera import CameraInfo
from cone_perception.replay import through_pipeline as pipeline_way
from cone_perception.replay.drive import frames as frames_module
from cone_perception.replay.drive.frames import DueFrame, ReadAhead
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.through_pipeline import play_through_pipeline
from cone_perception.replay.traces import Pace
from cone_perception.settings import DetectorSettings

LEFT, RIGHT = '/camera/left/image', '/camera/right/image'
CARD = ModelCard(
    name='slow',
    class_names=('cone',),
    height_px=32,
    width_px=32,
    output_layout='end_to_end',
    thresholds={'cone': 0.5},
    networks=(NetworkFile('n.onnx', '0' * 64, 'fp32', 'float', 1),),
    licence='Apache-2.0',
)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now_ns = 10**12

    def monotonic_ns(self):
        return self.now_ns

    perf_counter_ns = monotonic_ns

    def sleep(self, seconds):
        self.now_ns += round(seconds * 1e9)

    def advance_ms(self, ms):
        self.now_ns += round(ms * 1e6)


class SlowEngine:
    """Finds one cone in each picture, after some milliseconds of the clock."""

    def __init__(self, clock, ms=0.0, batch=1, fail=None):
        self.info = EngineInfo('test', 'cpu', 'fp32', (batch, 3, 32, 32), (batch, 1, 6), '0' * 64)
        self.clock, self.ms, self.fail = clock, ms, fail or {}
        self.runs = 0

    def run(self, pictures):
        self.clock.advance_ms(self.ms)
        self.runs += 1
        if error := self.fail.get(self.runs):
            raise error
        return np.tile(np.array([[4, 4, 8, 12, 0.9, 0]], np.float32), (len(pictures), 1, 1))

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (pipeline_way, frames_module):
        monkeypatch.setattr(module, 'time', clock)
    for module in ('pipeline', 'answering.answer'):
        monkeypatch.setattr(f'cone_perception.{module}.time', clock)
    return clock


@pytest.fixture
def play(tmp_path, clock):
    """Plays a number of pictures, or these messages, with such an engine."""

    def play(messages, pace, settings=None, **engine):
        """Its runs are counted from after the warm-up, which is the first."""
        if isinstance(messages, int):
            messages = pictures(indices=range(messages))
        bag = tmp_path / 'bag'
        drive = open_drive(bag if bag.exists() else write(bag, messages))
        fail = {run + 1: error for run, error in engine.pop('fail', {}).items()}
        detector = ConeDetector(CARD, SlowEngine(clock, fail=fail, **engine))
        return play_through_pipeline(drive, pace, detector, settings or DetectorSettings())

    return play


def answered(played, camera='camera'):
    return [f.index for f in played.frames if f.fate == 'answered' and f.camera == camera]


def test_newest_picture_is_taken_and_those_it_replaced_are_dropped(play):
    played = play(10, Pace(), ms=250)
    # One every 100 ms, answers at 250, 500, 750, 1000 and 1250 ms.
    assert answered(played) == [0, 2, 5, 7, 9]
    assert [f.fate for f in played.frames if f.index not in (0, 2, 5, 7, 9)] == ['dropped'] * 5
    assert [f.index for f in played.frames] == list(range(10))
    latencies_ms = [f.latency_ms for f in played.frames if f.fate == 'answered']
    assert latencies_ms == [250, 300, 250, 300, 350]
    assert not played.interrupted
    assert played.problems == ()


def test_moments_of_an_answer_come_in_their_order_and_make_sense_without_ros(play):
    _, second = play(2, Pace(), ms=150).frames
    stations = dict(second.stations_ms())
    assert stations == {
        'transport_in': 0,
        'wait': 50,  # the first one takes 150 ms, the second comes after 100 ms
        'preprocess': 0,
        'inference': 150,
        'decode': 0,
        'locate': 0,
        'publish': 0,
    }
    assert second.own_cost_ms == 50
    assert second.returned_ns is None
    assert second.stamp_ns == at(1)
    assert second.found.xyxy_px.shape == (1, 4)
    assert [sample.who for sample in play(2, Pace()).load if sample.who != 'gpu']


def test_detector_that_is_fast_enough_answers_all(play):
    assert answered(play(10, Pace(rate=2.0), ms=50)) == list(range(10))
    assert answered(play(10, Pace(rate=4.0), ms=50)) == [0, 2, 4, 6, 8, 9]


def test_fast_pace_drops_nothing_and_waits_for_nothing(play):
    played = play(10, Pace('fast'), ms=250)
    assert answered(played) == list(range(10))
    assert {f.latency_ms for f in played.frames} == {250}


def test_one_camera_does_not_push_out_the_other(play):
    messages = [m for i in range(4) for m in pictures(LEFT, [i]) + pictures(RIGHT, [i + 0.5])]
    played = play(messages, Pace(), ms=90)
    # The two come 50 ms apart and each costs 90 ms: they take turns, each misses some of its own.
    assert len(answered(played, 'left')) >= 3
    assert len(answered(played, 'right')) >= 3
    assert len(played.frames) == 8


def test_engine_for_two_pictures_gets_both_cameras_together(play):
    messages = [m for i in range(3) for m in pictures(LEFT, [i]) + pictures(RIGHT, [i])]
    for pace in (Pace(), Pace('fast')):
        played = play(messages, pace, ms=20, batch=2)
        assert answered(played, 'left') == answered(played, 'right') == [0, 1, 2]
        left, right = played.frames[0], played.frames[1]
        assert (left.inferred_ns, left.camera) == (right.inferred_ns, 'left')


def test_last_picture_without_its_partner_is_not_forgotten(play):
    messages = [*pictures(LEFT, [0]), *pictures(RIGHT, [0]), *pictures(LEFT, [1])]
    played = play(messages, Pace(), batch=2)
    assert [f.fate for f in played.frames] == ['answered', 'answered', 'dropped']
    assert 'other camera' in played.frames[2].reason


def test_pictures_that_cannot_be_decoded_fail_with_the_reason_and_the_rest_goes_on(play):
    messages = pictures(indices=range(4))
    messages[1] = (messages[1][0], messages[1][1], image(at(1), encoding='32FC1'))
    messages[2] = (messages[2][0], messages[2][1], messages[2][2][:50])
    played = play(messages, Pace())
    assert [f.fate for f in played.frames] == ['answered', 'failed', 'failed', 'answered']
    assert "encoding '32FC1'" in played.frames[1].reason
    assert 'the message is damaged' in played.frames[2].reason
    assert played.frames[1].found is None
    assert played.frames[1].latency_ms is None


def test_engine_that_fails_once_costs_that_picture_only(play):
    played = play(4, Pace(), fail={2: EngineError('no luck'), 3: ValueError('bad')})
    assert [f.fate for f in played.frames] == ['answered', 'failed', 'failed', 'answered']
    assert [f.reason for f in played.frames[1:3]] == ['no luck', 'ValueError: bad']


def test_engine_that_is_lost_ends_the_pass_and_says_so(play):
    played = play(6, Pace('fast'), fail={3: EngineLostError('the GPU hangs')})
    assert [f.fate for f in played.frames] == ['answered', 'answered', 'failed']
    assert played.interrupted
    assert played.problems == ('the replay ends early: the GPU hangs',)


@pytest.mark.parametrize('pace', [Pace(), Pace('fast')])
def test_interrupt_leaves_what_was_seen(play, pace):
    played = play(6, pace, fail={4: KeyboardInterrupt()})
    assert played.interrupted
    assert [f.fate for f in played.frames] == ['answered'] * 3
    assert play(6, pace, fail={0: KeyboardInterrupt()}).frames == []


def test_disk_that_is_too_slow_is_named_and_not_counted_as_latency(tmp_path, clock, monkeypatch):
    drive = open_drive(write(tmp_path / 'bag', pictures(indices=range(6))))

    def slow_frames(*_):
        for index in range(6):
            clock.advance_ms(300)
            message = BagMessage('/camera/image', IMAGE, at(index), image(at(index)))
            yield DueFrame(0, index, index * 10**6, message)

    monkeypatch.setattr(pipeline_way, 'due_frames', slow_frames)
    monkeypatch.setattr(pipeline_way, 'ReadAhead', partial(ReadAhead, most_bytes=1))
    played = play_through_pipeline(
        drive, Pace(), ConeDetector(CARD, SlowEngine(clock)), DetectorSettings()
    )
    assert len(played.frames) == 6
    assert 'were read later than they were due' in played.problems[0]
    sent_ns = [f.sent_ns for f in played.frames]
    assert sent_ns[5] - sent_ns[4] == sent_ns[4] - sent_ns[3] == 300 * 10**6


class CountedBytes(bytes):
    """Knows how many of its kind are alive."""

    alive = 0
    most = 0

    def __new__(cls, *arguments):
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, *arguments)

    def __del__(self):
        CountedBytes.alive -= 1


@pytest.mark.parametrize('pace', [Pace(), Pace('fast')])
def test_messages_alive_do_not_grow_with_the_bag(tmp_path, clock, monkeypatch, pace):
    drive = open_drive(write(tmp_path / 'bag', pictures(indices=range(2))))
    size = len(image(at(0)))

    def long_drive(*_):
        for index in range(600):
            data = CountedBytes(image(at(index)))
            message = BagMessage('/camera/image', IMAGE, at(index), data)
            del data
            yield DueFrame(0, index, index * 10**8, message)
            del message

    CountedBytes.alive = CountedBytes.most = 0
    monkeypatch.setattr(pipeline_way, 'due_frames', long_drive)
    monkeypatch.setattr(pipeline_way, 'ReadAhead', partial(ReadAhead, most_bytes=5 * size))
    detector = ConeDetector(CARD, SlowEngine(clock, ms=250))
    played = play_through_pipeline(drive, pace, detector, DetectorSettings())
    assert len(played.frames) == 600
    # Five wait, one is being read, one is next, one waits for the detector, one is inside it.
    assert CountedBytes.most <= 9
    assert CountedBytes.alive == 0


def infos(topic, baseline_m, indices=range(3)):
    """camera_info of a camera of 32x24 with a focal length of 20 px, before each picture."""
    k, p = (20.0, 0, 16, 0, 20, 12, 0, 0, 1), (20.0, 0, 16, -20 * baseline_m, 0, 20, 12, 0)
    info = CameraInfo(32, 24, 'plumb_bob', (0.0,) * 5, k, tuple(np.eye(3).flat), (*p, 0, 0, 1, 0))
    made = (camera_info_message(bag_types(), frame_at(at(index)), info) for index in indices)
    return [(topic, at(index), serialised(each)) for index, each in zip(indices, made, strict=True)]


def test_stereo_rig_is_searched_in_its_left_eye_and_placed_by_the_bags_camera_info(play):
    eyes = [*pictures(LEFT, range(3)), *pictures(RIGHT, range(3))]
    told = [*infos('/camera/left/camera_info', 0.0), *infos('/camera/right/camera_info', 0.1)]
    settings = DetectorSettings(cameras=('left', 'right'), stereo=True)
    played = play([*told, *eyes], Pace(), settings)
    assert {(f.camera, f.fate) for f in played.frames} == {
        ('left', 'answered'),
        ('right', 'matched'),
    }
    for frame in played.frames[::2]:
        assert (len(frame.positions), frame.positions.frame_id) == (1, 'camera')
        assert frame.answered_ns == frame.located_ns >= frame.decoded_ns
    assert played.health['left']['baseline (m)'] == '0.1000'
    assert played.health['left']['calibration changed'] == '0'


def test_camera_info_that_is_missing_or_damaged_costs_the_positions_and_is_told(play):
    eyes = [*pictures(LEFT, range(3)), *pictures(RIGHT, range(3))]
    told = [(topic, ns, data[:40]) for topic, ns, data in infos('/camera/left/camera_info', 0.0)]
    settings = DetectorSettings(cameras=('left', 'right'), stereo=True)
    played = play([*told, *eyes], Pace(), settings)
    assert [f.fate for f in played.frames[::2]] == ['answered'] * 3
    assert [f.positions for f in played.frames] == [None] * 6
    assert any('/camera/left/camera_info: the message is damaged' in p for p in played.problems)
    assert 'nothing came on /camera/right/camera_info' in played.health['right']['message']
