"""vision_msgs/Detection2DArray -> Detections, whichever library read the message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cone_perception.types import Detections


def from_message(message: Any, class_names: Sequence[str]) -> Detections:
    """The likeliest class of each detection.

    Raises ValueError for a class that is not named, and for a detection without any.
    """
    count = len(message.detections)
    xyxy_px = np.zeros((count, 4), np.float32)
    score = np.zeros(count, np.float32)
    class_id = np.zeros(count, np.int64)
    for index, detection in enumerate(message.detections):
        if not detection.results:
            raise ValueError(f'detection {index} of the message has no class')
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
