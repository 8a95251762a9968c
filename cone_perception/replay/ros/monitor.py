"""Records what the node puts out into a bag, and logs when each message came.

`python -m cone_perception.replay.ros.monitor OUT --log FILE --topic NAME=TYPE` ends, with the bag
complete, on SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import StoragePlugin, Writer

from cone_perception.bags.reader import bag_types, header_stamp_ns
from cone_perception.ros.transport import use_profile

DEPTH = 1000
"""Messages that may wait while this process is held up: one that is lost here counts as lost."""

READY = 'ready'
"""Printed as a line of its own when every topic has a publisher."""

WAKE_PERIOD_S = 0.1
"""A signal that comes while ROS waits for messages is only seen after the wait."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument('out', type=Path, help='new rosbag2 folder')
    parser.add_argument(
        '--topic', action='append', required=True, metavar='NAME=TYPE', help='may be repeated'
    )
    parser.add_argument(
        '--log',
        type=Path,
        required=True,
        help='JSON lines: topic, stamp_ns, received_ns (monotonic)',
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Record until interrupted."""
    parser = argparse.ArgumentParser(prog='monitor', description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    topics = dict(text.split('=', 1) for text in args.topic)
    record(args.out, topics, args.log)
    return 0


def record(out: Path, topics: dict[str, str], log: Path) -> None:
    """Record the topics, name -> type, as serialised bytes; until KeyboardInterrupt.

    A bag's times are of the wall clock as usual; the log's of the monotonic one, which all
    processes of a machine share.
    """
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bag_monitor')
    try:
        with ExitStack() as stack:
            writer = Writer(out, version=9, storage_plugin=StoragePlugin.MCAP)
            stack.enter_context(writer)
            lines = stack.enter_context(log.open('w', buffering=1))

            def recorder(topic: str, type_name: str) -> Callable[[bytes], None]:
                connection = writer.add_connection(topic, type_name, typestore=bag_types())

                def on_message(data: bytes) -> None:
                    received_ns = time.monotonic_ns()
                    stamp_ns = header_stamp_ns(data)
                    entry = {'topic': topic, 'stamp_ns': stamp_ns, 'received_ns': received_ns}
                    lines.write(json.dumps(entry) + '\n')
                    writer.write(connection, time.time_ns(), data)

                return on_message

            for topic, type_name in topics.items():
                package, _, name = type_name.split('/')
                message_class = getattr(importlib.import_module(f'{package}.msg'), name)
                node.create_subscription(
                    message_class,
                    topic,
                    recorder(topic, type_name),
                    QoSProfile(depth=DEPTH),
                    raw=True,
                )
            # An exception that passed the writer would make it leave the bag without its index.
            with suppress(KeyboardInterrupt):
                executor = SingleThreadedExecutor()
                executor.add_node(node)
                while any(node.count_publishers(topic) == 0 for topic in topics):
                    executor.spin_once(timeout_sec=WAKE_PERIOD_S)
                print(READY, flush=True)
                while True:
                    executor.spin_once(timeout_sec=WAKE_PERIOD_S)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
