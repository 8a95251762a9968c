"""Average precision, and precision and recall at a score, of pictures that count several times.

A resample of the pictures only reweights the cumulative sums along rankings that are made once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cone_perception.accuracy.intervals import Float64, Int32
from cone_perception.accuracy.matching import Bool, Matches
from cone_perception.types import Float32, Int64

RECALL_POINTS = np.linspace(0, 1, 101)
CONFIDENCE_POINTS = np.linspace(0, 1, 1000)
"""Points at which Ultralytics reads its curves of precision and recall over the confidence."""

SMOOTHING_POINTS = 101
"""Width of the box filter over the mean F1 curve, a tenth of it, as Ultralytics has it."""


@dataclass(frozen=True, slots=True, eq=False)
class RankedClass:
    """One class: its detections, best score first, and its cones.

    image: (N,) int64, score: (N,) float32, of the detections. correct: (N, L) bool, counted:
    (N, L) bool, at each of L overlaps; what is not counted is neither right nor wrong. truths: (I,)
    int64, cones of the class in each picture.

    weights: (R, I) int32 in all that follows, how often each picture counts in each of R resamples.
    """

    image: Int64
    score: Float32
    correct: Bool
    counted: Bool
    truths: Int64

    def average_precisions(self, weights: Int32, overlaps: int | None = None) -> Float64:
        """(R, overlaps) average precision at the first overlaps (default: all); NaN without cones.

        The area under the envelope of precision over recall, as trapezoids between 101 recalls. At
        a recall the envelope is the best precision beyond it, that of the detections which reach
        more, so a perfect model has 0.995: Ultralytics' curve ends at 0
        (ultralytics/utils/metrics.py, compute_ap). COCO takes the mean of the points instead, and
        the precision at or beyond each.
        """
        truths = weights @ self.truths
        area = np.zeros((len(weights), overlaps or self.correct.shape[1]))
        everything = bool(self.counted.all())
        seen = _cumulated(weights, self.image) if everything else None
        for level in range(area.shape[1]):
            counted = self.counted[:, level]
            at = np.flatnonzero(self.correct[counted, level])
            if len(at):
                image = self.image if everything else self.image[counted]
                so_far = _cumulated(weights, image) if seen is None else seen
                hits = _cumulated(weights, image[at])
                area[:, level] = _area(hits[:, 1:], so_far[:, 1:][:, at], truths)
        area[truths == 0] = np.nan
        return area

    def curves(self, weights: Int32) -> Float64:
        """(R, 2, 1000) precision and recall at the first overlap at each of CONFIDENCE_POINTS.

        Between the scores of two drawn detections interpolated linearly; above the best score
        precision is 1 and recall 0; all 0 without detections or cones (Ultralytics).
        """
        counted = self.counted[:, 0]
        image, at = self.image[counted], np.flatnonzero(self.correct[counted, 0])
        score = self.score[counted].astype(np.float64)
        above = np.searchsorted(-score, -CONFIDENCE_POINTS, side='right')
        right_above = np.searchsorted(at, np.arange(len(image) + 1))
        seen, hits = _cumulated(weights, image), _cumulated(weights, image[at])
        truths = weights @ self.truths
        result = np.zeros((len(weights), 2, len(CONFIDENCE_POINTS)))
        for row in range(len(weights)):
            if not seen[row, -1] or not truths[row]:
                continue
            # Positions count detections from 1; 0 stands for none.
            so_far = seen[row, above]
            before = np.searchsorted(seen[row], so_far)
            after = np.searchsorted(seen[row], np.minimum(so_far + 1, seen[row, -1]))
            ends = np.stack([before, after])
            correct = hits[row, right_above[ends]]
            high, low = score[ends - 1]
            for curve, total, first in (
                (0, np.maximum(seen[row, ends], 1), 1.0),
                (1, truths[row], 0.0),
            ):
                start, end = correct / total
                slope = (end - start) / np.where(high > low, high - low, 1)
                value = slope * (high - CONFIDENCE_POINTS) + start
                result[row, curve] = np.where(so_far > 0, value, first)
        return result

    def counts(self, weights: Int32, least: float) -> Float64:
        """(3, R) cones, detections from this score, right ones of those, at the first overlap."""
        kept = self.counted[:, 0] & (self.score >= np.float32(least))
        right = kept & self.correct[:, 0]
        found, correct = (
            np.bincount(self.image[some], minlength=len(self.truths)) for some in (kept, right)
        )
        return np.stack([weights @ self.truths, weights @ found, weights @ correct]).astype(float)


def rank(
    matches: Matches, low_px: float = 0.0, high_px: float = math.inf
) -> tuple[RankedClass, ...]:
    """Each class's detections, best score first; equal scores in the order of the pictures.

    Only cones whose height lies in [low_px, high_px) count. A detection of a cone outside does not
    count, nor does one of no cone whose own height is outside.
    """
    correct = matches.cone >= 0
    wanted = _within(matches.truth_height_px, low_px, high_px)
    counted = np.ones_like(correct)
    if low_px > 0 or high_px < math.inf:
        own = _within(matches.height_px, low_px, high_px)
        counted = np.where(correct, np.append(wanted, False)[matches.cone], own[:, None])
    order = np.argsort(-matches.score, kind='stable')
    result = []
    for class_id in range(matches.classes):
        own_order = order[matches.class_id[order] == class_id]
        truth_image = matches.truth_image[(matches.truth_class == class_id) & wanted]
        result.append(
            RankedClass(
                matches.image[own_order],
                matches.score[own_order],
                (correct & counted)[own_order],
                counted[own_order],
                np.bincount(truth_image, minlength=matches.pictures).astype(np.int64),
            )
        )
    return tuple(result)


def band_name(low_px: float, high_px: float) -> str:
    """Name of a band of box heights: `16-32 px`, `from 64 px`, `all boxes`."""
    if not math.isfinite(high_px):
        return f'from {low_px:g} px' if low_px else 'all boxes'
    return f'{low_px:g}-{high_px:g} px'


def best_f1(curves: Float64) -> int:
    """CONFIDENCE_POINTS' index of the best smoothed F1; curves: (classes with truth, 2, 1000)."""
    if not len(curves):
        return 0
    precision, recall = curves[:, 0], curves[:, 1]
    f1 = (2 * precision * recall / (precision + recall + 1e-16)).mean(axis=0)
    padded = np.pad(f1, SMOOTHING_POINTS // 2, mode='edge')
    box = np.ones(SMOOTHING_POINTS) / SMOOTHING_POINTS
    return int(np.convolve(padded, box, mode='valid').argmax())


def map50(ranked: Sequence[RankedClass], weights: Int32) -> Float64:
    """(R,) mean AP50 of the classes that a resample has a cone of; NaN without any."""
    return mean_known(np.stack([each.average_precisions(weights, 1)[:, 0] for each in ranked], 1))


def mean_known(values: Float64) -> Float64:
    """Mean along the last axis of what is not NaN; NaN of nothing."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=-1)
    return share(total, known.sum(axis=-1))


def share(part: Float64, whole: Float64 | Int64) -> Float64:
    """Part of a whole; NaN where there is no whole."""
    whole = np.asarray(whole, np.float64)
    result: Float64 = np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
    return result


def _cumulated(weights: Int32, image: Int64) -> Int32:
    """(R, N + 1) int32: how many of the first 0..N detections are drawn."""
    total = np.zeros((len(weights), len(image) + 1), np.int32)
    np.cumsum(np.take(weights, image, axis=1), axis=1, dtype=np.int32, out=total[:, 1:])
    return total


def _area(hits: Int32, seen: Int32, truths: Int64) -> Float64:
    """(R,) area under the envelope of precision.

    hits, seen: (R, K) correct ones and all so far, at each of the K correct detections.
    """
    rows, count = hits.shape
    precision = np.zeros((rows, count + 1))
    np.divide(hits, np.maximum(seen, 1), out=precision[:, :count])
    # The least number of hits whose recall, as a float64, is above each recall point.
    whole = np.maximum(truths, 1)[:, None]
    least = np.floor(RECALL_POINTS * whole) - 1
    for _ in range(3):
        least += least / whole <= RECALL_POINTS
    pairs = zip(hits, least.astype(np.int32), strict=True)
    reached = np.stack([np.searchsorted(*pair) for pair in pairs])
    # The envelope at a point is the best precision from there to the row's end: the best of each
    # stretch between two points first. What follows the row's last point and precedes the next
    # row's first one is 0.
    start = (reached + (count + 1) * np.arange(rows)[:, None]).ravel()
    stretches = np.maximum.reduceat(precision.ravel(), start).reshape(rows, -1)
    height = np.maximum.accumulate(stretches[:, ::-1], axis=1)[:, ::-1]
    area: Float64 = (height[:, :-1] + height[:, 1:]).sum(axis=1) / 2 / (len(RECALL_POINTS) - 1)
    return area


def _within(height_px: Float64, low_px: float, high_px: float) -> Bool:
    inside: Bool = (height_px >= low_px) & (height_px < high_px)
    return inside
