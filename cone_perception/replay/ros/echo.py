"""A node that answers each picture at once with an empty Detection2DArray of the same header.

What a replay through it takes is the cost of player, DDS and monitor, without any detector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from cone_perception.replay.ros.process import read_job, ros_node, spin
from cone_perception.replay.traces import Camera
from cone_perception.ros.publishing import DETECTIONS_DEPTH
from cone_perception.ros.session import image_qos
from cone_perception.settings import DetectorSettings


def echo(cameras: Sequence[Camera]) -> None:
    """Subscribe and answer as the detector does, on NAME/detections, until SIGINT or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt), ros_node('echo') as node:
        for camera in cameras:
            publisher = node.create_publisher(
                Detection2DArray, f'/{camera.name}/detections', QoSProfile(depth=DETECTIONS_DEPTH)
            )
            kind = CompressedImage if camera.compressed else Image
            qos = image_qos(DetectorSettings())
            node.create_subscription(kind, camera.topic, _answer_with(publisher), qos)
        for _ in spin(node):
            pass


def _answer_with(publisher: Any) -> Callable[[Any], None]:
    return lambda message: publisher.publish(Detection2DArray(header=message.header))


if __name__ == '__main__':
    echo([Camera(**camera) for camera in read_job()['cameras']])
