"""Listens to camera_info and tf, from which the rigs learn where cones stand."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo

from cone_perception.answering.rigs import Rigs, info_topics
from cone_perception.errors import describe
from cone_perception.positions.rig import Mount
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon

LOOK_UP_S = 0.5


class CalibrationListener:
    """Keeps the rigs of a node's cameras up to date for as long as it listens.

    class_names: of the model card. horizons: camera -> its own. group: runs the callbacks.
    """

    def __init__(
        self,
        node: Node,
        settings: DetectorSettings,
        class_names: Sequence[str],
        horizons: Mapping[str, Horizon],
        group: CallbackGroup,
    ) -> None:
        self._node = node
        images = cycle(map(node.resolve_topic_name, settings.topics))  # one may serve both eyes
        of_images = dict(zip(settings.cameras, images, strict=False))
        named = info_topics(settings, of_images)
        topics = {camera: node.resolve_topic_name(topic) for camera, topic in named.items()}
        self.rigs = rigs = Rigs(settings, of_images, topics, class_names, horizons)
        self._subscriptions: list[Subscription[Any]] = []
        self._mounts: MountsFromTf | None = None
        if settings.mount_from == 'tf' or (
            settings.mount_from == 'auto' and not settings.mount_height_m
        ):
            if importlib.util.find_spec('tf2_ros'):
                self._mounts = MountsFromTf(node, settings.base_frame, rigs)
            else:
                rigs.unmounted = (
                    'tf2_ros is not installed (apt install ros-DISTRO-tf2-ros-py), so tf cannot '
                    'say where the camera stands: install it, or set mount_height_m'
                    + (' and mount_from: settings' if settings.mount_from == 'tf' else '')
                )
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic in dict.fromkeys(topics.values()):
            cameras = [camera for camera, name in topics.items() if name == topic]
            take = functools.partial(self._take, topic, cameras)
            self._subscriptions.append(
                node.create_subscription(
                    CameraInfo, topic, take, qos, callback_group=group, raw=True
                )
            )

    def stop(self) -> None:
        """Listen no more."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        if self._mounts is not None:
            self._mounts.stop()

    def _take(self, topic: str, cameras: list[str], content: bytes) -> None:
        """Take a message in; nearly all are like the one before them, which costs nothing."""
        read = functools.partial(deserialize_message, content, CameraInfo)
        heard = {
            camera: news for camera in cameras if (news := self.rigs.hear(camera, content, read))
        }
        logger = self._node.get_logger()
        for camera, news in heard.items():
            logger.info(f'{camera}: its calibration {news} on {topic}')
            for warning in self.rigs.warnings(camera):
                logger.warning(f'{camera}: {warning}')


class MountsFromTf:
    """Asks tf where cameras stand, until it has told of each: a camera does not move on its car."""

    def __init__(self, node: Node, base_frame: str, rigs: Rigs) -> None:
        self._tf2_ros = importlib.import_module('tf2_ros')
        self._node = node
        self._base_frame = base_frame
        self._rigs = rigs
        self._buffer = self._tf2_ros.Buffer()
        self._listener: Any = None  # each message of /tf costs: not before there is a question
        rigs.unmounted = 'no camera_info with a frame_id came, from which tf could lead there'
        group, steady = MutuallyExclusiveCallbackGroup(), Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(LOOK_UP_S, self._look_up, group, steady)

    def stop(self) -> None:
        """Ask and listen no more."""
        if not self._timer.is_canceled():
            self._timer.cancel()
            if self._listener is not None:
                self._listener.unregister()

    def _look_up(self) -> None:
        frames = self._rigs.unmounted_frames()
        if not frames:
            self.stop()
        elif self._listener is None and any(frames.values()):
            self._listener = self._tf2_ros.TransformListener(self._buffer, self._node)
        for camera, frame_id in frames.items():
            if not frame_id:
                continue
            try:
                found = self._buffer.lookup_transform(self._base_frame, frame_id, Time())
                at, turn = found.transform.translation, found.transform.rotation
                quaternion = turn.x, turn.y, turn.z, turn.w
                mount = Mount.from_transform((at.x, at.y, at.z), quaternion, self._base_frame)
            except Exception as error:
                told = f'tf does not say where {frame_id} stands in {self._base_frame}'
                self._rigs.unmounted = f'{told}: {describe(error)}'
                continue
            self._rigs.mount(camera, mount)
            self._node.get_logger().info(f'{camera}: tf says where it stands in {self._base_frame}')
