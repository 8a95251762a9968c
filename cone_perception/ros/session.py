"""One activation of the node: from its subscriptions to its answers."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from cone_perception.answering.answer import Answer, Answering
from cone_perception.answering.health import Health
from cone_perception.answering.inbox import Arrival, Worker
from cone_perception.errors import EngineLostError, describe
from cone_perception.pipeline import ConeDetector
from cone_perception.ros.calibration import CalibrationListener
from cone_perception.ros.diagnostics import camera_status, why_silent
from cone_perception.ros.publishing import AnswerPublishers
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon, bands_of

LOG_PERIOD_S = 5.0
"""A fault that comes with every frame is logged this often; the diagnostics count each."""

MAX_AGE_MS = 10_000.0
"""Stamps older than this, or of the future, are of another clock: a bag's, or another machine's."""

STOP_TIMEOUT_S = 0.7
"""A frame that takes longer is abandoned when the node is deactivated or ends."""

LAST_WORDS_S = 0.3
"""For what is said last to reach who listens, before the process ends."""

STOPPED = 'the node stopped working'


def image_qos(settings: DetectorSettings) -> QoSProfile:
    """Return the quality of service with which the node subscribes to pictures."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=settings.queue_depth,
        reliability=ReliabilityPolicy[settings.reliability.upper()],
    )


class Session:
    """Receives pictures in the executor's thread, and answers the newest in a worker's.

    settings: those that are live may be replaced meanwhile. group: runs the subscriptions'
    callbacks. lose: is told, in any thread, that the engine is lost.
    """

    def __init__(
        self,
        node: Node,
        settings: DetectorSettings,
        detector: ConeDetector,
        publishers: AnswerPublishers,
        group: CallbackGroup,
        lose: Callable[[EngineLostError], None],
    ) -> None:
        self.settings = settings
        self._node = node
        self._publishers = publishers
        self._lose = lose
        self._ended = threading.Event()
        self._looks_twice = bool(bands_of(detector.views))
        self._horizons = {camera: Horizon.of(settings) for camera in settings.cameras}
        names = detector.card.class_names
        self._calibration = CalibrationListener(node, settings, names, self._horizons, group)
        self._rigs = self._calibration.rigs
        self._answering = Answering(
            detector,
            self._horizons,
            settings.side_by_side,
            stereo=settings.stereo,
            locators=self._rigs.locators,
        )
        self._health = Health(settings.cameras, time.monotonic())
        inbox = self._answering.make_inbox(settings.stereo_tolerance_ms)
        self._worker = Worker(inbox, self._answer, detector.at_once)
        self._subscriptions: list[Subscription[Any]] = []
        try:
            for index, topic in enumerate(settings.topics):
                kind: type[Any] = CompressedImage if settings.is_compressed(topic) else Image
                receive = functools.partial(self._receive, index)
                qos = image_qos(settings)
                self._subscriptions.append(
                    node.create_subscription(kind, topic, receive, qos, callback_group=group)
                )
        except Exception:
            self.stop()
            raise
        topics = ', '.join(subscription.topic_name for subscription in self._subscriptions)
        node.get_logger().info(f'active: listening to {topics}')

    def stop(self) -> bool:
        """Listen and answer no more; False when a frame could not be stopped."""
        self._ended.set()
        self._calibration.stop()
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        finished = self._worker.stop(STOP_TIMEOUT_S)
        left = self._worker.clear()
        for arrival in left:
            self._drop(arrival, STOPPED)
        if left:
            self._publishers.wait_for_timing(LAST_WORDS_S)
        return finished

    def statuses(self, prefix: str) -> list[DiagnosticStatus]:
        """Return the status of each camera, named after `prefix`."""
        reports = self._health.report(time.monotonic())
        statuses = []
        for camera, report in reports.items():
            why = self._why_silent(camera) if report.silent_s > self.settings.silence_s else ''
            name = f'{prefix}: {camera}'
            horizon = self._horizons[camera] if self._looks_twice else None
            told = (report, self.settings, why, horizon, self._rigs)
            statuses.append(camera_status(name, camera, *told))
        return statuses

    def _why_silent(self, camera: str) -> str:
        index = 0 if self.settings.side_by_side else self.settings.cameras.index(camera)
        try:
            subscription = self._subscriptions[index]
        except IndexError:  # being deactivated at this moment
            return ''
        type_name = f'sensor_msgs/msg/{subscription.msg_type.__name__}'
        return why_silent(self._node, subscription.topic_name, type_name, subscription.qos_profile)

    def _receive(self, topic: int, message: Any) -> None:
        """Take a picture in and count it; the work is the worker's."""
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        age_ms = (self._node.get_clock().now().nanoseconds - stamp_ns) / 1e6
        known_age_ms = age_ms if 0 <= age_ms <= MAX_AGE_MS else None
        arrival = Arrival(topic, stamp_ns, message, time.monotonic_ns(), known_age_ms)
        for camera in self._answering.cameras_of(topic):
            self._health.received(camera, time.monotonic())
        for pushed_out in self._worker.offer(arrival):
            self._drop(pushed_out, 'a newer frame came')

    def _answer(self, batch: list[Arrival], wait_for_turn: Callable[[], None]) -> None:
        """Answer a batch in a worker's thread; see Worker. A failure publishes nothing."""
        try:
            for answers in self._answering.answer(batch, self.settings.filters):
                if answers[0].outcome == 'failed':
                    self._fail(answers)
                    continue
                wait_for_turn()
                for answer in answers:
                    if answer.outcome == 'answered':
                        self._publish(answer)
                    else:
                        self._end(answer)
        except EngineLostError as error:
            self._lose(error)

    def _publish(self, answer: Answer) -> None:
        if self._ended.is_set():
            self._end(answer.instead('dropped', STOPPED))
            return
        try:
            published = self._publishers.publish(answer)
        except Exception as error:
            if not self._ended.is_set():
                self._fail([answer.instead('failed', describe(error), error)])
            return
        self._end(published)
        unsent = [published.unsent] if published.unsent else []
        shows = {'markers': self._publishers.publish_markers}
        if self.settings.debug_image:
            shows['debug image'] = self._publishers.publish_debug
        for name, show in shows.items():
            try:
                show(answer)
            except Exception as error:  # the answer was sent all the same
                unsent.append(f'{name}: {describe(error)}')
                self._health.unsent(answer.camera, unsent[-1], time.monotonic())
        if unsent and not self._ended.is_set():
            self._node.get_logger().warning(
                f'{answer.camera}: not sent: {"; ".join(unsent)}',
                throttle_duration_sec=LOG_PERIOD_S,
            )

    def _drop(self, arrival: Arrival, reason: str) -> None:
        """Count pictures that were received, and that nobody will answer. Any thread."""
        moments_ns = {'received_ns': arrival.received_ns}
        for camera in self._answering.cameras_of(arrival.topic):
            self._end(Answer(camera, arrival, 'dropped', moments_ns, reason))

    def _fail(self, answers: Sequence[Answer]) -> None:
        """Count pictures that failed for one reason."""
        for answer in answers:
            self._end(answer)
        logger, error = self._node.get_logger(), answers[0].error
        if error is not None:
            logger.debug(''.join(traceback.format_exception(error)))
        logger.warning(
            f'no answer for {", ".join(a.camera for a in answers)}: {answers[0].reason}',
            throttle_duration_sec=LOG_PERIOD_S,
        )

    def _end(self, answer: Answer) -> None:
        """Count what became of a picture, and tell whoever listens. Any thread; never raises."""
        self._health.ended(answer, time.monotonic())
        try:
            self._publishers.publish_timing(answer)
        except Exception as error:  # the node may be cleaned up at this moment
            if not self._ended.is_set():
                self._node.get_logger().warning(
                    f'~/timing of a frame is lost: {describe(error)}',
                    throttle_duration_sec=LOG_PERIOD_S,
                )
