"""Tests where the node runs its network, what it says about it, and how it ends when a GPU is lost.

No GPU is needed: what a GPU does wrong is raised by an engine that the test puts in its place.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_messages import encode
from node_process import NodeProcess, ros_message, stamp_ns_of, wait_for
from sensor_msgs.msg import Image
from tiny_network import change_card, painted, write_tiny_bundle
from vision_msgs.msg import Detection2DArray

from cone_perception.engines.tensorrt.gpu import read_gpu
from cone_perception.errors import BUILD_FAILED_STATUS, FAILURE_STATUS, EngineError
from cone_perception.ros.transport import NODE_SEGMENT_BYTES

pytestmark = pytest.mark.ros

WARN, ERROR = 1, 2
LIMIT_S = 3.0
GREY, WHITE = 114, 255
PLANTED = str(Path(__file__).with_name('planted_engine.py'))

HANGING_COMPILER = """
import time

__version__ = '10.9.0'


def __getattr__(name):
    time.sleep(600)
"""

CRASHING_COMPILER = """
import os
import signal

__version__ = '10.9.0'


def __getattr__(name):
    if name == 'Builder':
        os.kill(os.getpid(), signal.SIGSEGV)
    raise AttributeError(name)


class ILogger:
    def __init__(self):
        pass
"""

GPU_WITHOUT_DRIVER = """
import sys

from cone_perception import cli
from cone_perception.engines.tensorrt import order
from cone_perception.engines.tensorrt.gpu import Gpu

order.read_gpu = lambda: Gpu('NVIDIA GeForce RTX 4060', '8.9', '560.35', '12.6')
sys.exit(cli.main(sys.argv[1:]))
"""


def has_gpu() -> bool:
    try:
        read_gpu()
    except EngineError:
        return False
    return True


needs_no_gpu = pytest.mark.skipif(has_gpu(), reason='this machine has an NVIDIA GPU')


def picture(grey: int, stamp_ns: int) -> Image:
    return ros_message(encode(np.full((384, 640, 3), grey, np.uint8), 'bgr8'), stamp_ns)


def send_until(observer, publisher, grey: int, condition) -> None:
    """Again and again: a subscription may be matched on this side only, or a frame be dropped."""

    def send():
        publisher.publish(picture(grey, observer.next_stamp_ns()))
        time.sleep(0.05)
        return condition()

    wait_for(send, 'what the pictures lead to')


def start(folder: Path, name: str, *planted: str, **parameters: str) -> NodeProcess:
    """Start a node. planted: kind and arguments of an engine of planted_engine.py."""
    bundle = folder / 'tiny'
    if not bundle.exists():
        write_tiny_bundle(bundle)
    given = {'model': str(bundle)} | parameters
    program = {'program': (PLANTED, *planted)} if planted else {}
    return NodeProcess(folder / 'node.log', given, '-r', f'__ns:=/{name}', **program)


@needs_no_gpu
def test_auto_takes_the_cpu_and_warns_why(observer, tmp_path):
    """A card whose gate failed is told in the same place, until it is replaced."""
    write_tiny_bundle(tmp_path / 'tiny')
    figures = {'int8-uint8': {'passed': False, 'failures': ['mAP50 fell by 0.31']}}
    change_card(tmp_path / 'tiny', gate={'passed': False, 'figures': figures})
    process = start(tmp_path, 'auto', device='auto')
    process.wait_for_output('active: listening')
    lines = process.output.splitlines()
    assert any('[WARN]' in line and 'auto takes the CPU: this machine' in line for line in lines)
    assert any('[ERROR]' in line and 'tiny FAILED the gate' in line for line in lines)
    status = observer.wait_for_diagnostics('auto/detector: node', lambda s: s.level == WARN)
    assert 'device: auto takes the CPU: this machine has no NVIDIA driver' in status.message
    assert 'tiny FAILED the gate' in status.message
    assert 'int8-uint8: mAP50 fell by 0.31' in status.message
    assert status.values['gate'] == 'FAILED'
    assert 'CPU' in status.values['engine']
    assert process.stop()[0] == 0


@needs_no_gpu
@pytest.mark.parametrize('setting', [{'device': 'cuda'}, {'engine': 'tensorrt', 'device': 'auto'}])
def test_what_names_the_gpu_never_takes_the_cpu(observer, tmp_path, setting):
    (name, value), *_ = setting.items()
    process = start(tmp_path, 'cuda', **setting)
    process.wait_for_output('not configured')
    lines = [line for line in process.output.splitlines() if '[ERROR]' in line]
    assert len(lines) == 1
    assert f'{name}: {value} is set, but this machine has no NVIDIA driver' in lines[0]
    status = observer.wait_for_diagnostics('cuda/detector: node', lambda s: s.level == ERROR)
    assert f'{name}: {value} is set' in status.message
    assert status.values['state'] == 'unconfigured'
    assert process.stop()[0] == 0


@needs_no_gpu
def test_build_only_without_a_gpu_ends_with_a_failure_that_launch_does_not_repeat(ros, tmp_path):
    process = start(tmp_path, 'only', build_only='true', device='auto')
    assert process.process.wait(20) == BUILD_FAILED_STATUS
    assert 'build_only: true is set, but this machine has no NVIDIA driver' in process.output
    assert 'active' not in process.output


def start_failing(tmp_path, error, brightness, **parameters):
    return start(tmp_path, 'lost', 'FailingEngine', error, str(brightness), **parameters)


def test_build_only_says_where_the_engine_lies_and_ends_well(ros, tmp_path):
    process = start_failing(tmp_path, 'EngineError', 256, build_only='true', device='auto')
    assert process.process.wait(20) == 0
    assert 'the engine is built and checked: /cache/tiny.plan' in process.output
    assert 'active' not in process.output


def test_gpu_that_is_lost_while_it_only_builds_is_not_tried_again(ros, tmp_path):
    process = start_failing(tmp_path, 'EngineLostError', GREY, build_only='true', device='auto')
    assert process.process.wait(20) == BUILD_FAILED_STATUS
    assert '[FATAL]' in process.output


def lose_gpu(observer, tmp_path, error):
    process = start_failing(tmp_path, error, WHITE)
    process.wait_for_output('active: listening')
    publisher = observer.publisher('/lost/camera/image', Image)
    wait_for(publisher.get_subscription_count, 'the subscription')
    return process, publisher


def test_lost_gpu_is_told_and_ends_the_process_for_a_new_one(observer, tmp_path):
    process, publisher = lose_gpu(observer, tmp_path, 'EngineLostError')
    observer.wait_for_diagnostics('lost/detector: node', lambda s: s.level == 0)
    own = [path for path, size in process.shared_memory().items() if size > NODE_SEGMENT_BYTES]
    send_until(observer, publisher, WHITE, lambda: 'the GPU said so' in process.output)
    seen = time.monotonic()
    assert process.process.wait(20) > 0
    assert time.monotonic() - seen < LIMIT_S
    assert '[FATAL]' in process.output
    assert 'Traceback' not in process.output
    node = observer.diagnostics('lost/detector: node')
    assert node.level == ERROR
    assert 'the GPU said so' in node.message
    assert not own[0].exists()


def test_gpu_that_is_lost_while_it_warms_up_ends_the_process_too(observer, tmp_path):
    process = start_failing(tmp_path, 'EngineLostError', GREY)
    assert process.process.wait(20) > 0
    assert '[FATAL]' in process.output
    assert 'Traceback' not in process.output
    assert 'the GPU said so' in observer.diagnostics('lost/detector: node').message


def test_full_gpu_memory_fails_one_frame_only(observer, tmp_path):
    process, publisher = lose_gpu(observer, tmp_path, 'GpuMemoryError')
    answers = observer.listen('/lost/camera/detections', Detection2DArray)
    complaint = 'no answer for camera: the GPU said so'
    send_until(observer, publisher, WHITE, lambda: complaint in process.output)
    assert not answers
    send_until(observer, publisher, GREY, lambda: answers)
    assert process.stop()[0] == 0


def descendants_named(text: str) -> list[int]:
    """Processes of this machine whose command line holds `text`."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            if text in (folder / 'cmdline').read_text():
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def test_engine_that_reads_the_cameras_bytes_gets_them_unconverted(observer, tmp_path):
    """Padding included; what it does not read comes as bgr8, and what is too short fails alone."""
    process = start(tmp_path, 'bytes', 'CameraEngine')
    process.wait_for_output('active: listening')
    topic = '/bytes/camera/detections'
    answers = observer.listen(topic, Detection2DArray)
    debug = observer.listen('/bytes/camera/debug_image', Image)
    publisher = observer.publisher('/bytes/camera/image', Image)
    wait_for(publisher.get_subscription_count, 'the subscription')
    bgr = painted(('blue_cone', 96, 64, 32, 32), height_px=384, width_px=640)

    def all_topics_are_matched():
        publisher.publish(ros_message(encode(bgr, 'bgr8'), observer.next_stamp_ns()))
        time.sleep(0.2)
        return answers and debug

    wait_for(all_topics_are_matched, 'an answer and a debug image')

    def ask(encoding: str, padding: int) -> str:
        """Send the picture, wait for answer and debug image; what the engine printed."""
        seen, stamp_ns = len(process.output), observer.next_stamp_ns()
        publisher.publish(ros_message(encode(bgr, encoding, padding), stamp_ns))
        answer = wait_for(lambda: observer.answer(topic, stamp_ns), 'the answer')
        (cone,) = answer.detections
        assert cone.results[0].hypothesis.class_id == 'blue_cone'
        assert (cone.bbox.center.position.x, cone.bbox.size_x) == (112, 32)
        wait_for(lambda: any(stamp_ns_of(d) == stamp_ns for d in debug), 'the debug image')
        return process.output[seen:]

    assert 'got yuv422 of 1288 bytes a row' in ask('yuv422', 8)
    assert 'got bgr8 of 1920 bytes a row' in ask('bgra8', 0)
    fields = encode(bgr, 'yuv422')
    fields.data = fields.data[:-100]
    publisher.publish(ros_message(fields, observer.next_stamp_ns()))
    process.wait_for_output('no answer for camera')
    values = observer.wait_for_diagnostics('bytes/detector: node', lambda s: True).values
    assert values['launches'] == 'none: this is a CPU'
    assert values['overflows'] == '3'
    assert process.stop()[0] == 0


class Pipelined:
    """A node whose engine takes two frames at once, and pictures that it answers one by one."""

    def __init__(self, observer, folder):
        self.release = folder / 'release'
        # Each picture counts: one that gets lost on the way is sent again.
        given = {'reliability': 'reliable'}
        self.process = start(folder, 'two', 'TwoAtOnce', str(self.release), **given)
        self.process.wait_for_output('active: listening')
        self._observer = observer
        self._answers = observer.listen('/two/camera/detections', Detection2DArray)
        self._publisher = observer.publisher('/two/camera/image', Image)
        wait_for(self._publisher.get_subscription_count, 'the subscription')
        send_until(observer, self._publisher, GREY, lambda: self._answers)
        wait_for(lambda: not self.send_and_look(), 'silence after the last of them')
        self._answers.clear()
        self.sent = {}

    def send_and_look(self):
        """Tell whether an answer comes that was not asked for."""
        seen = len(self._answers)
        time.sleep(0.3)
        return len(self._answers) > seen

    def send(self, grey, taken=True):
        stamp_ns = self._observer.next_stamp_ns()
        self.sent[stamp_ns] = grey
        self._publisher.publish(picture(grey, stamp_ns))
        if taken:
            self.process.wait_for_output(f'in {grey}.')

    def wait_for_answers(self, count):
        """The greys that were answered since the set-up, in the order of the answers."""

        def answered():
            stamps_ns = map(stamp_ns_of, list(self._answers))
            return [self.sent[stamp_ns] for stamp_ns in stamps_ns if stamp_ns in self.sent]

        wait_for(lambda: len(answered()) >= count, f'{count} answers')
        return answered()


@pytest.fixture
def pipelined(observer, tmp_path):
    pipelined = Pipelined(observer, tmp_path)
    yield pipelined
    pipelined.process.process.kill()


def test_two_frames_overlap_on_a_gpu_and_are_answered_in_order(pipelined):
    """The first is in the engine until the second has left it. Of what waits, only the newest."""
    pipelined.send(100)
    pipelined.send(101)
    assert pipelined.wait_for_answers(2) == [100, 101]
    pipelined.send(120)
    pipelined.send(121)
    pipelined.send(40, taken=False)
    time.sleep(0.3)
    pipelined.send(41, taken=False)
    time.sleep(0.3)
    assert 'in 40.' not in pipelined.process.output
    assert 'in 41.' not in pipelined.process.output
    pipelined.release.touch()
    assert pipelined.wait_for_answers(5) == [100, 101, 120, 121, 41]
    assert pipelined.process.stop()[0] == 0
    assert 'Traceback' not in pipelined.process.output


@pytest.mark.parametrize('greys, answered', [((102, 101), 101), ((100, 103), 100)])
def test_one_of_two_frames_fails_alone(pipelined, greys, answered):
    for grey in greys:
        pipelined.send(grey)
    (failed,) = set(greys) - {answered}
    pipelined.process.wait_for_output(f'no answer for camera: {failed} failed')
    pipelined.send(50)
    assert pipelined.wait_for_answers(2) == [answered, 50]
    assert pipelined.process.stop()[0] == 0


def test_node_ends_in_time_with_two_frames_that_hang(pipelined, observer):
    pipelined.send(120)
    pipelined.send(121)
    assert observer.change_state('/two/detector', 'deactivate')
    assert observer.change_state('/two/detector', 'activate')
    pipelined.send(60, taken=False)  # both places are taken by what hangs
    status, seconds = pipelined.process.stop()
    assert (status, pipelined.wait_for_answers(0)) == (0, [])
    assert seconds < LIMIT_S
    assert 'in 60.' not in pipelined.process.output


def test_gpu_that_is_lost_with_two_frames_is_told_once(pipelined):
    pipelined.send(130)
    pipelined.send(130)
    assert pipelined.process.process.wait(20) == FAILURE_STATUS
    assert pipelined.process.output.count('[FATAL]') == 1
    assert 'Traceback' not in pipelined.process.output


def start_with_compiler(folder: Path, source: str, **parameters: str) -> NodeProcess:
    """A node on a machine with a GPU, as far as it sees, and this module for TensorRT."""
    modules = folder / 'modules'
    (modules / 'pycuda').mkdir(parents=True, exist_ok=True)
    (modules / 'pycuda' / '__init__.py').touch()
    (modules / 'pycuda' / 'driver.py').touch()
    (modules / 'tensorrt.py').write_text(source)
    script = folder / 'with_gpu.py'
    script.write_text(GPU_WITHOUT_DRIVER)
    if not (folder / 'tiny').exists():
        write_tiny_bundle(folder / 'tiny')
    return NodeProcess(
        folder / 'node.log',
        {'model': str(folder / 'tiny')} | parameters,
        *('-r', '__ns:=/build'),
        program=(str(script),),
        PYTHONPATH=os.pathsep.join([str(modules), *filter(None, sys.path)]),
        XDG_CACHE_HOME=str(folder / 'cache'),
    )


@needs_no_gpu
def test_compiler_that_crashes_is_tried_once_and_named_at_each_start(observer, tmp_path):
    process = start_with_compiler(tmp_path, CRASHING_COMPILER, device='auto')
    process.wait_for_output('active: listening')
    assert 'there is no engine of tiny' in process.output
    assert 'auto takes the CPU: the compiler crashed (SIGSEGV)' in process.output
    assert process.stop()[0] == 0
    process = start_with_compiler(tmp_path, CRASHING_COMPILER, device='auto')
    process.wait_for_output('active: listening')
    assert 'there is no engine of tiny' not in process.output  # why the first start built one
    status = observer.wait_for_diagnostics('build/detector: node', lambda s: s.level == WARN)
    assert 'could not be built here at 20' in status.message
    assert 'the compiler crashed (SIGSEGV)' in status.message
    assert f'run `cone-perception build-engine {tmp_path / "tiny"}' in status.message
    assert process.stop()[0] == 0
    assert 'Traceback' not in process.output


@needs_no_gpu
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_build_is_shown_and_ends_with_the_node(observer, tmp_path, number):
    """The compiler hangs in a process of its own; the node answers all the while."""
    process = start_with_compiler(tmp_path, HANGING_COMPILER, device='cuda')
    process.wait_for_output('building the engine')
    network = str(tmp_path / 'tiny' / 'tiny.onnx')
    builders = wait_for(lambda: descendants_named(network), "the compiler's process")
    status = observer.wait_for_diagnostics(
        'build/detector: node', lambda s: s.message.startswith('building the engine')
    )
    assert status.level == WARN
    assert status.values['state'] == 'configuring'
    ended, seconds = process.stop(number)
    assert seconds < LIMIT_S
    assert ended == (0 if number == signal.SIGINT else -signal.SIGKILL)
    wait_for(lambda: not set(builders) & set(descendants_named(network)), 'the end of the compiler')
    assert 'Traceback' not in process.output
