"""Detections -> vision_msgs/Detection2DArray, and back."""

from __future__ import annotations

from collections.abc import Sequence

from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from cone_perception.detection_array import from_message as from_message
from cone_perception.types import Detections


def to_message(found: Detections, class_names: Sequence[str], header: Header) -> Detection2DArray:
    """The message of one picture; `header` is the picture's own."""
    message = Detection2DArray(header=header)
    for (left, top, right, bottom), score, class_id in zip(
        found.xyxy_px.tolist(), found.score.tolist(), found.class_id.tolist(), strict=True
    ):
        detection = Detection2D(header=header)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = class_names[class_id]
        hypothesis.hypothesis.score = score
        detection.results.append(hypothesis)
        detection.bbox.center.position.x = (left + right) / 2
        detection.bbox.center.position.y = (top + bottom) / 2
        detection.bbox.size_x = right - left
        detection.bbox.size_y = bottom - top
        message.detections.append(detection)
    return message
