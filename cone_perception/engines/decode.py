"""Network output -> Detections, in the layouts that YOLO networks come in."""

from __future__ import annotations

import cv2
import numpy as np

from cone_perception.errors import ModelError
from cone_perception.types import Detections, Float32, Int64, OutputLayout


def read_layout(output_shape: tuple[int, ...], class_count: int) -> OutputLayout:
    """Tell the layout of a network's output from its shape.

    Raises ModelError when the shape is none of the known ones for `class_count` classes.
    """
    if len(output_shape) == 3:
        _, rows, columns = output_shape
        if rows == 4 + class_count and columns > rows:
            return 'anchors'
        if columns == 6 and rows > columns:
            return 'end_to_end'
    raise ModelError(
        f'the network outputs {list(output_shape)}, which is no layout known for '
        f'{class_count} classes: neither [B, {4 + class_count}, anchors] (YOLO11, YOLO12) nor '
        '[B, boxes, 6] (YOLO26, YOLOv10). Export it for detection with the classes of its card.'
    )


def decode(
    output: Float32, layout: OutputLayout, thresholds: Float32, nms_iou: float
) -> Detections:
    """Decode one picture's output into boxes in network pixels, best score first.

    output: (4 + classes, A) or (N, 6) float32, one picture of the batch.
    thresholds: (classes,) float32, least score that a class needs.
    nms_iou: boxes of one class that overlap more are one cone (layout anchors only).
    The layout end_to_end holds the best class's score alone: class_score stays None.
    Raises ModelError on values that are not finite and on classes that the card does not have.
    """
    score = output[4:].max(axis=0) if layout == 'anchors' else output[:, 4]
    if not np.isfinite(score).all():
        raise ModelError(
            'the network put out scores that are not numbers. Its quantisation or its precision '
            'is broken: export it again and compare with FP32.'
        )
    keep = np.flatnonzero(score >= thresholds.min())  # of thousands, few need a closer look
    if layout == 'anchors':
        class_id: Int64 = output[4:, keep].argmax(axis=0)
    else:
        classes = np.nan_to_num(output[:, 5], nan=-1).astype(np.int64)
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(thresholds):
            raise ModelError(
                f'the network found class {int(classes.max())}, but its card names only '
                f'{len(thresholds)} classes. File and card come from different exports.'
            )
        if (output[:, 5] % 1).any():
            raise ModelError(
                "the network's sixth column holds no whole numbers, so it is no class: that of "
                'RT-DETR with two classes has scores there. Export a YOLO network for detection.'
            )
        class_id = classes[keep]
    enough = score[keep] >= thresholds[class_id]
    keep, class_id = keep[enough], class_id[enough]
    score = score[keep]
    if layout == 'anchors':
        centre, size = output[:2, keep].T, output[2:4, keep].T
        xyxy = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        chosen = cv2.dnn.NMSBoxesBatched(
            xywh.tolist(), score.tolist(), class_id.tolist(), 0.0, nms_threshold=nms_iou
        )
        kept = np.asarray(chosen, np.int64).reshape(-1)
    else:
        xyxy = output[keep, :4]
        kept = np.arange(len(keep))
    order = kept[np.argsort(-score[kept], kind='stable')]
    found = Detections(
        xyxy.astype(np.float32),
        score.astype(np.float32),
        class_id.astype(np.int64),
        class_score=output[4:, keep].T.astype(np.float32) if layout == 'anchors' else None,
    )[order]
    if not np.isfinite(found.xyxy_px).all():
        raise ModelError('the network put out boxes that are not numbers: export it again.')
    return found
