"""Repairs of rclpy's LifecycleNode. A test fails when one is not needed any more."""

from __future__ import annotations

from importlib.metadata import version

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from cone_perception.errors import one_line

FIRST_RCLPY_THAT_REFUSES = 9
"""Major version of rclpy in Kilted; Jazzy has 7, Humble 3."""


class RobustLifecycleNode(LifecycleNode):
    """A LifecycleNode that refuses impossible transitions and leaves no shared memory behind."""

    if int(version('rclpy').partition('.')[0]) < FIRST_RCLPY_THAT_REFUSES:

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
