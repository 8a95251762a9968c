"""Nothing leaves this machine, and the car unpickles nothing."""

from __future__ import annotations

import sys
import time

import cv2
import pytest
from image_messages import encode
from node_process import NodeProcess, ros_message, wait_for
from rendered_sets import smoke_words
from test_import_rules import RUNTIME, imported_packages, source_files
from tiny_network import painted, write_tiny_bundle
from vision_msgs.msg import Detection2DArray
from watched import audited, can_trace, reached

RUN = [sys.executable, '-m', 'cone_perception.cli']
TRAIN = [sys.executable, '-m', 'training.cli']
UNPICKLERS = {'cloudpickle', 'dill', 'joblib', 'marshal', 'pickle', 'shelve', 'torch'}

trace = pytest.mark.parametrize('trace', [False, True], ids=['audit', 'strace'])


@pytest.fixture
def watch(tmp_path, repository):
    def run(trace, command, **environment):
        if trace and not can_trace():
            pytest.skip('needs strace')
        return reached(tmp_path, [*map(str, command)], trace, **environment)

    return run


@trace
def test_watch_sees_a_look_up_and_an_address(watch, trace):
    code = 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("192.0.2.1", 9))'
    assert watch(trace, [sys.executable, '-c', code]) == ['192.0.2.1 9']
    code = 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("127.0.0.1", 9))'
    assert watch(trace, [sys.executable, '-c', code]) == []


@pytest.mark.slow
@trace
@pytest.mark.parametrize('engine', ['openvino', 'onnxruntime'])
def test_detect_reaches_nobody(watch, tmp_path, trace, engine):
    cv2.imwrite(str(tmp_path / 'a.png'), painted())
    on_cpu = '--device', 'cpu', '--engine', engine
    command = [*RUN, 'detect', 'a.png', '--out', 'out', *on_cpu]
    assert watch(trace, command, CI='') == []  # its makers' sender is silent where CI is set


@pytest.mark.slow
def test_runtimes_send_nothing_later_either(watch, tmp_path):
    """ONNX Runtime's sender waits 9 s, and keeps what it did not send in a file."""
    network = write_tiny_bundle(tmp_path / 'tiny') / 'tiny.onnx'
    code = (
        'import sys, time, cone_perception, onnxruntime, openvino\n'
        'session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])\n'
        'time.sleep(14)'
    )
    home = {'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'cache'), 'CI': ''}
    assert watch(can_trace(), [sys.executable, '-c', code, network], **home) == []
    assert not [*tmp_path.rglob('onnxruntime.db')]


@pytest.mark.slow
@pytest.mark.ros
def test_demo_reaches_nobody(watch):
    """It renders, and replays through player, DDS and the node, whose page it writes."""
    command = [*RUN, 'demo', '--seconds', '1', '--hz', '5', '--out', 'out']
    assert watch(can_trace(), command, CI='') == []


@pytest.mark.slow
def test_training_without_tracking_reaches_nobody(watch, rendered_sets):
    pytest.importorskip('ultralytics')
    command = [*TRAIN, 'two-stage', *smoke_words(rendered_sets)]
    assert watch(can_trace(), command, CI='', CUDA_VISIBLE_DEVICES='') == []


def test_car_imports_nothing_that_unpickles():
    found = {path: imported_packages(path) & UNPICKLERS for path in source_files(RUNTIME)}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.ros
def test_node_unpickles_nothing(observer, tmp_path, repository):
    """From its first start, with the shipped model, to an answered picture."""
    log, variables = audited(tmp_path)
    variables |= {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    node = NodeProcess(tmp_path / 'node.log', {}, '-r', '__ns:=/unpickling', **variables)
    node.wait_for_output('active: listening')
    topic = '/unpickling/camera/image'
    answers = observer.listen('/unpickling/camera/detections', Detection2DArray)
    message = ros_message(encode(painted(), 'bgr8'), time.time_ns())
    publisher = observer.publisher(topic, type(message))
    wait_for(publisher.get_subscription_count, f'the subscription of {topic}')
    publisher.publish(message)
    wait_for(lambda: answers, 'an answer')
    assert node.stop()[0] == 0, node.output
    assert 'pickle' not in log.read_text()


def test_unpickling_would_be_seen(tmp_path, monkeypatch):
    import pickle
    import subprocess

    log, variables = audited(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = f'import pickle; pickle.loads({pickle.dumps(tmp_path)!r})'
    subprocess.run([sys.executable, '-c', code], check=True)
    assert 'pickle.find_class pathlib' in log.read_text()
