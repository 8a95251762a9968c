"""Repairs of rclpy: its LifecycleNode, and executors that take each frame at once."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node

from cone_perception.errors import one_line
from cone_perception.ros.transport import KILTED, rclpy_version


class RobustLifecycleNode(LifecycleNode):
    """A LifecycleNode that refuses impossible transitions and leaves no shared memory behind."""

    if rclpy_version() < KILTED:

        def _LifecycleNodeMixin__change_state(  # noqa: N802
            self, transition_id: int
        ) -> TransitionCallbackReturn:
            """Refuse an impossible transition, which up to Jazzy ends the executor.

            rclpy has no public place for this. Kilted refuses by itself: delete it with Jazzy.
            """
            try:
                result: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(  # type: ignore[misc]
                    transition_id
                )
                return result
            except RuntimeError as error:  # rclpy's RCLError is one
                self.get_logger().error(f'transition refused: {one_line(str(error))}')
                return TransitionCallbackReturn.ERROR

    def destroy_node(self) -> None:
        """Destroy the state machine too: no rclpy up to Kilted does, and it keeps DDS's memory."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()


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
