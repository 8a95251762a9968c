"""The demo's figures, pictures, page and processes, without ROS."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import open_page
from replay_results import NAMES, cones
from waiting import is_running, wait_until

from cone_perception.bags.reader import header_stamp_ns, write_image_bag
from cone_perception.cli import main
from cone_perception.errors import SourceError
from cone_perception.model_card import Bundle, ModelCard, NetworkFile, file_sha256
from cone_perception.replay.demo import demo_result, last_line, write_results
from cone_perception.replay.figures.result import read_result
from cone_perception.replay.pages.pictures import tile
from cone_perception.replay.processes import ProcessError, ProcessGroup
from cone_perception.replay.traces import Camera, Drive, FrameTrace, Pace, Pass
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Frame

LINE = re.compile(
    r'demo: frames=\d+ answered=\d+ failed=\d+ precision=\d\.\d\d recall=\d\.\d\d '
    r'p50_ms=\d+\.\d p99_ms=\d+\.\d depth_p90_10m=(\d+\.\d\d|nan)'
)


@pytest.fixture
def card():
    return ModelCard(
        name='tiny',
        class_names=NAMES,
        height_px=384,
        width_px=640,
        output_layout='end_to_end',
        thresholds=dict.fromkeys(NAMES, 0.5),
        networks=(NetworkFile('tiny.onnx', '0' * 64, 'fp32', 'float'),),
        licence='Apache-2.0',
    )


@pytest.fixture
def runnable(tmp_path_factory, card):
    """A bundle that is complete as far as the demo itself looks."""
    folder = tmp_path_factory.mktemp('model')
    (folder / 'tiny.onnx').write_bytes(b'\x3a\x00')  # an empty graph
    (folder / 'card.json').write_text(
        card.to_json().replace('0' * 64, file_sha256(folder / 'tiny.onnx'))
    )
    return str(folder)


NEAR = (100, 100, 130, 140)
FAR = (300, 100, 312, 116)


def answered(index, found, latency_ms=50.0):
    """Sent, 10 ms to the node, 30 ms in it, of which 20 in the network, and the rest back."""
    sent_ns = 10**9 + index
    inside = [sent_ns + round(ms * 1e6) for ms in (10, 12, 13, 33, 35, 35, 40)]
    return FrameTrace(
        'camera', index, index, 'answered', sent_ns, *inside, sent_ns + round(latency_ms * 1e6),
        found=found,
    )  # fmt: skip


def lost(index, fate='transport'):
    return FrameTrace('camera', index, index, fate, 10**9 + index)


def truth_of(frames, *boxes):
    return {(frame.camera, frame.stamp_ns): cones(*boxes) for frame in frames}


def result_of(frames, truth, card, bag=Path('<drive> & co')):
    args = argparse.Namespace(bag=None, seconds=2.0, hz=15.0, seed=3)
    camera = Camera('camera', '/camera/image', compressed=False)
    drive = Drive(bag, '', (camera,), len(frames), 0.2, 'mcap', truth)
    return demo_result(
        args, drive, Bundle(Path('model'), card), DetectorSettings(), Pass(Pace(), frames)
    )


def test_line_has_the_documented_form(card):
    frames = [answered(i, cones(NEAR), 40 + i) for i in range(21)]
    line = last_line(result_of(frames, truth_of(frames, NEAR), card))
    assert line == (
        'demo: frames=21 answered=21 failed=0 precision=1.00 recall=1.00 '
        'p50_ms=50.0 p99_ms=59.8 depth_p90_10m=nan'
    )
    assert LINE.fullmatch(line)


def test_line_of_a_bag_without_truth_has_no_precision_and_recall(card):
    line = last_line(result_of([answered(0, cones(NEAR))], None, card))
    assert line == 'demo: frames=1 answered=1 failed=0 p50_ms=50.0 p99_ms=50.0'


def test_cones_of_a_lost_picture_are_missed_as_in_a_replay(card):
    frames = [answered(0, cones(NEAR)), lost(1), lost(2, 'failed')]
    result = result_of(frames, truth_of(frames, NEAR), card)
    assert last_line(result).startswith(
        'demo: frames=3 answered=1 failed=1 precision=1.00 recall=0.33'
    )
    assert result.figures['recall_answered'].value == 1.0


def test_answer_without_cones_is_an_answer(card):
    frames = [answered(0, Detections.empty())]
    line = last_line(result_of(frames, truth_of(frames, NEAR), card))
    assert 'answered=1' in line
    assert 'recall=0.00' in line


def test_all_cones_are_counted_and_those_of_each_height_beside(card):
    frames = [answered(0, cones(NEAR))]
    result = result_of(frames, truth_of(frames, NEAR, FAR), card)
    assert 'precision=1.00 recall=0.50' in last_line(result)
    assert result.figures['recall_sent 32-64 px'].value == 1.0
    assert result.figures['recall_sent 16-32 px'].value == 0.0


def test_nothing_answered_has_no_latency(card):
    frames = [lost(0)]
    line = last_line(result_of(frames, truth_of(frames, NEAR), card))
    assert 'answered=0' in line
    assert line.endswith('p50_ms=nan p99_ms=nan depth_p90_10m=nan')


@pytest.fixture
def played(tmp_path, card):
    """A bag of four pictures and what a node could have made of them; the third was lost."""
    pictures = [Frame(np.full((720, 1280, 3), 90, np.uint8), i) for i in range(4)]
    write_image_bag(tmp_path / '<drive> & co', pictures, '/camera/image')
    frames = [answered(index, cones(NEAR)) for index in range(4)]
    frames[2] = lost(2, 'dropped')
    return result_of(frames, truth_of(frames, NEAR, FAR), card, tmp_path / '<drive> & co')


def test_film_and_contact_sheet_show_every_picture(tmp_path, played):
    bag = tmp_path / '<drive> & co'
    write_results(tmp_path, played, bag)
    film = cv2.VideoCapture(str(tmp_path / 'demo.mp4'))
    seen = []
    while (frame := film.read())[0]:
        seen.append(frame[1])
    assert [picture.shape for picture in seen] == [(720, 1280, 3)] * 4
    assert np.abs(seen[0].astype(int) - 90).max() > 50, 'nothing is drawn'
    assert cv2.imread(str(tmp_path / 'contact_sheet.png')).shape[1] > 3 * 640


def test_contact_sheet_puts_pictures_in_rows():
    pictures = [np.full((36, 64, 3), 10 * i, np.uint8) for i in range(4)]
    sheet = tile(pictures, 3, (36, 64), 8, 255)
    assert sheet.shape == (2 * 44 + 8, 3 * 72 + 8, 3)
    assert sheet[8 + 44 + 5, 8 + 5, 0] == 30


def test_page_needs_no_network_and_is_escaped(tmp_path, played):
    write_results(tmp_path, played, tmp_path / '<drive> & co')
    page = (tmp_path / 'index.html').read_text()
    assert '&lt;drive&gt; &amp; co' in page
    assert '<drive> & co' not in page
    assert len(set(re.findall('data:image/jpeg;base64,[^"]+', page))) == 4
    assert 'dropped for a newer one' in page
    opened = open_page(tmp_path / 'index.html')
    assert opened.drawn >= 5
    assert (opened.console, opened.hosts) == ([], set())


def test_page_of_a_drive_without_any_answer_can_be_written(tmp_path, card):
    bag = tmp_path / 'bag'
    write_image_bag(bag, [Frame(np.full((72, 128, 3), 90, np.uint8))], '/camera/image')
    write_results(tmp_path, result_of([lost(0)], None, card, bag), bag)
    assert '0 of 1 frames answered' in (tmp_path / 'index.html').read_text()


def test_json_has_the_figures_and_no_nan(tmp_path, played):
    write_results(tmp_path, played, tmp_path / '<drive> & co')
    assert 'NaN' not in (tmp_path / 'demo.json').read_text()
    stored = read_result(tmp_path / 'demo.json')
    assert stored.figures['frames_answered'].value == 3
    assert stored.figures['latency_p50_ms'].value == 50.0
    assert stored.figures['station_inference_p50_ms'].value == 20.0
    assert stored.figures['recall_sent'].value == 0.375
    assert stored.passes[0][2].fate == 'dropped'
    assert stored.configuration['rendered'] == {'seconds': 2.0, 'hz': 15.0, 'seed': 3}


def test_stamp_of_a_serialised_message_in_both_byte_orders():
    little = b'\x00\x01\x00\x00' + (7).to_bytes(4, 'little') + (9).to_bytes(4, 'little')
    big = b'\x00\x00\x00\x00' + (7).to_bytes(4, 'big') + (9).to_bytes(4, 'big')
    assert header_stamp_ns(little) == header_stamp_ns(big) == 7_000_000_009
    with pytest.raises(SourceError, match='no header'):
        header_stamp_ns(little[:8])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--bag', 'nowhere'], 'nowhere is no rosbag2'),
        (['--topic', '/image'], '--topic belongs to --bag'),
        (['--model', 'nowhere'], 'nowhere does not exist'),
    ],
)
def test_wrong_option_is_refused_before_anything_starts(
    tmp_path, capsys, options, message, runnable
):
    out = str(tmp_path / 'out')
    assert main(['demo', '--model', runnable, *options, '--out', out]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_folder_with_other_files_is_left_alone(tmp_path, capsys, runnable):
    (tmp_path / 'log').mkdir()
    (tmp_path / 'log' / 'mine').touch()
    assert main(['demo', '--model', runnable, '--out', str(tmp_path)]) == 1
    assert 'holds other files' in capsys.readouterr().err
    assert (tmp_path / 'log' / 'mine').exists()


def test_results_never_replace_the_bag_that_is_played(tmp_path, capsys, runnable):
    bag = tmp_path / 'demo' / 'drive'
    write_image_bag(bag, [Frame(np.zeros((8, 8, 3), np.uint8))], '/camera/image')
    (tmp_path / 'demo' / '.cone_perception_demo').touch()
    for out in (bag, bag.parent):
        options = ['--bag', str(bag), '--model', runnable, '--out', str(out)]
        assert main(['demo', *options]) == 1
        assert 'another --out' in capsys.readouterr().err
    assert (bag / 'metadata.yaml').exists()


def sleeping(*first):
    """A program that sleeps for a minute."""
    steps = ('import signal, sys, time', *first, 'print("ready", flush=True)', 'time.sleep(60)')
    return [sys.executable, '-c', '; '.join(steps)]


SLEEP = sleeping()
STUBBORN = sleeping('signal.signal(signal.SIGTERM, signal.SIG_IGN)')
DEAF = sleeping(
    'signal.signal(signal.SIGINT, signal.SIG_IGN)',
    'signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))',
)


@pytest.fixture
def team(tmp_path):
    with ProcessGroup(os.environ, tmp_path) as group:
        yield group


def test_leaving_the_group_ends_its_processes(tmp_path):
    with ProcessGroup(os.environ, tmp_path) as team:
        team.start('sleeper', SLEEP)
        team.wait_for_text('sleeper', 'ready', 20)
        pid = team.running['sleeper'].pid
        assert is_running(pid)
    assert not is_running(pid)


def test_process_that_a_background_shell_made_deaf_to_sigint_is_ended(team):
    team.start('deaf', DEAF)
    team.wait_for_text('deaf', 'ready', 20)
    team.stop('deaf')


def test_process_that_ignores_its_end_is_killed_and_named(team):
    team.start('stubborn', STUBBORN)
    team.wait_for_text('stubborn', 'ready', 20)
    pid = team.running['stubborn'].pid
    with pytest.raises(ProcessError, match='stubborn did not end'):
        team.stop('stubborn')
    assert not is_running(pid)


def test_process_that_dies_ends_the_waiting_for_another_with_its_last_words(team):
    team.start('sleeper', SLEEP)
    team.start('node', [sys.executable, '-c', 'import sys; print("no model"); sys.exit(3)'])
    with pytest.raises(ProcessError, match=r'(?s)node ended too early, with status 3.*no model'):
        team.wait('sleeper', 20)


def test_process_that_fails_is_named(team):
    team.start('renderer', [sys.executable, '-c', 'import sys; sys.exit(2)'])
    with pytest.raises(ProcessError, match='renderer ended with status 2'):
        team.wait('renderer', 20)


def test_killed_demo_leaves_no_orphan(tmp_path):
    program = (
        'import sys, time\n'
        'from pathlib import Path\n'
        'from cone_perception.replay.processes import ProcessGroup\n'
        'import os\n'
        f'with ProcessGroup(os.environ, Path({str(tmp_path)!r})) as team:\n'
        f'    team.start("sleeper", {SLEEP!r})\n'
        '    team.wait_for_text("sleeper", "ready", 20)\n'
        '    print(team.running["sleeper"].pid, flush=True)\n'
        '    time.sleep(60)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not is_running(pid), 10)
