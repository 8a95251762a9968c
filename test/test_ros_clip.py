"""A recorded drive, played over DDS to the node in another process, and the whole demo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from tiny_network import change_card, write_tiny_bundle
from waiting import wait_until

from cone_perception.bags.reader import (
    bag_types,
    header_stamp_ns,
    open_bag,
    read_messages,
    write_image_bag,
)
from cone_perception.cli import main
from cone_perception.model_card import shipped_bundle
from cone_perception.pictures.sources import open_source
from cone_perception.replay.figures.result import read_result
from cone_perception.types import Frame

pytestmark = [pytest.mark.ros, pytest.mark.slow]

GAP_NS = 66_666_667
PLAYS = 3
"""A shared machine can be taken away for a second, and then frames are lost, as on a stalled car.
So one play of these must answer enough; each must fail none."""

LINE = re.compile(r'demo: frames=(\d+) answered=(\d+) failed=(\d+) p50_ms=\d+\.\d p99_ms=\d+\.\d')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def clip(shared_data):
    """The pictures of about six seconds on board, 15 a second."""
    files = sorted((shared_data / 'clips' / 'onboard_720p_15fps').glob('*.jpg'))
    return [
        Frame(cv2.imread(str(file)), 1_700_000_000_000_000_000 + index * GAP_NS, 'camera_left')
        for index, file in enumerate(files)
    ]


def demo_command(folder, model):
    bag, out = str(folder / 'bag'), str(folder / 'out')
    return ['demo', '--bag', bag, '--model', str(model), '--out', out]


def last_line(text):
    return text.strip().splitlines()[-1]


def headers(bag, topic):
    """(stamp_ns, frame_id) of each message of a topic."""
    with open_bag(bag) as reader:
        for recorded in read_messages(reader, [topic]):
            message = bag_types().deserialize_cdr(recorded.data, recorded.type_name)
            yield header_stamp_ns(recorded.data), message.header.frame_id


@pytest.mark.parametrize('topic', ['/camera/image', '/camera/image/compressed'])
def test_onboard_clip_is_answered_with_its_own_stamps(tmp_path, clip, capfd, topic):
    write_image_bag(tmp_path / 'bag', clip, topic, compressed=topic.endswith('compressed'))
    for _ in range(PLAYS):
        assert main(demo_command(tmp_path, shipped_bundle())) == 0
        line = last_line(capfd.readouterr().out)
        frames, answered, failed = map(int, LINE.fullmatch(line).groups())
        assert frames == len(clip)
        assert failed == 0
        if answered >= 0.95 * frames:
            break
    assert answered >= 0.95 * frames
    answers = list(headers(tmp_path / 'out' / 'answers', '/camera/detections'))
    assert len(answers) == answered
    assert set(answers) <= {(frame.stamp_ns, 'camera_left') for frame in clip}
    assert len(set(answers)) == answered, 'a picture was answered twice'
    assert len(list(open_source(tmp_path / 'out' / 'demo.mp4').frames)) == len(clip)
    result = read_result(tmp_path / 'out' / 'demo.json')
    profiles = [said.get('transport profile', '') for said in result.health.values()]
    assert any(profile.endswith('.xml') for profile in profiles)
    stations = ('transport_in', 'preprocess', 'inference', 'transport_out')
    assert {f'station_{name}_p50_ms' for name in stations} <= set(result.figures)


def test_simulated_drive_is_rendered_played_and_judged(tmp_path, model, capfd):
    options = ['--seconds', '2', '--model', str(model), '--out', str(tmp_path / 'out')]
    assert main(['demo', *options]) == 0
    *_, boxes, line = capfd.readouterr().out.splitlines()
    assert boxes == 'precision, recall: all boxes'
    assert re.match(r'demo: frames=30 answered=\d+ failed=0 precision=\S+ recall=\S+ p50', line)
    for name in ('demo.mp4', 'contact_sheet.png', 'index.html', 'demo.json'):
        assert (tmp_path / 'out' / name).stat().st_size > 0


def children_of(pid):
    threads = Path(f'/proc/{pid}/task').iterdir()
    return [int(child) for t in threads for child in (t / 'children').read_text().split()]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_ends_its_processes(tmp_path, model, clip, number):
    write_image_bag(tmp_path / 'bag', clip, '/camera/image')
    command = [sys.executable, '-m', 'cone_perception.cli', *demo_command(tmp_path, model)]
    # A shell lets its background jobs ignore SIGINT, and those hand it down: pytest in one, say.
    demo = subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    sent = tmp_path / 'out' / 'sent.jsonl'
    wait_until(lambda: (sent.exists() and sent.stat().st_size) or demo.poll() is not None)
    children = children_of(demo.pid)
    assert len(children) == 3, 'node, monitor and player'
    demo.send_signal(number)
    assert demo.wait(20) == 130
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_model_that_the_node_cannot_load_ends_the_demo(tmp_path, clip, capfd):
    broken = write_tiny_bundle(tmp_path / 'broken')
    change_card(broken, height_px=640)
    write_image_bag(tmp_path / 'bag', clip[:2], '/camera/image')
    assert main(demo_command(tmp_path, broken)) == 1
    assert 'its card says (1, 3, 640, 640)' in capfd.readouterr().err
