"""The launch file, where `ros2 launch` is installed: it is on apt, not on PyPI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess

import pytest
from node_process import TIMEOUT_S, wait_for
from tiny_network import write_tiny_bundle

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        not (shutil.which('ros2') and importlib.util.find_spec('launch_ros')),
        reason='needs ros2 launch, which PyPI does not have; see docs/results/launch.md',
    ),
]


def test_launch_activates_the_node_and_ends_with_status_0(ros, tmp_path):
    log = tmp_path / 'launch.log'
    arguments = {
        'model': write_tiny_bundle(tmp_path / 'tiny'),
        'namespace': 'launched',
        'cameras': 'left,right',
        'image_topics': '/a/image,/b/image/compressed',
        'debug_image': 'false',
    }
    command = ['ros2', 'launch', 'cone_perception', 'detector.launch.py']
    with log.open('w') as stream:
        process = subprocess.Popen(
            [*command, *(f'{name}:={value}' for name, value in arguments.items())],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: 'listening to /a/image, /b/image/compressed' in log.read_text(), log.read_text()
        )
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert 'Traceback' not in log.read_text()
