"""Detections -> vision_msgs/Detection2DArray, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

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


def from_message(message: Detection2DArray, class_names: Sequence[str]) -> Detections:
    """The likeliest class of each detection. Raises ValueError for a class that is not named."""
    count = len(message.detections)
    xyxy_px = np.zeros((count, 4), np.float32)
    score = np.zeros(count, np.float32)
    class_id = np.zeros(count, np.int64)
    for index, detection in enumerate(message.detections):
        best = max(detection.results, key=lambda result: result.hypothesis.score).hypothesis
        if best.class_id not in class_names:
            raise ValueError(
                f'the message has the class {best.class_id!r}; known are {", ".join(class_names)}'
            )
        centre, box = detection.bbox.center.position, detection.bbox
        half = box.size_x / 2, box.size_y / 2
        xyxy_px[index] = (
            centre.x - half[0],
            centre.y - half[1],
            centre.x + half[0],
            centre.y + half[1],
        )
        score[index] = best.score
        class_id[index] = class_names.index(best.class_id)
    return Detections(xyxy_px, score, class_id)
