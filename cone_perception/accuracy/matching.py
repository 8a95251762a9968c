"""How well cones were found: matches with the truth, precision, recall, average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.bootstrap import draw_blocks
from cone_perception.accuracy.intervals import Float64
from cone_perception.types import Detections, Float32, Int64

Bool = npt.NDArray[np.bool_]

RECALL_POINTS = np.linspace(0, 1, 101)
"""Recalls at which precision is averaged, as COCO does (Lin et al. 2014, cocoeval)."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureMatch:
    """What became of one picture's detections. Those that do not count are left out.

    score: (N,) float32. class_id: (N,) int64. correct: (N,) bool, matched a cone of its class.
    truth_count: (classes,) int64, cones that had to be found.
    """

    score: Float32
    class_id: Int64
    correct: Bool
    truth_count: Int64


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Accuracy of one class, or of several together.

    truths: cones that had to be found. found: detections above the class's threshold.
    correct: those of them that are right. ap50: average precision at IoU 0.5 over all scores.
    precision, recall, ap50: 0..1; NaN where nothing was there to be judged.
    """

    truths: int
    found: int
    correct: int
    precision: float
    recall: float
    ap50: float


@dataclass(frozen=True, slots=True)
class AccuracySummary:
    """Accuracy over many pictures: per class name, and all classes that occur together.

    overall.ap50 is the mean over the classes with at least one truth (mAP50).
    """

    per_class: Mapping[str, ClassAccuracy]
    overall: ClassAccuracy


def box_iou(a: Float32, b: Float32) -> Float32:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes, left, top, right, bottom."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None] - intersection
    ratio: Float32 = np.where(union > 0, intersection / np.where(union > 0, union, 1), 0)
    return ratio.astype(np.float32)


def match_picture(
    found: Detections,
    truth: Detections,
    class_count: int,
    min_height_px: float = 0.0,
    max_height_px: float = float('inf'),
    iou: float = 0.5,
) -> PictureMatch:
    """Match one picture's detections with the truth, class by class, best score first.

    Each takes the free cone that it overlaps most, if by `iou` or more, as COCO does. Cones whose
    height lies outside [min_height_px, max_height_px) need not be found: a detection that matches
    one of them, or matches none and has such a height itself, does not count.
    """
    counted, correct, _ = _assign(found, truth, min_height_px, max_height_px, iou)
    required = _in_range(truth, min_height_px, max_height_px)
    return PictureMatch(
        found.score[counted],
        found.class_id[counted],
        correct[counted],
        np.bincount(truth.class_id[required], minlength=class_count).astype(np.int64),
    )


def find_errors(
    found: Detections,
    truth: Detections,
    min_height_px: float = 0.0,
    max_height_px: float = float('inf'),
    iou: float = 0.5,
) -> tuple[Detections, Detections]:
    """Cones of the truth that were missed, and detections that are wrong; as `match_picture`."""
    counted, correct, missed = _assign(found, truth, min_height_px, max_height_px, iou)
    return truth[missed], found[counted & ~correct]


def _assign(
    found: Detections, truth: Detections, min_height_px: float, max_height_px: float, iou: float
) -> tuple[Bool, Bool, Bool]:
    """(N,) detections that count, (N,) those that are correct, (M,) cones that were missed."""
    required = _in_range(truth, min_height_px, max_height_px)
    counted = _in_range(found, min_height_px, max_height_px)
    correct = np.zeros(len(found), bool)
    free = np.ones(len(truth), bool)
    overlaps = box_iou(found.xyxy_px, truth.xyxy_px)
    meets = (overlaps >= iou) & (found.class_id[:, None] == truth.class_id[None])
    if (meets.sum(axis=0) <= 1).all() and (meets.sum(axis=1) <= 1).all():  # nothing to choose
        rows, columns = np.nonzero(meets)
        free[columns] = False
        counted[rows] = correct[rows] = required[columns]
        return counted, correct, free & required
    for index in np.argsort(-found.score, kind='stable'):
        for candidates in (free & required, free & ~required):
            hits = np.where(candidates & meets[index], overlaps[index], -1)
            if len(hits) and hits.max() >= 0:
                free[hits.argmax()] = False
                counted[index] = correct[index] = bool(required[hits.argmax()])
                break
    return counted, correct, free & required


def _in_range(boxes: Detections, min_height_px: float, max_height_px: float) -> Bool:
    inside: Bool = (boxes.height_px >= min_height_px) & (boxes.height_px < max_height_px)
    return inside


def summarise(
    pictures: Sequence[PictureMatch], class_names: Sequence[str], thresholds: Mapping[str, float]
) -> AccuracySummary:
    """Accuracy over many pictures; precision and recall at the class's threshold."""
    score, class_id, correct, _ = _joined(pictures)
    truth_count = truth_counts(pictures, len(class_names)).sum(axis=0)
    ap50 = average_precisions(pictures, len(class_names), np.ones((1, len(pictures))))[0]
    per_class = {}
    for index, name in enumerate(class_names):
        kept = (class_id == index) & (score >= thresholds[name])
        per_class[name] = _class_accuracy(
            int(truth_count[index]), int(kept.sum()), int(correct[kept].sum()), float(ap50[index])
        )
    overall = _class_accuracy(
        sum(entry.truths for entry in per_class.values()),
        sum(entry.found for entry in per_class.values()),
        sum(entry.correct for entry in per_class.values()),
        mean_known(ap50),
    )
    return AccuracySummary(per_class, overall)


def map50_interval(
    pictures: Sequence[PictureMatch],
    classes: Sequence[int],
    class_count: int,
    block: int = 1,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean AP50 of `classes`.

    Blocks of `block` consecutive pictures are resampled, since frames of one drive are alike
    (percentile bootstrap, Efron and Tibshirani 1993).
    """
    block_of = np.arange(len(pictures)) // block
    weights = draw_blocks(int(block_of[-1]) + 1, resamples, seed)
    ap50 = average_precisions(pictures, class_count, weights, block_of)
    means = np.array([mean_known(row[list(classes)]) for row in ap50])
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def average_precisions(
    pictures: Sequence[PictureMatch],
    class_count: int,
    weights: Float64,
    block_of: Int64 | None = None,
) -> Float64:
    """(R, classes) AP with picture i counted weights[r, block_of[i]] times; NaN without truth.

    block_of: (pictures,) int64, column of `weights`; None: each picture has one of its own.
    """
    if block_of is None:
        block_of = np.arange(len(pictures))
    score, class_id, correct, picture = _joined(pictures)
    truth_of_block = np.zeros((weights.shape[1], class_count), np.int64)
    np.add.at(truth_of_block, block_of, truth_counts(pictures, class_count))
    truths = weights @ truth_of_block
    order = np.argsort(-score, kind='stable')
    result = np.full((len(weights), class_count), np.nan)
    for index in range(class_count):
        ranked = order[class_id[order] == index]
        column, right = block_of[picture[ranked]], correct[ranked]
        for row, weight in enumerate(weights):
            if truths[row, index] == 0:
                continue
            each = weight[column]
            hits = np.cumsum(each * right)
            seen = np.cumsum(each)
            result[row, index] = _interpolated_ap(hits, seen, truths[row, index])
    return result


def _interpolated_ap(hits: Float64, seen: Float64, truths: float) -> float:
    """Mean of the best precision at or beyond each recall point."""
    if not len(hits):
        return 0.0
    precision = hits / np.maximum(seen, np.finfo(np.float64).tiny)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / truths, RECALL_POINTS, side='left')
    return float(
        np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0).mean()
    )


def _joined(pictures: Sequence[PictureMatch]) -> tuple[Float32, Int64, Bool, Int64]:
    """All detections of all pictures: score, class, correct, index of the picture."""
    if not pictures:
        return (
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, bool),
            np.zeros(0, np.int64),
        )
    return (
        np.concatenate([p.score for p in pictures]),
        np.concatenate([p.class_id for p in pictures]),
        np.concatenate([p.correct for p in pictures]),
        np.repeat(np.arange(len(pictures)), [len(p.score) for p in pictures]),
    )


def truth_counts(pictures: Sequence[PictureMatch], class_count: int) -> Int64:
    """(pictures, classes) int64: cones that had to be found."""
    counts = np.zeros((len(pictures), class_count), np.int64)
    for row, picture in zip(counts, pictures, strict=True):
        row[:] = picture.truth_count
    return counts


def _class_accuracy(truths: int, found: int, correct: int, ap50: float) -> ClassAccuracy:
    return ClassAccuracy(
        truths=truths,
        found=found,
        correct=correct,
        precision=correct / found if found else float('nan'),
        recall=correct / truths if truths else float('nan'),
        ap50=ap50,
    )


def mean_known(values: Float64) -> float:
    """Mean of those that are not NaN; NaN of none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')
