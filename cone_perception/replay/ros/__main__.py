"""The processes of a replay that talk ROS; each reads its job, JSON, from its command line.

player: see `player`. monitor: records what the node puts out into a bag, and logs when each message
came. echo: a node that answers each picture at once with an empty Detection2DArray of the same
header; a replay through it takes what player, DDS and monitor cost, without any detector.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from cone_perception.bags.reader import bag_types, header_stamp_ns
from cone_perception.replay.ros.player import play_job, ros_node, spin

DEPTH = 1000
"""Messages that may wait while the monitor is held up: one that is lost here counts as lost."""


def echo(job: Mapping[str, Any]) -> None:
    """Subscribe and answer as the detector does, on NAME/detections, until SIGINT or SIGTERM.

    job: cameras, see Drive.
    """
    # The others start without what the detector needs.
    from cone_perception.ros.publishing import DETECTIONS_DEPTH
    from cone_perception.ros.session import image_qos
    from cone_perception.settings import DetectorSettings

    with contextlib.suppress(KeyboardInterrupt), ros_node('echo') as node:
        for camera in job['cameras']:
            topic, depth = f'/{camera["name"]}/detections', QoSProfile(depth=DETECTIONS_DEPTH)
            publisher = node.create_publisher(Detection2DArray, topic, depth)

            def answer(message: Any, publisher: Any = publisher) -> None:
                publisher.publish(Detection2DArray(header=message.header))

            kind = CompressedImage if camera['compressed'] else Image
            node.create_subscription(kind, camera['topic'], answer, image_qos(DetectorSettings()))
        for _ in spin(node):
            pass


def record(job: Mapping[str, Any]) -> None:
    """Record topics, as serialised bytes, into a new bag; SIGINT or SIGTERM completes it.

    job: topics, name -> type; out, the bag; log, of JSON lines: topic, stamp_ns, received_ns. A
    bag's times are of the wall clock as usual; the log's of the monotonic one, which all processes
    of a machine share.
    """
    topics: Mapping[str, str] = job['topics']
    with (
        ros_node('bag_monitor') as node,
        Writer(job['out'], version=9, storage_plugin=StoragePlugin.MCAP) as writer,
        Path(job['log']).open('w', buffering=1) as lines,
        # An exception that passed the writer would make it leave the bag without its index.
        contextlib.suppress(KeyboardInterrupt),
    ):
        for topic, type_name in topics.items():
            connection = writer.add_connection(topic, type_name, typestore=bag_types())

            def on_message(data: bytes, topic: str = topic, connection: Any = connection) -> None:
                received_ns = time.monotonic_ns()
                stamp_ns = header_stamp_ns(data)
                entry = {'topic': topic, 'stamp_ns': stamp_ns, 'received_ns': received_ns}
                lines.write(json.dumps(entry) + '\n')
                writer.write(connection, time.time_ns(), data)

            package, _, name = type_name.split('/')
            kind = getattr(importlib.import_module(f'{package}.msg'), name)
            node.create_subscription(kind, topic, on_message, QoSProfile(depth=DEPTH), raw=True)
        ready = False
        for _ in spin(node):
            if not ready and all(node.count_publishers(topic) for topic in topics):
                ready = True
                print('ready', flush=True)


if __name__ == '__main__':
    _, name, text = sys.argv
    sys.exit({'player': play_job, 'monitor': record, 'echo': echo}[name](json.loads(text)))
