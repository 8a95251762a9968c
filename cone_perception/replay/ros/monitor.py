"""Records what the node puts out into a bag, and logs when each message came."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer

from cone_perception.bags.reader import bag_types, header_stamp_ns
from cone_perception.replay.ros.process import read_job, ros_node, spin

DEPTH = 1000
"""Messages that may wait while this process is held up: one that is lost here counts as lost."""

READY = 'ready'
"""Printed as a line of its own when every topic has a publisher."""


def record(out: Path, topics: Mapping[str, str], log: Path) -> None:
    """Record the topics, name -> type, as serialised bytes; SIGINT or SIGTERM completes the bag.

    log: JSON lines: topic, stamp_ns, received_ns. A bag's times are of the wall clock as usual;
    the log's of the monotonic one, which all processes of a machine share.
    """
    with (
        ros_node('bag_monitor') as node,
        Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
        log.open('w', buffering=1) as lines,
        # An exception that passed the writer would make it leave the bag without its index.
        contextlib.suppress(KeyboardInterrupt),
    ):

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
            kind, qos = _message_class(type_name), QoSProfile(depth=DEPTH)
            node.create_subscription(kind, topic, recorder(topic, type_name), qos, raw=True)
        ready = False
        for _ in spin(node):
            if not ready and all(node.count_publishers(topic) for topic in topics):
                ready = True
                print(READY, flush=True)


def _message_class(type_name: str) -> Any:
    """Import the class of a type as `sensor_msgs/msg/Image`."""
    package, _, name = type_name.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


if __name__ == '__main__':
    job = read_job()
    record(Path(job['out']), job['topics'], Path(job['log']))
