"""The figures of an evaluation in many resamples of its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cone_perception.accuracy.average_precision import best_f1, map50, mean_known, rank
from cone_perception.accuracy.bootstrap import Int32
from cone_perception.accuracy.intervals import Float64
from cone_perception.accuracy.summary import band_name
from training.judging.evaluation import Evaluation
from training.judging.metrics import HEIGHT_BANDS_PX

OVERALL = ('map50', 'map50_95', 'precision', 'recall', 'precision_fixed', 'recall_fixed')
"""precision, recall: at the model's best F1; fixed: at one confidence for all models."""


class ResampledFigures:
    """One evaluation, ranked, ready for its figures under any multiplicities of the pictures.

    names: of the figures: OVERALL; `map50 CLASS`; `map50 LOW-HIGH px`. They equal what
    `training.judging.metrics.metrics` says with the same weights.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        confidence: float,
        bands_px: Sequence[tuple[float, float]] = HEIGHT_BANDS_PX,
    ) -> None:
        matches = evaluation.matches
        self._confidence = confidence
        self._classes = rank(matches)
        self._bands = [rank(matches, *band) for band in bands_px]
        self.names = (
            *OVERALL,
            *(f'map50 {name}' for name in evaluation.class_names),
            *(f'map50 {band_name(*band)}' for band in bands_px),
        )

    def __call__(self, weights: Int32) -> Float64:
        """(R, figures) float64. weights: (R, pictures) int32. NaN: no cone in that resample."""
        ap = np.stack([each.average_precisions(weights) for each in self._classes], axis=1)
        curves = np.stack([each.curves(weights) for each in self._classes], axis=1)
        truths, found, correct = np.stack(
            [each.counts(weights, self._confidence) for each in self._classes], axis=2
        )
        there = np.where(truths > 0, truths, np.nan)
        best = [_at_best_f1(row[~np.isnan(ap[r, :, 0])]) for r, row in enumerate(curves)]
        columns = [
            mean_known(ap[:, :, 0]),
            mean_known(ap.mean(axis=2)),
            *np.array(best).T,
            mean_known(np.where(truths > 0, correct / np.maximum(found, 1), np.nan)),
            mean_known(correct / there),
            *ap[:, :, 0].T,
            *(map50(band, weights) for band in self._bands),
        ]
        return np.stack(columns, axis=1)


def _at_best_f1(curves: Float64) -> tuple[float, float]:
    """Mean precision and recall where F1 is best; curves: (classes, 2, 1000)."""
    if not len(curves):
        return math.nan, math.nan
    precision, recall = curves[:, :, best_f1(curves)].mean(axis=0)
    return float(precision), float(recall)
