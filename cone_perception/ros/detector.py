"""The lifecycle node: loads, listens and stops on request, and reports its state."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from cone_perception.errors import (
    BUILD_FAILED_STATUS,
    FAILURE_STATUS,
    EngineLostError,
    SettingsError,
    describe,
    told_as,
)
from cone_perception.ros.diagnostics import node_status
from cone_perception.ros.loading import Loaded, Loader, declare_settings, from_parameter
from cone_perception.ros.publishing import AnswerPublishers
from cone_perception.ros.rclpy_repairs import RobustLifecycleNode
from cone_perception.ros.session import LAST_WORDS_S, STOP_TIMEOUT_S, Session
from cone_perception.ros.transport import shared_memory_shortage
from cone_perception.settings import DetectorSettings


class DetectorNode(RobustLifecycleNode):
    """configure loads the network, activate subscribes; a worker's thread answers the frames."""

    def __init__(self, end: Callable[[int], None]) -> None:
        """Declare the settings. end: asks, from any thread, to end the process with a status."""
        self._end = end
        self._shortage = shared_memory_shortage()  # before this process takes its own share
        super().__init__('detector')
        self._stopping = threading.Event()
        self._lost = False
        self._losing = threading.Lock()
        self._problem = ''
        self._loader = Loader(self, declare_settings(self))
        if self._shortage:
            self.get_logger().warning(f'raw pictures may be lost: {self._shortage}')
        self._settings = DetectorSettings()
        self._loaded: Loaded | None = None
        self._answer_publishers: AnswerPublishers | None = None
        self._session: Session | None = None
        # With the namespace: two detectors must not share a line on the engineer's screen.
        self._diagnostics_name = self.get_fully_qualified_name().lstrip('/')
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # Frames and diagnostics go on while a service call loads a network. The timers run on the
        # steady clock: a bag's /clock that stops must not stop the diagnostics.
        self.frames_group = MutuallyExclusiveCallbackGroup()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, MutuallyExclusiveCallbackGroup(), steady)
        if self.get_parameter('autostart').value or self.get_parameter('build_only').value:
            # In the group of the lifecycle services, so that a call from outside waits for it.
            self._autostart = self.create_timer(0.0, self._start_by_itself, clock=steady)

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        outcome = self._attempt(self._configure, 'not configured')
        if outcome != TransitionCallbackReturn.SUCCESS:
            self._unload()
        return outcome

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt(self._activate, 'not activated')

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_session()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_session()
        self._unload()
        return TransitionCallbackReturn.SUCCESS

    on_error = on_shutdown = on_cleanup

    def stop(self) -> bool:
        """Answer no more frames; False when one, or a load, could not be stopped."""
        self._stopping.set()
        finished = all([self._stop_session(), self._loader.stop(STOP_TIMEOUT_S)])
        if finished:
            self._close_detector()
        return finished

    def _start_by_itself(self) -> None:
        self._autostart.cancel()
        configured = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if self._stopping.is_set():
            return
        if self.get_parameter('build_only').value:
            if self._loaded is not None:
                plan = self._loaded.placed.plan
                self.get_logger().info(f'the engine is built and checked: {plan}')
            self._end(0 if configured else self._failure_status())
        elif configured:
            self.trigger_activate()

    def _attempt(self, work: Callable[[], None], complaint: str) -> TransitionCallbackReturn:
        """Do the work of a transition; whatever is raised, the node stays and says so."""
        self._problem = ''
        try:
            work()
        except EngineLostError as error:
            self._lose(error)
        except Exception as error:
            self.get_logger().debug(traceback.format_exc())
            self._problem = describe(error)
            if not self._stopping.is_set():
                self.get_logger().error(f'{complaint}: {self._problem}')
        result = TransitionCallbackReturn
        return result.FAILURE if self._problem else result.SUCCESS

    def _configure(self) -> None:
        self._loaded = self._loader.load()
        self._settings = self._loaded.settings
        named = {'image_topics': self._settings.topics, 'info_topics': self._settings.info_topics}
        for setting, topic in ((name, topic) for name, topics in named.items() for topic in topics):
            with told_as(SettingsError, f'{setting}: {topic!r} is no topic', Exception):
                self.resolve_topic_name(topic)  # subscribing would raise it too late, in activate
        detector = self._loaded.detector
        self._answer_publishers = AnswerPublishers(self, self._settings, detector)

    def _activate(self) -> None:
        loaded, publishers = self._loaded, self._answer_publishers
        assert loaded is not None
        assert publishers is not None
        settings, group = self._settings, self.frames_group
        self._session = Session(self, settings, loaded.detector, publishers, group, self._lose)

    def _stop_session(self) -> bool:
        session, self._session = self._session, None
        return session is None or session.stop()

    def _unload(self) -> None:
        publishers, self._answer_publishers = self._answer_publishers, None
        if publishers is not None:
            publishers.close()
        self._close_detector()

    def _close_detector(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None or self._lost:
            return
        try:
            loaded.detector.close()
        except EngineLostError as error:
            self._lose(error)

    def _lose(self, error: EngineLostError) -> None:
        """Let this process end, since only a new one can use the GPU again. Any thread."""
        with self._losing:
            if self._lost:  # two frames were under way
                return
            self._lost = True
        self._problem = describe(error)
        self.get_logger().fatal(f'ends, to be started again: {self._problem}')
        try:
            self._publish_diagnostics()
            self._diagnostics_publisher.wait_for_all_acked(Duration(seconds=LAST_WORDS_S))
        finally:
            self._end(self._failure_status())

    def _failure_status(self) -> int:
        build_only = self.get_parameter('build_only').value
        return BUILD_FAILED_STATUS if build_only else FAILURE_STATUS

    # --- settings ---

    def set_parameters_atomically(
        self, parameter_list: list[Parameter[Any]]
    ) -> SetParametersResult:
        """Set parameters as rclpy does; a refusal names the setting."""
        names = [parameter.name for parameter in parameter_list]
        unknown = [name for name in names if not self.has_parameter(name)]
        if unknown:
            reason = f'there is no setting {", ".join(unknown)}'
            return SetParametersResult(successful=False, reason=reason)
        result = super().set_parameters_atomically(parameter_list)
        if not result.successful:
            result.reason = f'{", ".join(names)}: {result.reason}'
        return result

    def _on_set_parameters(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        """Take live settings over; those that are not have been refused before."""
        known = (p for p in parameters if hasattr(self._settings, p.name))
        try:
            settings = replace(self._settings, **{p.name: from_parameter(p.value) for p in known})
            if self._loaded is not None:
                settings.filters.check_classes(self._loaded.detector.card)
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._settings = settings
        if self._session is not None:
            self._session.settings = settings
        return SetParametersResult(successful=True)

    # --- diagnostics ---

    def _publish_diagnostics(self) -> None:
        name, state = f'{self._diagnostics_name}: node', self._state_machine.current_state[1]
        told = (self._problem, self._loaded, self._loader.progress, self._shortage)
        statuses = [node_status(name, state, *told)]
        session = self._session
        if session is not None:
            statuses += session.statuses(self._diagnostics_name)
        header = Header(stamp=self.get_clock().now().to_msg())
        self._diagnostics_publisher.publish(DiagnosticArray(header=header, status=statuses))
