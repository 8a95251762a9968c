"""The player of bags and the monitor, each in a process of its own, over DDS."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from cone_perception.bags import header_stamp_ns, open_bag, read_messages, write_image_bag
from cone_perception.types import Frame

pytestmark = pytest.mark.ros

TOPIC = '/camera/image'
START_NS = 1_700_000_000_000_000_000
GAPS_NS = (0, 40_000_000, 240_000_000, 260_000_000)


@pytest.fixture
def start():
    """Starts a module in a process that ends with the test."""
    started = []

    def popen(module, *arguments):
        command = [sys.executable, '-m', f'cone_perception.ros.{module}', *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def bag(tmp_path):
    """Four small pictures at uneven times, told apart by their brightness."""
    frames = [
        Frame(np.full((4, 6, 3), 10 * index, np.uint8), START_NS + gap, 'left')
        for index, gap in enumerate(GAPS_NS)
    ]
    write_image_bag(tmp_path / 'bag', frames, TOPIC)
    return tmp_path / 'bag'


def read_log(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_monitor_records_what_the_player_sends_byte_by_byte(tmp_path, bag, start):
    out, sent, received = tmp_path / 'recorded', tmp_path / 'sent', tmp_path / 'received'
    topic = f'{TOPIC}=sensor_msgs/msg/Image'
    monitor = start('monitor', out, '--topic', topic, '--log', received)
    player = start('player', bag, '--topic', TOPIC, '--log', sent)
    assert player.wait(40) == 0, player.stderr.read()
    time.sleep(0.5)
    monitor.terminate()
    assert monitor.wait(10) == 0, monitor.stderr.read()
    assert monitor.stdout.read() == 'ready\n'
    with open_bag(bag) as played, open_bag(out) as recorded:
        before = [message.data for message in read_messages(played, [TOPIC])]
        after = [message.data for message in read_messages(recorded, [TOPIC])]
    assert after == before
    stamps = [header_stamp_ns(data) for data in before]
    assert [entry['stamp_ns'] for entry in read_log(sent)] == stamps
    assert [entry['stamp_ns'] for entry in read_log(received)] == stamps
    for out_entry, back_entry in zip(read_log(sent), read_log(received), strict=True):
        assert out_entry['sent_ns'] < back_entry['received_ns']


def test_player_keeps_the_gaps_of_the_bag_and_never_hurries(tmp_path, bag, start):
    sent = tmp_path / 'sent'
    topic = f'{TOPIC}=sensor_msgs/msg/Image'
    monitor = start('monitor', tmp_path / 'out', '--topic', topic, '--log', tmp_path / 'log')
    player = start('player', bag, '--topic', TOPIC, '--log', sent)
    assert player.wait(40) == 0, player.stderr.read()
    monitor.terminate()
    assert monitor.wait(10) == 0
    times_ns = [entry['sent_ns'] for entry in read_log(sent)]
    for gap_ns, time_ns in zip(GAPS_NS, times_ns, strict=True):
        assert time_ns - times_ns[0] >= gap_ns - 5_000_000


def test_clock_of_the_player_is_the_bags_and_never_goes_back(tmp_path, bag, start):
    recorded = tmp_path / 'recorded'
    monitor = start(
        'monitor', recorded, '--topic', '/clock=rosgraph_msgs/msg/Clock',
        '--topic', f'{TOPIC}=sensor_msgs/msg/Image', '--log', tmp_path / 'log',
    )  # fmt: skip
    player = start('player', bag, '--topic', TOPIC, '--clock')
    assert player.wait(40) == 0, player.stderr.read()
    time.sleep(0.5)
    monitor.terminate()
    assert monitor.wait(10) == 0, monitor.stderr.read()
    with open_bag(recorded) as reader:
        # A Clock is a stamp alone, which lies where the stamp of a header does.
        ticks = [header_stamp_ns(message.data) for message in read_messages(reader, ['/clock'])]
    assert len(ticks) > 10
    assert ticks == sorted(ticks)
    assert ticks[0] >= START_NS
    assert ticks[-1] == START_NS + GAPS_NS[-1]


def test_player_that_nobody_hears_says_so(bag, start):
    player = start('player', bag, '--topic', TOPIC, '--wait-s', '0.5')
    assert player.wait(20) == 1
    assert f'nobody subscribed to {TOPIC}' in player.stderr.read()


def test_player_refuses_a_topic_that_the_bag_lacks(bag, start):
    player = start('player', bag, '--topic', '/lidar')
    assert player.wait(20) == 1
    assert f'no topic /lidar; it has {TOPIC}' in player.stderr.read()
