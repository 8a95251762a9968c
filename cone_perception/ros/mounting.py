"""Bands that lie where the camera's calibration and its mounting say."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from cone_perception.images import camera_info_topic
from cone_perception.settings import DetectorSettings
from cone_perception.views import Horizon, mounted_row


def mounted_share(info: Any, settings: DetectorSettings) -> float:
    """Row of the band as a share of the picture's height. info: sensor_msgs/CameraInfo.

    P, of the rectified picture, counts where it has numbers, else K. Raises ValueError, with the
    reason, where they cannot be right.
    """
    for name, fy_px, cy_px in (('P', info.p[5], info.p[6]), ('K', info.k[4], info.k[5])):
        if not (fy_px or cy_px):
            continue
        if not (fy_px > 0 and info.height > 0):
            raise ValueError(f'{name} has fy {fy_px:g} for pictures of {info.height} rows')
        height_m, pitch_deg = settings.mount_height_m, settings.mount_pitch_deg
        share = float(mounted_row(fy_px, cy_px, height_m, pitch_deg) / info.height)
        if not 0 <= share <= 1:
            raise ValueError(
                f'with {name} and a pitch of {pitch_deg:g} degrees far cones would stand at row '
                f'{share * info.height:.0f} of {info.height}'
            )
        return share
    raise ValueError('P and K are zero: the camera is not calibrated')


class Mounting:
    """Lays bands where the camera_info beside each image topic says, once it came.

    missing: camera -> why its band follows the boxes all the same. The callbacks run in `group`.
    """

    def __init__(
        self,
        node: Node,
        settings: DetectorSettings,
        horizons: Mapping[str, Horizon],
        group: CallbackGroup,
    ) -> None:
        self.missing: dict[str, str] = {}
        self._node = node
        self._settings = settings
        self._horizons = horizons
        self._group = group
        self._subscriptions: dict[str, Subscription[Any]] = {}

    def listen(self, image_topic: str, cameras: Sequence[str]) -> None:
        """Lay the bands of the cameras whose pictures come on a topic, given by its full name."""
        topic = camera_info_topic(image_topic)
        self.missing |= dict.fromkeys(cameras, f'nothing came on {topic}')
        take = functools.partial(self._take, topic, cameras)
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscriptions[topic] = self._node.create_subscription(
            CameraInfo, topic, take, qos, callback_group=self._group
        )

    def stop(self) -> None:
        """Listen no more."""
        for topic in tuple(self._subscriptions):
            self._forget(topic)

    def _take(self, topic: str, cameras: Sequence[str], info: Any) -> None:
        logger = self._node.get_logger()
        try:
            share = mounted_share(info, self._settings)
        except ValueError as error:
            self.missing |= dict.fromkeys(cameras, f'{topic}: {error}')
            text = f'the band follows the boxes, not the mounting: {topic}: {error}'
            logger.warning(text, once=True)
            return
        for camera in cameras:
            self._horizons[camera].fixed = share
            self.missing.pop(camera, None)
        names = ', '.join(cameras)
        logger.info(f'{names}: by the mounting the band lies at {share:.3f} of the height')
        self._forget(topic)  # a calibration stays, and each message costs

    def _forget(self, topic: str) -> None:
        if subscription := self._subscriptions.pop(topic, None):
            self._node.destroy_subscription(subscription)
