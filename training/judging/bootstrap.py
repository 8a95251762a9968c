"""The figures of an evaluation in many resamples of its pictures.

Drawing a picture twice counts its detections and its cones twice: a resample only reweights the
cumulative sums along rankings that are made once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cone_perception.accuracy.bootstrap import Int32
from cone_perception.types import Int64
from training.judging.evaluation import (
    CONFIDENCE_POINTS,
    HEIGHT_BANDS_PX,
    IOU_THRESHOLDS,
    RECALL_POINTS,
    Bool,
    Evaluation,
    Float64,
    RankedClass,
    best_f1,
    rank,
)

OVERALL = ('map50', 'map50_95', 'precision', 'recall', 'precision_fixed', 'recall_fixed')
"""precision, recall: at the model's best F1; fixed: at one confidence for all models."""


class ResampledFigures:
    """One evaluation, ranked, ready for its figures under any multiplicities of the pictures.

    names: of the figures: OVERALL; `map50 CLASS`; `map50 LOW-HIGH px`. They equal what
    `training.judging.evaluation.metrics` says with the same weights.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        confidence: float,
        bands_px: Sequence[tuple[float, float]] = HEIGHT_BANDS_PX,
    ) -> None:
        self._classes = [ClassFigures(each, confidence) for each in rank(evaluation)]
        self._bands = [
            [ClassFigures(_only_counted(each), confidence) for each in rank(evaluation, *band)]
            for band in bands_px
        ]
        self.names = (
            *OVERALL,
            *(f'map50 {name}' for name in evaluation.class_names),
            *(f'map50 {_band_name(low, high)}' for low, high in bands_px),
        )

    def __call__(self, weights: Int32) -> Float64:
        """(R, figures) float64. weights: (R, pictures) int32. NaN: no cone in that resample."""
        ap = np.empty((len(weights), len(self._classes), len(IOU_THRESHOLDS)))
        curves = np.empty((len(weights), len(self._classes), 2, len(CONFIDENCE_POINTS)))
        for index, each in enumerate(self._classes):
            ap[:, index], curves[:, index] = each.average_precisions(weights, curves=True)
        fixed = np.stack([each.fixed(weights) for each in self._classes], axis=2)
        bands = [
            _mean(np.stack([each.average_precisions(weights)[0][:, 0] for each in band], axis=1))
            for band in self._bands
        ]
        best = [_at_best_f1(row[~np.isnan(ap[r, :, 0])]) for r, row in enumerate(curves)]
        columns = [
            _mean(ap[:, :, 0]),
            _mean(ap.mean(axis=2)),
            *np.array(best).T,
            _mean(fixed[0]),
            _mean(fixed[1]),
            *ap[:, :, 0].T,
            *bands,
        ]
        return np.stack(columns, axis=1)


class ClassFigures:
    """One ranked class of N detections, and what does not depend on the resample."""

    def __init__(self, ranked: RankedClass, confidence: float) -> None:
        self._image = ranked.image
        self._truths = ranked.truths
        self._right = [np.flatnonzero(column) for column in ranked.correct.T]
        self._score = ranked.score.astype(np.float64)
        self._above = np.searchsorted(-self._score, -CONFIDENCE_POINTS, side='right')
        self._right_above = np.searchsorted(self._right[0], np.arange(len(self._image) + 1))
        kept = ranked.score >= confidence
        pictures = len(ranked.truths)
        self._found = np.bincount(ranked.image[kept], minlength=pictures)
        self._correct = np.bincount(ranked.image[kept & ranked.correct[:, 0]], minlength=pictures)

    def average_precisions(
        self, weights: Int32, curves: bool = False
    ) -> tuple[Float64, Float64 | None]:
        """(R, thresholds) average precision, NaN where a resample has no cone of the class.

        curves: also (R, 2, 1000) precision and recall over CONFIDENCE_POINTS.
        """
        truths = weights @ self._truths
        seen = self._cumulated(weights, self._image)
        area = np.zeros((len(weights), len(self._right)))
        for threshold, at in enumerate(self._right):
            if len(at):
                hits = self._cumulated(weights, self._image[at])
                area[:, threshold] = _area(hits[:, 1:], seen[:, 1:][:, at], truths)
        area[truths == 0] = np.nan
        return area, self._curves(weights, seen, truths) if curves else None

    def fixed(self, weights: Int32) -> Float64:
        """(2, R) precision and recall at the fixed confidence, NaN without a cone."""
        truths = weights @ self._truths
        found, correct = weights @ self._found, weights @ self._correct
        shares = np.stack([correct / np.maximum(found, 1), correct / np.maximum(truths, 1)])
        shares[:, truths == 0] = np.nan
        return shares

    def _curves(self, weights: Int32, seen: Int32, truths: Int64) -> Float64:
        """As evaluation.confidence_curves: linear between the scores of drawn detections."""
        hits = self._cumulated(weights, self._image[self._right[0]])
        result = np.zeros((len(weights), 2, len(CONFIDENCE_POINTS)))
        for row in range(len(weights)):
            if not seen[row, -1] or not truths[row]:
                continue
            # Positions count detections from 1; 0 stands for none.
            so_far = seen[row, self._above]
            before = np.searchsorted(seen[row], so_far)
            after = np.searchsorted(seen[row], np.minimum(so_far + 1, seen[row, -1]))
            ends = np.stack([before, after])
            correct = hits[row, self._right_above[ends]]
            high, low = self._score[ends - 1]
            for curve, total, first in (
                (0, np.maximum(seen[row, ends], 1), 1.0),
                (1, truths[row], 0.0),
            ):
                start, end = correct / total
                slope = (end - start) / np.where(high > low, high - low, 1)
                value = slope * (high - CONFIDENCE_POINTS) + start
                result[row, curve] = np.where(so_far > 0, value, first)
        return result

    @staticmethod
    def _cumulated(weights: Int32, image: Int64) -> Int32:
        """(R, N + 1) int32: how many of the first 0..N detections are drawn."""
        total = np.zeros((len(weights), len(image) + 1), np.int32)
        np.cumsum(np.take(weights, image, axis=1), axis=1, dtype=np.int32, out=total[:, 1:])
        return total


def _at_best_f1(curves: Float64) -> tuple[float, float]:
    """Mean precision and recall where F1 is best; curves: (classes, 2, 1000)."""
    if not len(curves):
        return math.nan, math.nan
    precision, recall = curves[:, :, best_f1(curves)].mean(axis=0)
    return float(precision), float(recall)


def _area(hits: Int32, seen: Int32, truths: Int64) -> Float64:
    """(R,) area under the envelope of precision, as evaluation.average_precision defines it.

    hits, seen: (R, K) correct ones and all so far, at each of the K correct detections.
    """
    rows, count = hits.shape
    precision = np.zeros((rows, count + 1))
    np.divide(hits, np.maximum(seen, 1), out=precision[:, :count])
    reached = np.stack([np.searchsorted(*pair) for pair in zip(hits, _beyond(truths), strict=True)])
    # The envelope at a point is the best precision from there to the row's end: the best of each
    # stretch between two points first. What follows the row's last point and precedes the next
    # row's first one is 0.
    start = (reached + (count + 1) * np.arange(rows)[:, None]).ravel()
    stretches = np.maximum.reduceat(precision.ravel(), start).reshape(rows, -1)
    height = np.maximum.accumulate(stretches[:, ::-1], axis=1)[:, ::-1]
    area: Float64 = (height[:, :-1] + height[:, 1:]).sum(axis=1) / 2 / (len(RECALL_POINTS) - 1)
    return area


def _beyond(truths: Int64) -> Int32:
    """(R, points) least number of hits whose recall, as a float64, is above each recall point."""
    whole = np.maximum(truths, 1)[:, None]
    least = np.floor(RECALL_POINTS * whole) - 1
    for _ in range(3):
        least += least / whole <= RECALL_POINTS
    return least.astype(np.int32)


def _only_counted(ranked: RankedClass) -> RankedClass:
    """The class at IoU 0.5 alone, without the detections that do not count."""
    counted: Bool = ranked.counted[:, 0]
    return RankedClass(
        ranked.image[counted],
        ranked.score[counted],
        ranked.correct[counted, :1],
        ranked.counted[counted, :1],
        ranked.truths,
    )


def _mean(values: Float64) -> Float64:
    """(R,) mean over the classes, (R, classes), that a resample has; NaN without any."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _band_name(low_px: float, high_px: float) -> str:
    return f'{low_px:g}-{high_px:g} px' if math.isfinite(high_px) else f'from {low_px:g} px'
