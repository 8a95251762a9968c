"""The node that only answers: what a replay costs without a detector."""

from __future__ import annotations

import subprocess
import time

import numpy as np
import pytest

from cone_perception.bags.reader import (
    DETECTIONS,
    bag_types,
    header_stamp_ns,
    open_bag,
    read_messages,
    write_image_bag,
)
from cone_perception.replay.processes import python_job
from cone_perception.replay.traces import Camera, Drive, Pace
from cone_perception.types import Frame

pytestmark = pytest.mark.ros


@pytest.mark.parametrize('form', ['raw', 'compressed'])
def test_echo_answers_with_the_header_and_nothing_else(tmp_path, form):
    stamps = [10**18 + index * 100_000_000 for index in range(6)]
    frames = [Frame(np.zeros((8, 8, 3), np.uint8), stamp, 'front_optical') for stamp in stamps]
    topic = '/front/image'
    write_image_bag(tmp_path / 'bag', frames, topic, compressed=form == 'compressed')
    camera = Camera('front', topic, form == 'compressed')
    jobs = {
        'echo': {'cameras': [camera]},
        'monitor': {
            'out': tmp_path / 'answers', 'topics': {'/front/detections': DETECTIONS},
            'log': tmp_path / 'received',
        },
        'player': {
            'drive': Drive(tmp_path / 'bag', '', (camera,), 6, 0.5, 'mcap'), 'pace': Pace(),
            'log': tmp_path / 'sent', 'stamps': 'header', 'wait_s': 30.0, 'answers': {},
            'timing': None,
        },
    }  # fmt: skip
    running = {}
    try:
        for name, job in jobs.items():
            running[name] = subprocess.Popen(python_job(name, job), stdout=subprocess.PIPE)
            if name == 'monitor':
                assert running[name].stdout.readline() == b'ready\n'
        assert running['player'].wait(40) == 0
        time.sleep(0.5)
        for name in ('echo', 'monitor'):
            running[name].terminate()
            assert running[name].wait(10) == 0
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    with open_bag(tmp_path / 'answers') as reader:
        answers = list(read_messages(reader, ['/front/detections']))
    assert len(answers) >= 3, 'best effort: a busy machine may lose some'
    assert {header_stamp_ns(answer.data) for answer in answers} <= set(stamps)
    for answer in answers:
        message = bag_types().deserialize_cdr(answer.data, answer.type_name)
        assert message.header.frame_id == 'front_optical'
        assert len(message.detections) == 0
