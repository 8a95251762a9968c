"""The command `replay` as somebody runs it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from recorded_drive import at, pictures, truths, write
from tiny_network import BGR_OF_CLASS, write_tiny_bundle
from waiting import wait_until

from cone_perception.bags.reader import write_image_bag
from cone_perception.cli import main
from cone_perception.errors import SettingsError
from cone_perception.replay.figures.result import read_result
from cone_perception.settings import read_params_file
from cone_perception.types import Frame

Way = Callable[..., int]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp('bundle'))


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write(tmp_path / 'drive', pictures() + truths())


def replay(*arguments: object) -> int:
    return main(['replay', *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


@pytest.fixture
def through_pipeline(bundle: Path, out: Path) -> Way:
    """Replay bags in this process, with the tiny network, into `out`."""
    usual = ('--through', 'pipeline', '--device', 'cpu', '--model', bundle, '--out', out)
    return lambda *bags_and_options: replay(*usual, *bags_and_options)


def painted_bag(path: Path, classes: list[str], hz: float = 20.0) -> Path:
    """One cone of a class in the middle of each picture, which the tiny network finds."""
    frames = []
    for index, name in enumerate(classes):
        bgr = np.full((384, 640, 3), 114, np.uint8)
        cv2.rectangle(bgr, (320, 192), (351, 223), BGR_OF_CLASS[name], -1)
        frames.append(Frame(bgr, at(0) + round(index * 1e9 / hz)))
    write_image_bag(path, frames, '/camera/image')
    return path


def test_pipeline_replay_leaves_a_result_and_a_page(
    drive: Path, through_pipeline: Way, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert through_pipeline(drive, '--as-fast-as-possible', '--film') == 0
    *_, boxes, last = capsys.readouterr().out.splitlines()
    assert boxes == 'precision, recall, map50: all boxes'
    assert last.startswith('replay: frames=10 answered=10 transport=0 dropped=0 failed=0 ')
    assert 'recall=0.000' in last
    result = read_result(out / 'result.json')
    assert not result.interrupted
    assert [frame.fate for frame in result.passes[0]] == ['answered'] * 10
    assert result.configuration['arguments'][0] == str(drive)
    assert '--as-fast-as-possible' in result.configuration['arguments']
    assert result.model['network_sha256']
    assert '10' in (out / 'report.html').read_text()
    assert cv2.VideoCapture(str(out / 'annotated.mp4')).read()[0]


def test_the_command_that_is_told_gives_the_same_again(
    drive: Path, through_pipeline: Way, out: Path, tmp_path: Path
) -> None:
    through_pipeline(drive, '--as-fast-as-possible', '--thresholds', 'blue_cone:0.2')
    again = read_result(out / 'result.json').configuration['arguments']
    assert replay(*again, '--out', tmp_path / 'second') == 0
    results = [read_result(folder / 'result.json') for folder in (out, tmp_path / 'second')]
    assert results[0].configuration['settings'] == results[1].configuration['settings']
    assert results[1].configuration['settings']['thresholds'] == ['blue_cone:0.2']


def test_broken_budget_fails_with_its_reason(
    drive: Path, through_pipeline: Way, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = tmp_path / 'budget.yaml'
    budget.write_text('recall_sent: {min: 0.5}\nfailed_share: {max: 0}\n')
    options = ('--as-fast-as-possible', '--budget', budget)
    assert through_pipeline(drive, *options) == 1
    said = capsys.readouterr().err
    assert 'over budget: recall_sent' in said
    assert 'failed_share' not in said
    budget.write_text('failed_share: {max: 0}\n')
    assert through_pipeline(drive, *options) == 0


def test_folder_of_somebody_else_is_left_alone(
    drive: Path, through_pipeline: Way, out: Path
) -> None:
    out.mkdir()
    (out / 'thesis.txt').write_text('mine')
    assert through_pipeline(drive) == 1
    assert [path.name for path in out.iterdir()] == ['thesis.txt']
    assert through_pipeline(drive, '--out', out.parent) == 1
    assert drive.is_dir()


def test_agreement_with_a_reference_is_told(
    bundle: Path, through_pipeline: Way, out: Path, tmp_path: Path
) -> None:
    bag = painted_bag(tmp_path / 'bag', ['blue_cone', 'yellow_cone'] * 3)
    options = ('--as-fast-as-possible', '--reference', bundle)
    assert through_pipeline(bag, *options) == 0
    figures = read_result(out / 'result.json').figures
    assert figures['agreement_f1'].value == 1
    assert through_pipeline(bag, *options, '--classes', 'yellow_cone') == 0
    figures = read_result(out / 'result.json').figures
    assert figures['agreement_recall'].value == 0.5
    assert figures['agreement_precision'].value == 1


def test_a_reference_looks_at_the_pictures_as_the_model_did(
    bundle: Path, through_pipeline: Way, out: Path, tmp_path: Path
) -> None:
    bag = painted_bag(tmp_path / 'bag', ['blue_cone', 'yellow_cone'] * 3)
    options = ('--views', 'whole+horizon', '--horizon', '0.25', '--reference', bundle)
    assert through_pipeline(bag, '--as-fast-as-possible', *options) == 0
    result = read_result(out / 'result.json')
    first, *_, last = result.passes[0]
    assert first.band_px == 0.25 * 384
    assert last.band_px not in (None, first.band_px)
    assert result.figures['agreement_f1'].value == 1
    assert result.model['views'] == 'whole+horizon'


def test_settings_of_the_car_choose_topic_and_thresholds(
    through_pipeline: Way, out: Path, tmp_path: Path
) -> None:
    messages = pictures('/left/image') + pictures('/right/image', indices=range(3))
    bag = write(tmp_path / 'bag', messages)
    car = tmp_path / 'car.yaml'
    car.write_text(
        '/**:\n  ros__parameters:\n    cameras: [right]\n    image_topics: [/right/image]\n'
        "    thresholds: ['blue_cone:0.3']\n    min_height_px: 4.0\n"
    )
    options = ('--as-fast-as-possible', '--params-file', car, '--thresholds', 'blue_cone:0.7')
    assert through_pipeline(bag, *options) == 0
    result = read_result(out / 'result.json')
    assert [frame.camera for frame in result.passes[0]] == ['right'] * 3
    assert result.configuration['settings']['thresholds'] == ['blue_cone:0.7']
    assert result.configuration['settings']['min_height_px'] == 4


def test_settings_of_the_car_that_make_two_pictures_of_one_are_refused(
    drive: Path, through_pipeline: Way, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    car = tmp_path / 'car.yaml'
    car.write_text(
        '/**: {ros__parameters: {side_by_side: true, cameras: [left, right], '
        'image_topics: [/both/image]}}'
    )
    assert through_pipeline(drive, '--params-file', car) == 1
    assert 'side_by_side: a replay follows one camera per topic' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('[1, 2]', 'no file of ROS parameters'),
        ('detector: {a: 1}', 'no file of ROS parameters'),
        ('a: {ros__parameters: {}}\nb: {ros__parameters: {}}', '2 nodes'),
    ],
)
def test_file_that_holds_no_settings_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / 'car.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_params_file(path)


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (('--node-command', 'mine'), 'belong to'),
        (('--launch-prefix', 'nice'), 'belong to'),
        (('--stamps', 'recorded'), '--through ros'),
        (('--thresholds', 'red_cone:0.3'), 'red_cone'),
        (('--topic', '/nowhere'), '/nowhere'),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(
    options: tuple[str, ...],
    says: str,
    drive: Path,
    through_pipeline: Way,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert through_pipeline(drive, *options) == 1
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_command_line_that_is_none_is_refused(
    drive: Path, bundle: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('rclpy')
    line = (drive, '--model', bundle, '--out', out)
    assert replay(*line, '--launch-prefix', "chrt '--rr") == 1
    assert '--launch-prefix is no command line' in capsys.readouterr().err
    assert not out.exists()


def test_search_tells_the_highest_rate(
    drive: Path, through_pipeline: Way, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert through_pipeline(drive, '--find-max-rate') == 0
    result = read_result(out / 'result.json')
    assert result.probes
    assert result.configuration['pace']['kind'] == 'hz'
    assert 'max_rate_hz=' in capsys.readouterr().out.splitlines()[-1]


def start_replay(
    drive: Path, bundle: Path, out: Path, *more: object, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    command = [sys.executable, '-m', 'cone_perception.cli', 'replay', drive, '--out', out]
    options = ['--through', 'pipeline', '--device', 'cpu', '--model', bundle, *more]
    return subprocess.Popen(
        [*map(str, command), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_report_of_what_was_seen(
    sign: signal.Signals, drive: Path, bundle: Path, out: Path
) -> None:
    terminal, end = pty.openpty()  # progress is for terminals
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 100, 0, 0))
    rate = ('--rate', '0.05')  # a picture every two seconds
    process = start_replay(drive, bundle, out, *rate, stderr=end)
    os.close(end)
    text = b''
    while not re.search(b'replaying: .*[1-5]/10', text):
        text += os.read(terminal, 1000)
    process.send_signal(sign)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith('replay: frames=')
    result = read_result(out / 'result.json')
    assert result.interrupted
    assert 0 < len(result.passes[0]) < 10
    assert 'nterrupted' in (out / 'report.html').read_text()


@pytest.mark.slow
def test_kill_costs_no_finished_pass(drive: Path, bundle: Path, out: Path) -> None:
    process = start_replay(drive, bundle, out, '--repeat', '100', '--rate', '5')
    file = out / 'result.json'
    wait_until(lambda: file.exists() and len(read_result(file).passes) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = read_result(out / 'result.json')
    assert result.interrupted
    assert len(result.passes) == len(result.per_pass) >= 2
    assert all(len(frames) == 10 for frames in result.passes)


@pytest.mark.slow
def test_bag_that_fails_does_not_stop_the_others(
    drive: Path,
    through_pipeline: Way,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / 'broken'
    broken.mkdir()
    other = write(tmp_path / 'other', pictures(indices=range(4)))
    assert through_pipeline(drive, broken, other, '--as-fast-as-possible', '--jobs', 2) == 1
    table = json.loads((out / 'table.json').read_text())
    assert 'broken' in json.dumps(table)
    assert len(read_result(out / 'drive' / 'result.json').passes[0]) == 10
    assert len(read_result(out / 'other' / 'result.json').passes[0]) == 4
    assert 'broken' in capsys.readouterr().out


@pytest.mark.ros
@pytest.mark.slow
def test_ros_replay_follows_every_picture(
    bundle: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = painted_bag(tmp_path / 'bag', ['blue_cone', 'yellow_cone'] * 10, hz=10)
    assert replay(bag, '--device', 'cpu', '--model', bundle, '--out', out) == 0
    result = read_result(out / 'result.json')
    frames = result.passes[0]
    assert len(frames) == 20
    answered = [frame for frame in frames if frame.fate == 'answered']
    assert len(answered) >= 12, 'best effort: a busy machine may lose some'
    for frame in answered:
        assert frame.found is not None
        assert frame.found.class_id.tolist() == [(0, 4)[frame.index % 2]]
        moments = [
            *(frame.sent_ns, frame.received_ns, frame.started_ns, frame.prepared_ns),
            *(frame.inferred_ns, frame.decoded_ns, frame.located_ns, frame.published_ns),
        ]
        assert moments == sorted(moments)
    assert result.figures['overhead_latency_p50_ms'].value > 0
    assert result.figures['node_memory_peak_mb'].value > 20
    card = json.loads((bundle / 'card.json').read_text())
    assert result.model['network_sha256'] == card['networks'][0]['sha256']
    assert capsys.readouterr().out.splitlines()[-1].startswith('replay: frames=20 ')
