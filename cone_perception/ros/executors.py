"""Executors of the node's callbacks: frames in a thread of their own, the rest in others."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node


class FramesExecutor(SingleThreadedExecutor):
    """Runs the callbacks of one group of a node, in the thread that spins it.

    Not rclpy's MultiThreadedExecutor: until the pool's thread has begun a callback, it submits that
    again and again, and holds Python's lock meanwhile. With a network that keeps the cores busy it
    took 4 to 25 ms of CPU time for each frame, and frames were lost before they were taken.
    """

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        super().__init__()
        self._node = node
        self.group = group

    def get_nodes(self) -> list[Node]:
        """Return the node, which belongs to the executor of its other groups."""
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        return entity.callback_group is self.group and super().can_execute(entity)


class OtherExecutor(MultiThreadedExecutor):
    """Runs the callbacks of all other groups: services, timers. A node is added to this one."""

    def __init__(self, frames: FramesExecutor) -> None:
        super().__init__(num_threads=2)
        self._frames = frames

    def wake(self) -> None:
        """Wake both executors when the node gets or loses something to wait for."""
        super().wake()
        self._frames.wake()

    def can_execute(self, entity: Any) -> bool:
        return entity.callback_group is not self._frames.group and super().can_execute(entity)
