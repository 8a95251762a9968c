"""Plays a bag's topics over DDS with the gaps they were recorded with, and logs when it sent what.

`python -m cone_perception.ros.player BAG --topic /camera/image --log sent.jsonl`
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from cone_perception.bags import BagMessage, header_stamp_ns, open_bag, read_messages
from cone_perception.errors import ConePerceptionError, SourceError
from cone_perception.ros.memory import keep_freed_memory
from cone_perception.ros.transport import use_profile

CLOCK_PERIOD_S = 0.01
SETTLE_S = 0.5
"""Between the discovery of the last subscriber and the first message: the other side of each
connection may learn of it a little later."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument('bag', type=Path, help='rosbag2 folder or file')
    parser.add_argument('--topic', action='append', required=True, help='may be given repeatedly')
    parser.add_argument('--log', type=Path, help='JSON lines: topic, stamp_ns, sent_ns (monotonic)')
    parser.add_argument(
        '--wait-s', type=float, default=30.0, help='for a subscriber to every topic'
    )
    parser.add_argument('--clock', action='store_true', help='publish /clock for use_sim_time')


def main(argv: Sequence[str] | None = None) -> int:
    """Play the bag; 0 when all of it was sent."""
    parser = argparse.ArgumentParser(prog='player', description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        play(args.bag, args.topic, args.log, args.wait_s, args.clock)
    except ConePerceptionError as error:
        print(f'player: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def play(bag: Path, topics: Sequence[str], log: Path | None, wait_s: float, clock: bool) -> None:
    """Send every message of `topics` as it was recorded, bytes and gaps alike.

    Raises SourceError when the bag lacks a topic, or nobody subscribes within `wait_s`.
    """
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bag_player')
    try:
        with open_bag(bag) as reader, contextlib.ExitStack() as stack:
            types = {c.topic: c.msgtype for c in reader.connections}
            missing = sorted(set(topics) - set(types))
            if missing:
                raise SourceError(
                    f'{bag} has no topic {", ".join(missing)}; it has {", ".join(sorted(types))}'
                )
            publishers = {
                topic: node.create_publisher(
                    _message_class(types[topic]), topic, QoSProfile(depth=10)
                )
                for topic in topics
            }
            tick = _ClockTicker(node.create_publisher(Clock, '/clock', 10)) if clock else None
            _wait_for_subscribers(publishers, wait_s)
            lines = stack.enter_context(log.open('w', buffering=1)) if log else None
            count = sum(c.msgcount for c in reader.connections if c.topic in publishers)
            messages = tqdm(read_messages(reader, topics), 'playing', count, unit='message')
            for message in _at_their_times(messages, tick):
                sent_ns = time.monotonic_ns()
                publishers[message.topic].publish(message.data)
                if lines:
                    entry = {
                        'topic': message.topic,
                        'stamp_ns': header_stamp_ns(message.data),
                        'sent_ns': sent_ns,
                    }
                    lines.write(json.dumps(entry) + '\n')
            for publisher in publishers.values():
                _wait_until_sent(publisher)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _at_their_times(
    messages: Iterable[BagMessage], tick: _ClockTicker | None
) -> Iterator[BagMessage]:
    """Each message when its gap to the first one has passed; read from the disk before that."""
    first_ns: int | None = None
    started_ns = 0
    for message in messages:
        if first_ns is None:
            first_ns, started_ns = message.time_ns, time.monotonic_ns()
        due_ns = started_ns + message.time_ns - first_ns
        while (left_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
            if tick is not None:
                tick.publish(first_ns + time.monotonic_ns() - started_ns)
                left_s = min(left_s, CLOCK_PERIOD_S)
            time.sleep(left_s)
        if tick is not None:
            tick.publish(message.time_ns)
        yield message


class _ClockTicker:
    """Publishes the bag's time; never backwards."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher
        self._last_ns = -1

    def publish(self, time_ns: int) -> None:
        if time_ns > self._last_ns:
            self._last_ns = time_ns
            sec, nanosec = divmod(time_ns, 10**9)
            self._publisher.publish(Clock(clock=Time(sec=sec, nanosec=nanosec)))


def _message_class(type_name: str) -> Any:
    """`sensor_msgs/msg/Image` -> its class."""
    package, _, name = type_name.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def _wait_for_subscribers(publishers: dict[str, Any], wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while silent := [t for t, p in publishers.items() if p.get_subscription_count() == 0]:
        if time.monotonic() > deadline:
            raise SourceError(
                f'nobody subscribed to {", ".join(silent)} within {wait_s:g} s: is the node '
                'active, on this ROS_DOMAIN_ID, and set to this topic?'
            )
        time.sleep(0.02)
    time.sleep(SETTLE_S)


def _wait_until_sent(publisher: Any) -> None:
    """Let reliable subscribers acknowledge the last messages before the publisher goes."""
    publisher.wait_for_all_acked(Duration(seconds=2))


if __name__ == '__main__':
    sys.exit(main())
