"""The launch file, where `ros2 launch` is installed: it is on apt, not on PyPI."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
from contextlib import contextmanager

import pytest
from node_process import TIMEOUT_S, LoggedProcess
from tiny_network import write_tiny_bundle

from cone_perception.engines.tensorrt.gpu import read_gpu
from cone_perception.errors import EngineError

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        not (shutil.which('ros2') and importlib.util.find_spec('launch_ros')),
        reason='needs ros2 launch, which PyPI does not have; see docs/results/launch.md',
    ),
]


class Launch(LoggedProcess):
    """`ros2 launch` of the detector."""

    def stop(self):
        """Ctrl-C reaches the whole group; returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(TIMEOUT_S)

    def node_pids(self):
        return [int(pid) for pid in re.findall(r'process started with pid \[(\d+)\]', self.output)]


@contextmanager
def launched(folder, **arguments):
    given = {'model': write_tiny_bundle(folder / 'tiny'), 'namespace': 'launched'} | arguments
    command = ['ros2', 'launch', 'cone_perception', 'detector.launch.py']
    command += [f'{name}:={value}' for name, value in given.items()]
    launch = Launch(folder / 'launch.log', command, {'PYTHONUNBUFFERED': '1'})
    try:
        yield launch
    finally:
        if launch.is_alive():
            os.killpg(launch.process.pid, signal.SIGKILL)
    assert 'Traceback' not in launch.output


def test_launch_activates_the_node_and_ends_with_status_0(ros, tmp_path):
    with launched(
        tmp_path,
        device='cpu',
        precision='fp32',
        cameras='left,right',
        image_topics='/a/image,/b/image/compressed',
        debug_image='false',
    ) as launch:
        launch.wait_for_output('listening to /a/image, /b/image/compressed')
        assert launch.stop() == 0
        assert 'auto takes the CPU' not in launch.output
        assert len(launch.node_pids()) == 1


def test_node_that_dies_is_started_again_and_one_that_is_stopped_is_not(ros, tmp_path):
    with launched(tmp_path, device='cpu') as launch:
        launch.wait_for_output('active: listening')
        os.kill(launch.node_pids()[0], signal.SIGKILL)
        launch.wait_for_output('active: listening', count=2)
        os.kill(launch.node_pids()[1], signal.SIGINT)
        assert launch.process.wait(TIMEOUT_S) == 0
        assert len(launch.node_pids()) == 2


@pytest.mark.parametrize('place', ['argument', 'settings file'])
def test_build_only_is_tried_once(ros, tmp_path, place):
    try:
        read_gpu()
        pytest.skip('this machine has an NVIDIA GPU')
    except EngineError:
        pass
    settings = tmp_path / 'settings.yaml'
    settings.write_text('/**: {ros__parameters: {build_only: true}}')
    given = {'build_only': 'true'} if place == 'argument' else {'params_file': settings}
    with launched(tmp_path, **given) as launch:
        launch.process.wait(TIMEOUT_S)
        assert 'build_only: true is set, but this machine has no NVIDIA driver' in launch.output
        assert len(launch.node_pids()) == 1
