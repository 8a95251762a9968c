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

STAMP_END = 12
"""Bytes of a serialised message up to the end of its stamp: the encapsulation's four, then two
numbers of four. What follows is the calibration, and the same in each message of a camera."""

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
        self._seen: dict[str, bytes] = {}
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
        if self._seen.get(topic) == content[STAMP_END:]:
            return
        self._seen[topic] = content[STAMP_END:]
        message = deserialize_message(content, CameraInfo)
        again = [camera for camera in cameras if self.rigs.take(camera, message)]
        logger, names = self._node.get_logger(), ', '.join(cameras)
        logger.info(f'{names}: the calibration {"changed" if again else "came"} on {topic}')
        for warning in dict.fromkeys(w for c in cameras for w in self.rigs.warnings(c)):
            logger.warning(f'{names}: {warning}')


class MountsFromTf:
    """Asks tf where cameras stand, until it has told of each: a camera does not move on its car."""

    def __init__(self, node: Node, base_frame: str, rigs: Rigs) -> None:
        tf2_ros = importlib.import_module('tf2_ros')
        self._node = node
        self._base_frame = base_frame
        self._rigs = rigs
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        rigs.unmounted = 'no camera_info with a frame_id came, from which tf could lead there'
        group, steady = MutuallyExclusiveCallbackGroup(), Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(LOOK_UP_S, self._look_up, group, steady)

    def stop(self) -> None:
        """Ask and listen no more."""
        if not self._timer.is_canceled():
            self._timer.cancel()
            self._listener.unregister()

    def _look_up(self) -> None:
        frames = self._rigs.unmounted_frames()
        if not frames:
            self.stop()
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
