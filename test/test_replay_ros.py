"""A drive through the node and back: what becomes of each picture, and planted faults."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_drive import serialised, write
from tiny_network import CLASS_NAMES, painted, write_tiny_bundle

from cone_perception.bags.cones3d import MessageCones
from cone_perception.bags.reader import bag_types, image_message, write_image_bag
from cone_perception.detect import open_detector
from cone_perception.errors import SourceError
from cone_perception.filters import Filters
from cone_perception.model_card import read_bundle
from cone_perception.replay.drive.open import open_drive
from cone_perception.replay.figures.accuracy import answer_pictures
from cone_perception.replay.processes import (
    NodeCommand,
    ProcessError,
    echo_node,
    our_node,
    private_domain,
)
from cone_perception.replay.through_pipeline import play_through_pipeline
from cone_perception.replay.through_ros import Answers, find_fates, play_through_ros
from cone_perception.replay.traces import Camera, Drive, Pace
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame, Positions
from training.simulate.bag import drive_frames
from training.simulate.scene import SimulateSettings

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
EVERY_FRAME = {'device': 'cpu', 'reliability': 'reliable', 'queue_depth': '10', 'streams': '1'}
"""So that DDS loses none, however busy the machine is, and the network has one at a time."""


def picture():
    return painted(('blue_cone', 32, 32, 8, 8), height_px=96, width_px=160)


def write_drive(path, lengths, compressed=False, stamped=True, spoilt=(), storage='mcap'):
    """A bag with a camera for each name -> number of pictures, 10 a second.

    spoilt: (camera, index) whose data is cut off.
    """
    suffix = '/compressed' if compressed else ''
    topics = {name: f'/{name}/image{suffix}' for name in lengths}
    messages = []
    for index in range(max(lengths.values())):
        for name in (name for name, length in lengths.items() if index < length):
            time_ns = START_NS + index * PERIOD_NS
            frame = Frame(picture(), time_ns if stamped else 0, name)
            message = image_message(bag_types(), frame, compressed)
            if (name, index) in spoilt:
                message.data = message.data[:50]
            messages.append((topics[name], time_ns, serialised(message)))
    write(path, messages, storage=storage)
    cameras = tuple(Camera(name, topic, compressed) for name, topic in topics.items())
    duration_s = (max(lengths.values()) - 1) * PERIOD_NS / 1e9
    return Drive(path, '', cameras, sum(lengths.values()), duration_s, storage)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    return read_bundle(write_tiny_bundle(tmp_path_factory.mktemp('tiny')))


@pytest.fixture
def planted(bundle, monkeypatch):
    """A node with faults; see planted_node.py."""

    def node_of(drive, **faults):
        monkeypatch.setenv('PLANTED', json.dumps(faults))
        node = our_node(drive, bundle, EVERY_FRAME)
        program = (sys.executable, str(Path(__file__).with_name('planted_node.py')))
        return replace(node, command=(*program, *node.command[3:]))

    return node_of


def fates(play):
    return Counter(frame.fate for frame in play.frames)


def faults(play):
    """Problems that the play tells of, but that this machine was too busy for its pace."""
    return [problem for problem in play.problems if 'too busy for this pace' not in problem]


def medians_ms(play):
    stations = [dict(frame.stations_ms()) for frame in play.frames if frame.fate == 'answered']
    return {name: float(np.median([each[name] for each in stations])) for name in stations[0]}


@pytest.mark.ros
def test_slow_stations_show_where_they_are_and_drops_are_told(tmp_path, planted):
    drive = write_drive(tmp_path / 'bag', {'front': 30})
    # The network is the slowest: none waits for the answer before it to be published.
    planted_ms = {'preprocess': 20, 'inference': 250, 'decode': 150, 'publish': 200}
    play = play_through_ros(drive, Pace(), planted(drive, **planted_ms), tmp_path / 'out')
    assert set(fates(play)) == {'answered', 'dropped'}
    assert fates(play)['dropped'] >= 15
    found_ms = medians_ms(play)
    for name, delay_ms in planted_ms.items():
        assert delay_ms <= found_ms[name] < delay_ms + 45
    assert max(found_ms['transport_in'], found_ms['transport_out']) < 45
    for frame in play.frames:
        moments = [frame.sent_ns, frame.received_ns, frame.started_ns, frame.published_ns]
        known = [moment for moment in moments if moment is not None]
        assert known == sorted(known)
        assert (frame.started_ns is None) == (frame.fate == 'dropped')
        if frame.fate == 'answered':
            assert len(frame.found) == 1
    assert {sample.who for sample in play.load} >= {'node', 'player', 'monitor'}
    assert play.health['detector: front']['message']
    assert not faults(play)
    assert not play.process_failed


@pytest.mark.ros
def test_lost_twentieth_shows_as_lost_in_transport(tmp_path, planted):
    drive = write_drive(tmp_path / 'bag', {'front': 60}, storage='sqlite3')
    play = play_through_ros(drive, Pace('hz', hz=20), planted(drive, lose=20), tmp_path / 'out')
    assert [f.index for f in play.frames if f.fate == 'transport'] == [19, 39, 59]
    assert set(fates(play)) <= {'transport', 'answered', 'dropped'}
    assert len(play.frames) == 60
    spent_s = (play.frames[-1].sent_ns - play.frames[0].sent_ns) / 1e9
    assert 2 < spent_s < 5, '59 / 20 s; as it was recorded 5.9'


@pytest.mark.ros
def test_broken_picture_fails_and_the_camera_that_goes_on_is_answered(tmp_path, bundle):
    lengths = {'left': 20, 'right': 8}
    drive = write_drive(tmp_path / 'bag', lengths, compressed=True, spoilt=[('left', 3)])
    node = our_node(drive, bundle, EVERY_FRAME)
    play = play_through_ros(drive, Pace(), node, tmp_path / 'out')
    (failed,) = (frame for frame in play.frames if frame.fate == 'failed')
    assert (failed.camera, failed.index) == ('left', 3)
    assert 'the JPEG is damaged' in failed.reason
    assert Counter(frame.camera for frame in play.frames) == lengths
    assert fates(play)['transport'] == 0
    late = [f for f in play.frames if f.camera == 'left' and f.index >= 8]
    assert sum(frame.fate == 'answered' for frame in late) >= 6
    assert play.health['detector: left']['failed'] == '1'


@pytest.mark.ros
def test_as_fast_as_possible_keeps_the_node_busy_and_drops_nothing(tmp_path, planted):
    drive = write_drive(tmp_path / 'bag', {'left': 20, 'right': 20})
    node = planted(drive, inference=30)
    play = play_through_ros(drive, Pace('fast', in_flight=2), node, tmp_path / 'out')
    assert fates(play) == {'answered': 40}
    spent_s = (play.frames[-1].sent_ns - play.frames[0].sent_ns) / 1e9
    assert spent_s > 36 * 0.03
    assert not play.problems


@pytest.mark.ros
def test_picture_without_an_answer_does_not_stop_the_fast_play(tmp_path, planted):
    drive = write_drive(tmp_path / 'bag', {'front': 12})
    pace = Pace('fast', in_flight=1)
    play = play_through_ros(drive, pace, planted(drive, lose=5), tmp_path / 'out')
    assert [f.index for f in play.frames if f.fate == 'transport'] == [4, 9]
    assert fates(play)['answered'] == 10
    assert [p for p in play.problems if '2 pictures had no answer after 1 s' in p]


@pytest.mark.ros
def test_node_that_dies_ends_the_play_with_its_last_words(tmp_path, planted):
    drive = write_drive(tmp_path / 'bag', {'front': 100})
    play = play_through_ros(drive, Pace(), planted(drive, die=10), tmp_path / 'out')
    assert play.process_failed
    assert 9 <= len(play.frames) < 100
    (fault,) = faults(play)
    assert 'status 7' in fault
    assert 'planted death' in fault
    assert fates(play)['answered'] >= 5
    assert play.frames[-1].fate == 'unknown'


@pytest.mark.ros
def test_node_is_started_by_another_command(tmp_path, bundle):
    drive = write_drive(tmp_path / 'bag', {'front': 6})
    told = tmp_path / 'told by the prefix'
    script = 'echo "$@" > "$0"; exec "$@"'
    node = our_node(drive, bundle, EVERY_FRAME)
    started = node.started_by('sh', '-c', script, str(told))
    play = play_through_ros(drive, Pace('fast', in_flight=1), started, tmp_path / 'out')
    assert fates(play) == {'answered': 6}
    assert 'cone_perception.cli node' in told.read_text()
    refused = node.started_by('sh', '-c', 'echo no right to do that; exit 1')
    with pytest.raises(ProcessError, match='no right to do that'):
        play_through_ros(drive, Pace('fast'), refused, tmp_path / 'refused')
    with pytest.raises(ProcessError, match='node cannot be started: no-such-command'):
        play_through_ros(drive, Pace(), node.started_by('no-such-command'), tmp_path / 'none')


@pytest.mark.ros
def test_interrupted_play_returns_what_was_seen(tmp_path, bundle):
    drive = write_drive(tmp_path / 'bag', {'front': 100})
    sent = tmp_path / 'out' / 'sent.jsonl'

    def interrupt():
        while not (sent.exists() and len(sent.read_text().splitlines()) > 10):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    node = our_node(drive, bundle, EVERY_FRAME)
    play = play_through_ros(drive, Pace(), node, tmp_path / 'out')
    assert play.interrupted
    assert 10 < len(play.frames) < 100
    assert fates(play)['answered'] >= 5
    assert fates(play)['unknown'] == 0
    assert play.health


@pytest.mark.ros
def test_stamps_of_zero_are_refused_or_replaced(tmp_path, bundle):
    drive = write_drive(tmp_path / 'bag', {'front': 12}, stamped=False)
    node = echo_node(drive)
    with pytest.raises(SourceError, match='all have the stamp 0.*--stamps recorded'):
        play_through_ros(drive, Pace(), node, tmp_path / 'out')
    play = play_through_ros(drive, Pace(), node, tmp_path / 'again', stamps='recorded')
    stamps = [frame.stamp_ns for frame in play.frames]
    assert stamps == [START_NS + index * PERIOD_NS for index in range(12)]
    assert fates(play)['answered'] >= 6
    answered = [frame for frame in play.frames if frame.fate == 'answered']
    assert all(len(frame.found) == 0 for frame in answered)
    assert all(frame.latency_ms > 0 and frame.received_ns is None for frame in answered)
    assert set(fates(play)) <= {'answered', 'unknown'}, 'an echo does not tell of each frame'


@pytest.mark.ros
def test_drive_is_played_at_its_rate(tmp_path):
    drive = write_drive(tmp_path / 'bag', {'front': 31})
    play = play_through_ros(
        drive, Pace('bag', rate=2.0), echo_node(drive), tmp_path / 'out', sample_load=False
    )
    spent_s = (play.frames[-1].sent_ns - play.frames[0].sent_ns) / 1e9
    assert 1 < spent_s < 2.5, '1.5 s; as it was recorded 3'
    assert not play.load


NODE = NodeCommand(('true',), {'left': '/left/detections'}, CLASS_NAMES, '/timing')


def sent_at(*stamps):
    return [
        {'camera': 'left', 'index': index, 'stamp_ns': stamp, 'sent_ns': 1000 + index}
        for index, stamp in enumerate(stamps)
    ]


def answers_of(found=(), told=(), back=()):
    """found: stamps. told: (stamp, outcome, reason, received_ns). back: (stamp, returned_ns)."""
    answers = Answers()
    for stamp in found:
        answers.found['/left/detections', stamp].append(Detections.empty())
    for stamp, outcome, reason, received_ns in told:
        record = {'outcome': outcome, 'reason': reason, 'received_ns': str(received_ns)}
        answers.told['left', stamp].append(record)
    for stamp, returned_ns in back:
        answers.returned_ns['/left/detections', stamp].append(returned_ns)
    return answers


def joined(sent, answers, node=NODE, died=False):
    problems = []
    return find_fates(sent, answers, node, died, problems), problems


def test_each_fate_is_told_from_what_node_and_monitor_say():
    told = [
        (1, 'answered', '', 1500), (3, 'dropped', 'newer', 1501), (4, 'failed', 'no jpeg', 1502),
        (5, 'answered', '', 1503),
    ]  # fmt: skip
    answers = answers_of([1], told, [(1, 2000)])
    answers.returned_ns['/diagnostics', 2].append(2000)
    answers.returned_ns['/right/detections', 5].append(2600)
    frames, problems = joined(sent_at(1, 2, 3, 4, 5), answers)
    assert [frame.fate for frame in frames] == [
        'answered', 'transport', 'dropped', 'failed', 'return',
    ]  # fmt: skip
    assert [frame.reason for frame in frames] == ['', '', 'newer', 'no jpeg', '']
    assert (frames[0].sent_ns, frames[0].received_ns, frames[0].returned_ns) == (1000, 1500, 2000)
    assert frames[0].found is not None
    assert [frame.found for frame in frames[1:]] == [None] * 4
    assert not problems


def test_cones_in_metres_belong_to_the_detections_by_their_ids():
    node = replace(NODE, cones={'left': '/detector/cones'})
    answers = answers_of(told=[(1, 'answered', '', 5)], back=[(1, 2000), (2, 2001)])
    answers.told['left', 1][0]['range_sources'] = '102'
    found = Detections(np.zeros((3, 4), np.float32), np.ones(3, np.float32), np.zeros(3, np.int64))
    xyz_m = np.array([(1.0, 2.0, 0.0), (3.0, 4.0, 0.0)])
    two = Positions(xyz_m, np.zeros((2, 3, 3)), np.ones(2, np.int64), 'base_footprint')
    for stamp in (1, 2):
        answers.found['/left/detections', stamp].append(found)
    answers.placed['/detector/cones', 1].append(MessageCones(('2', '0'), ('a', 'b'), two))
    (first, second), _ = joined(sent_at(1, 2), answers, node)
    assert first.positions.source.tolist() == [1, 0, 2]
    assert first.positions.xyz_m[[0, 2], 0].tolist() == [3.0, 1.0]
    assert second.positions is None


def test_node_that_does_not_tell_leaves_the_cause_open():
    node = replace(NODE, timing_topic=None)
    frames, _ = joined(sent_at(1, 2), answers_of([2], back=[(2, 2000)]), node)
    assert [frame.fate for frame in frames] == ['unknown', 'answered']


def test_what_was_sent_to_a_dead_node_is_not_put_down_to_transport():
    told = [(1, 'answered', '', 1000), (3, 'answered', '', 1002)]
    answers = answers_of([1, 3], told, [(1, 2000), (3, 2000)])
    frames, _ = joined(sent_at(1, 2, 3, 4), answers, died=True)
    assert [frame.fate for frame in frames] == ['answered', 'transport', 'answered', 'unknown']


def test_a_stamp_that_comes_twice_is_told_apart_by_order_and_named():
    answers = answers_of(back=[(1, 2000), (2, 5), (2, 6)])
    frames, problems = joined(sent_at(1, 2, 2), answers)
    assert [frame.returned_ns for frame in frames] == [2000, 5, 6]
    assert '1 pictures have the stamp of an earlier one' in problems[0]
    assert '3 answers came back, but were not recorded' in problems[1]


def test_pictures_that_mostly_have_equal_stamps_are_refused():
    with pytest.raises(SourceError, match='--stamps recorded'):
        joined(sent_at(0, 0, 0), answers_of())


def test_answers_are_used_once():
    answers = answers_of([1], back=[(1, 2000)])
    assert answers.found['/left/detections', 1] == deque([answers.found['/left/detections', 1][0]])
    joined(sent_at(1), answers)
    assert not answers.found['/left/detections', 1]


def test_two_replays_at_once_have_domains_of_their_own():
    with private_domain() as first, private_domain() as second:
        assert first != second
        assert {first, second} <= set(range(1, 102))
    with private_domain() as again:
        assert again == first


@pytest.mark.ros
def test_bag_that_was_cut_off_is_played_up_to_the_cut_and_named(tmp_path):
    drive = write_drive(tmp_path / 'bag', {'front': 100})
    (file,) = (tmp_path / 'bag').glob('*.mcap')
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    play = play_through_ros(
        drive, Pace('hz', hz=40), echo_node(drive), tmp_path / 'out', sample_load=False
    )
    assert 10 <= len(play.frames) < 60
    assert fates(play)['answered'] >= 5
    assert [problem for problem in play.problems if str(file) in problem]


@pytest.mark.ros
def test_node_and_pipeline_find_the_same_on_the_same_bands(tmp_path):
    """The shipped network on a rendered drive: what is judged offline is what drives."""
    views, bundle = 'whole+horizon', read_bundle()
    rendered = drive_frames(SimulateSettings(), 3, 0.5, 10.0)
    frames = [
        Frame(np.asarray(each.image), START_NS + index * PERIOD_NS, 'front')
        for index, each in enumerate(rendered)
    ]
    write_image_bag(tmp_path / 'bag', frames, '/front/image')
    drive = open_drive(tmp_path / 'bag', class_names=bundle.card.class_names)
    node = our_node(drive, bundle, {**EVERY_FRAME, 'precision': 'int8', 'views': views})
    play = play_through_ros(drive, Pace('fast', in_flight=1), node, tmp_path / 'out')
    assert fates(play) == {'answered': len(frames)}
    assert all(frame.band_px for frame in play.frames)
    settings = DetectorSettings(device='cpu', precision='int8', views=views)
    with open_detector(bundle, settings) as detector:
        offline = list(answer_pictures(drive, detector, Filters(), 'test', others=play.frames))
        piped = play_through_pipeline(drive, Pace('fast'), detector, settings).frames
    assert sum(len(frame.found) for frame in offline) > 20
    for ours, theirs in zip([*play.frames, *piped], [*offline, *offline], strict=True):
        assert ours.band_px == pytest.approx(theirs.band_px, abs=1e-3)
        assert ours.found.class_id.tolist() == theirs.found.class_id.tolist()
        np.testing.assert_allclose(ours.found.xyxy_px, theirs.found.xyxy_px, atol=0.01)
        np.testing.assert_allclose(ours.found.score, theirs.found.score, atol=1e-3)
