"""The life of a replay's process that talks ROS: its node, its end on SIGTERM."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from cone_perception.process import keep_freed_memory
from cone_perception.ros.transport import use_profile

WAKE_PERIOD_S = 0.05
"""A signal that comes while ROS waits for messages is only seen after the wait."""


@contextlib.contextmanager
def ros_node(name: str) -> Iterator[Node]:
    """Make this process a ROS node; SIGTERM ends it as Ctrl-C does, by KeyboardInterrupt."""
    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_profile()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def spin(node: Node) -> Iterator[None]:
    """Run the node's callbacks while the iterator is read; yields each WAKE_PERIOD_S or sooner."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while True:
            executor.spin_once(timeout_sec=WAKE_PERIOD_S)
            yield
    finally:
        executor.shutdown(timeout_sec=WAKE_PERIOD_S)
