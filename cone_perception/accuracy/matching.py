"""Match each detection with a cone: the one matching behind every figure of accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.intervals import Float64
from cone_perception.types import Detections, Float32, Int64

Bool = npt.NDArray[np.bool_]

IOU_THRESHOLDS = (np.arange(50, 100, 5) / 100).astype(np.float32)
"""Overlaps at which a detection may count as right; mAP50-95 averages over them (COCO)."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """D detections and T cones of some pictures, matched.

    pictures, classes: how many there are. image, class_id: (D,) int64. score: (D,) float32.
    height_px: (D,) float64. cone: (D, L) int64, the cone that a detection is at each of L overlaps,
    an index into the T cones; -1: none. truth_image, truth_class: (T,) int64. truth_height_px:
    (T,) float64. The detections are in the order of the pictures.
    """

    pictures: int
    classes: int
    image: Int64
    class_id: Int64
    score: Float32
    height_px: Float64
    cone: Int64
    truth_image: Int64
    truth_class: Int64
    truth_height_px: Float64

    @classmethod
    def of(cls, pairs: Iterable[tuple[Detections, Detections]], classes: int) -> Matches:
        """Match at IoU 0.5 what was found in each picture with what is there."""
        pairs = list(pairs)
        found, truth = ([pair[side] for pair in pairs] for side in (0, 1))
        first = np.cumsum([0, *map(len, truth)])
        cone = [
            np.where(each < 0, -1, each + start)
            for each, start in zip((match_detections(*pair) for pair in pairs), first, strict=False)
        ]
        every = np.arange(len(pairs))
        nothing = Detections.empty()
        return cls(
            len(pairs),
            classes,
            np.repeat(every, [len(each) for each in found]),
            np.concatenate([each.class_id for each in (*found, nothing)]),
            np.concatenate([each.score for each in (*found, nothing)]),
            np.concatenate([each.height_px for each in (*found, nothing)]).astype(np.float64),
            np.concatenate([*cone, np.zeros(0, np.int64)])[:, None],
            np.repeat(every, [len(each) for each in truth]),
            np.concatenate([each.class_id for each in (*truth, nothing)]),
            np.concatenate([each.height_px for each in (*truth, nothing)]).astype(np.float64),
        )


def match_detections(found: Detections, truth: Detections) -> Int64:
    """(N,) int64: which of the cones each detection is, by class at IoU 0.5; -1: none."""
    order = np.argsort(-found.score, kind='stable')
    cone = np.full(len(found), -1, np.int64)
    boxes, class_id = found.xyxy_px[order], found.class_id[order]
    same, _ = match(boxes, class_id, truth.xyxy_px, truth.class_id, IOU_THRESHOLDS[:1])
    cone[order] = same[:, 0]
    return cone


def find_errors(
    found: Detections, truth: Detections, min_height_px: float = 0.0
) -> tuple[Detections, Detections]:
    """Cones of the truth that were missed, and detections that are wrong, at IoU 0.5.

    Lower cones need not be found, and lower detections are not wrong.
    """
    cone = match_detections(found, truth)
    missed = truth.height_px >= min_height_px
    missed[cone[cone >= 0]] = False
    return truth[missed], found[(cone < 0) & (found.height_px >= min_height_px)]


def match(
    found_box: Float32,
    found_class: Int64,
    truth_box: Float32,
    truth_class: Int64,
    overlaps: Float32 = IOU_THRESHOLDS,
) -> tuple[Int64, Int64]:
    """Match detections of one picture with its cones: (N, L) by class and IoU, (N,) of any class.

    found_box: (N, 4), best score first. truth_box: (M, 4), in the same pixels. overlaps: (L,),
    ascending. -1: none.
    At each of the overlaps each takes the free cone of its class that it overlaps most, if by so
    much (ultralytics/engine/validator.py, match_predictions). Any class: the same at the first one.
    """
    overlap = box_iou(found_box, truth_box)
    same = np.where(found_class[:, None] == truth_class[None], overlap, np.float32(0))
    return _assign(same, overlaps), _assign(overlap, overlaps[:1])[:, 0]


def box_iou(a: Float32, b: Float32) -> Float32:
    """(N, M) float32 intersection over union of (N, 4) and (M, 4) boxes.

    The union is 1e-7 larger, in float32, as Ultralytics has it, so that no overlap at a
    threshold's very edge falls on the other side.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.clip(high - low, 0, None)
    intersection = side[..., 0] * side[..., 1]
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    area_a, area_b = size_a[:, 0] * size_a[:, 1], size_b[:, 0] * size_b[:, 1]
    union = area_a[:, None] + area_b[None] - intersection + np.float32(1e-7)
    overlap: Float32 = (intersection / union).astype(np.float32)
    return overlap


def _assign(overlap: Float32, thresholds: Float32) -> Int64:
    """(N, thresholds) int64: greedy assignment of columns to rows, row by row."""
    assigned = np.full((len(overlap), len(thresholds)), -1, np.int64)
    meets = overlap >= thresholds[0]
    if (meets.sum(axis=0) <= 1).all() and (meets.sum(axis=1) <= 1).all():  # nothing to choose
        rows, columns = np.nonzero(meets)
        enough = overlap[rows, columns][:, None] >= thresholds
        assigned[rows] = np.where(enough, columns[:, None], -1)
        return assigned
    free = np.ones((len(thresholds), overlap.shape[1]), bool)
    level = np.arange(len(thresholds))
    for row in np.flatnonzero(meets.any(axis=1)):
        open_to_it = np.where(free, overlap[row], 0)
        best = open_to_it.argmax(axis=1)
        enough = open_to_it[level, best] >= thresholds
        assigned[row, enough] = best[enough]
        free[level[enough], best[enough]] = False
    return assigned
