"""Detections -> vision_msgs/Detection2DArray, and back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from rclpy.publisher import Publisher
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from cone_perception.bags.detections import from_message as from_message
from cone_perception.types import Detections


class DetectionPublisher:
    """Publishes the cones of one camera's pictures. May be called from any thread.

    Its messages' objects are kept and filled anew: making seven for each cone took longer than
    all else that the node does after the network (docs/results/replay.md).
    """

    def __init__(self, publisher: Publisher[Any], class_names: Sequence[str]) -> None:
        self.publisher = publisher
        self._class_names = class_names
        self._kept: list[Detection2D] = []
        self._lock = threading.Lock()  # of what is kept

    def publish(self, found: Detections, header: Header) -> None:
        """`header` is the picture's own."""
        with self._lock:
            self.publisher.publish(self._fill(found, header))

    def _fill(self, found: Detections, header: Header) -> Detection2DArray:
        while len(self._kept) < len(found):
            self._kept.append(Detection2D(results=[ObjectHypothesisWithPose()]))
        filled = self._kept[: len(found)]
        for detection, (left, top, right, bottom), score, class_id in zip(
            filled,
            found.xyxy_px.tolist(),
            found.score.tolist(),
            found.class_id.tolist(),
            strict=True,
        ):
            detection.header = header
            hypothesis = detection.results[0].hypothesis
            hypothesis.class_id = self._class_names[class_id]
            hypothesis.score = score
            box = detection.bbox
            box.center.position.x = (left + right) / 2
            box.center.position.y = (top + bottom) / 2
            box.size_x = right - left
            box.size_y = bottom - top
        return Detection2DArray(header=header, detections=filled)
