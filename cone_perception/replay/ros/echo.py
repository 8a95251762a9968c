"""A node that answers each picture at once with an empty Detection2DArray of the same header.

What a replay through it takes is the cost of player, DDS and monitor, without any detector:
`python -m cone_perception.replay.ros.echo --camera left=/camera/left/image_raw=raw`
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from cone_perception.ros.memory import keep_freed_memory
from cone_perception.ros.transport import use_profile
from cone_perception.settings import DetectorSettings

WAKE_PERIOD_S = 0.1
"""A signal that comes while ROS waits for messages is only seen after the wait."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog='echo', description=__doc__)
    parser.add_argument(
        '--camera',
        action='append',
        required=True,
        metavar='NAME=TOPIC=raw|compressed',
        help='answers go to /NAME/detections; may be repeated',
    )
    args = parser.parse_args(argv)
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('echo')
    try:
        # As the detector subscribes and answers, see there.
        settings = DetectorSettings()
        images = QoSProfile(
            depth=settings.queue_depth,
            reliability=ReliabilityPolicy[settings.reliability.upper()],
        )
        for text in args.camera:
            name, topic, form = text.split('=')
            publisher = node.create_publisher(
                Detection2DArray, f'/{name}/detections', QoSProfile(depth=5)
            )
            kind = CompressedImage if form == 'compressed' else Image
            node.create_subscription(kind, topic, _echo(publisher), images)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                executor.spin_once(timeout_sec=WAKE_PERIOD_S)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _echo(publisher: Any) -> Callable[[Any], None]:
    return lambda message: publisher.publish(Detection2DArray(header=message.header))


if __name__ == '__main__':
    sys.exit(main())
