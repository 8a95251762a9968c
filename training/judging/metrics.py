"""The figures of an evaluation: precision, recall, average precision, confusion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.average_precision import (
    CONFIDENCE_POINTS,
    RankedClass,
    band_name,
    best_f1,
    map50,
    mean_known,
    rank,
    share,
)
from cone_perception.accuracy.intervals import Float64, Int32
from cone_perception.accuracy.matching import Bool
from cone_perception.types import Float32, Int64
from training.judging.evaluation import Evaluation

FIXED_CONFIDENCE = 0.25

PRIMARY = 'map50'
"""The figure that decides."""

TITLES = {
    'map50': 'mAP50',
    'map50_95': 'mAP50-95',
    'precision': 'precision (best F1)',
    'recall': 'recall (best F1)',
    'precision_fixed': 'precision (fixed confidence)',
    'recall_fixed': 'recall (fixed confidence)',
}
"""Overall figures: at each model's own best F1, and at one confidence for all models."""

Confidence = float | Mapping[str, float]
"""Least score of all classes, or of each by its name in the evaluation."""

HEIGHT_BANDS_PX = ((0.0, 12.0), (12.0, 24.0), (24.0, 48.0), (48.0, 96.0), (96.0, math.inf))
"""Box heights that are told apart, in pixels of a picture REFERENCE_WIDTH_PX wide."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Precision and recall at IoU 0.5 above a confidence; NaN: each class has its own."""

    confidence: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Figures of one class. NaN where it has no truth.

    precision, recall: at the model's best-F1 confidence. found, correct: detections above the
    fixed confidence, and those of them that are right; fixed_precision, fixed_recall: their
    shares (precision 0 where nothing is found).
    """

    truths: float
    ap50: float
    ap50_95: float
    precision: float
    recall: float
    found: float
    correct: float
    fixed_precision: float
    fixed_recall: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of a model, 0..1, of the cones whose height is in [low_px, high_px).

    Heights are those at REFERENCE_WIDTH_PX; a detection of a cone outside does not count, nor does
    one of no cone whose own height is outside. Means over the classes with truth; NaN without any.
    best_f1: where the model's own smoothed mean F1 is best, as Ultralytics reports it.
    fixed: at one confidence, so that models are judged at the same point. alike: there, not the
    mean of the classes, but all cones counted alike. bands: the same of each band of heights.
    """

    images: float
    truths: float
    map50: float
    map50_95: float
    best_f1: OperatingPoint
    fixed: OperatingPoint
    alike: OperatingPoint
    per_class: Mapping[str, ClassMetrics]
    low_px: float = 0.0
    high_px: float = math.inf
    bands: tuple[Metrics, ...] = ()

    @property
    def overall(self) -> dict[str, float]:
        """The figures of TITLES."""
        best, fixed = self.best_f1, self.fixed
        values = (self.map50, self.map50_95, best.precision, best.recall)
        return dict(zip(TITLES, (*values, fixed.precision, fixed.recall), strict=True))


def metrics(
    evaluation: Evaluation,
    weights: npt.ArrayLike | None = None,
    *,
    confidence: Confidence = FIXED_CONFIDENCE,
    bands_px: Sequence[tuple[float, float]] = HEIGHT_BANDS_PX,
) -> Metrics:
    """All figures, each picture counted as often as `weights`, (I,), says; None: once.

    Equal to what Ultralytics 8.4 makes of them. confidence: the fixed operating point.
    """
    weight = np.ones((1, len(evaluation.image_names)), np.int32)
    if weights is not None:
        weight[0] = weights
    every, *bands = (
        _figures(evaluation, weight, confidence, *band) for band in ((0.0, math.inf), *bands_px)
    )
    return replace(every, bands=tuple(bands))


def with_point_of(figures: Metrics, driven: Metrics) -> Metrics:
    """The figures, those of the fixed operating point replaced by another evaluation's."""
    per_class = {}
    for name, each in figures.per_class.items():
        at = driven.per_class[name]
        point = {'fixed_precision': at.fixed_precision, 'fixed_recall': at.fixed_recall}
        per_class[name] = replace(each, found=at.found, correct=at.correct, **point)
    bands = zip(figures.bands, driven.bands, strict=True)
    return replace(
        figures,
        fixed=driven.fixed,
        alike=driven.alike,
        per_class=per_class,
        bands=tuple(with_point_of(band, at) for band, at in bands),
    )


def _figures(
    evaluation: Evaluation, weight: Int32, confidence: Confidence, low_px: float, high_px: float
) -> Metrics:
    """Figures of the cones of some heights, without bands."""
    names = evaluation.class_names
    least = _least_scores(names, confidence)
    read = _read(rank(evaluation.matches, low_px, high_px), weight, least)
    ap, curves, counts, precision, recall = (each[0] for each in read)
    judged = counts[0] > 0
    at = best_f1(curves[judged])
    own = np.where(judged[:, None], curves[:, :, at], np.nan)
    columns = (counts[0], ap[:, 0], ap.mean(axis=1), *own.T, *counts[1:], precision, recall)
    fixed = math.nan if isinstance(confidence, Mapping) else confidence
    cones, seen, right = counts.sum(axis=1)
    return Metrics(
        images=float(weight.sum()),
        truths=float(cones),
        map50=_mean(ap[:, 0]),
        map50_95=_mean(ap.mean(axis=1)),
        best_f1=OperatingPoint(float(CONFIDENCE_POINTS[at]), _mean(own[:, 0]), _mean(own[:, 1])),
        fixed=OperatingPoint(fixed, _mean(precision), _mean(recall)),
        alike=OperatingPoint(fixed, float(share(right, seen)), float(share(right, cones))),
        per_class={
            name: ClassMetrics(*map(float, row))
            for name, row in zip(names, np.stack(columns, axis=1), strict=True)
        },
        low_px=low_px,
        high_px=high_px,
    )


class ResampledFigures:
    """One evaluation, ranked, ready for its figures under any multiplicities of the pictures.

    names: of the figures: those of TITLES; `map50 CLASS`; `map50 LOW-HIGH px`. They equal what
    `metrics` says with the same weights.
    """

    def __init__(self, evaluation: Evaluation, confidence: float) -> None:
        matches = evaluation.matches
        self._least = _least_scores(evaluation.class_names, confidence)
        self._classes = rank(matches)
        self._bands = [rank(matches, *band) for band in HEIGHT_BANDS_PX]
        self.names = (
            *TITLES,
            *(f'map50 {name}' for name in evaluation.class_names),
            *(f'map50 {band_name(*band)}' for band in HEIGHT_BANDS_PX),
        )

    def __call__(self, weights: Int32) -> Float64:
        """(R, figures) float64. weights: (R, pictures) int32. NaN: no cone in that resample."""
        ap, curves, _, precision, recall = _read(self._classes, weights, self._least)
        best = np.full((len(curves), 2), np.nan)
        for row, known in enumerate(~np.isnan(ap[:, :, 0])):
            if known.any():
                judged = curves[row, known]
                best[row] = judged[:, :, best_f1(judged)].mean(axis=0)
        columns = [
            mean_known(ap[:, :, 0]),
            mean_known(ap.mean(axis=2)),
            *best.T,
            mean_known(precision),
            mean_known(recall),
            *ap[:, :, 0].T,
            *(map50(band, weights) for band in self._bands),
        ]
        return np.stack(columns, axis=1)


def _read(
    ranked: Sequence[RankedClass], weights: Int32, least: Float32
) -> tuple[Float64, Float64, Float64, Float64, Float64]:
    """Readings of R resamples and C classes, whose least scores are in their order.

    (R, C, overlaps) average precision; (R, C, 2, 1000) curves; (R, 3, C) cones, detections, right
    ones; (R, C) precision (0 where nothing is found) and recall. NaN without a cone.
    """
    ap = np.stack([each.average_precisions(weights) for each in ranked], axis=1)
    curves = np.stack([each.curves(weights) for each in ranked], axis=1)
    pairs = zip(ranked, least.tolist(), strict=True)
    counts = np.stack([each.counts(weights, score) for each, score in pairs], axis=2)
    truths, found, correct = counts
    precision = np.where(truths > 0, correct / np.maximum(found, 1), np.nan)
    return ap, curves, counts.swapaxes(0, 1), precision, share(correct, truths)


def confusion(evaluation: Evaluation, confidence: Confidence = FIXED_CONFIDENCE) -> Int64:
    """(classes + 1, classes + 1) int64: rows what was found, columns what is there.

    Detections of at least this confidence are matched at IoU 0.5 whatever their class, best score
    first. The last row counts cones that were missed, the last column what is not there.
    """
    background = len(evaluation.class_names)
    kept = _confident(evaluation, confidence)
    met = evaluation.detection_overlaps[kept]
    there = np.append(evaluation.truth_class, background)[met]
    missed = np.delete(evaluation.truth_class, met[met >= 0])
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (evaluation.detection_class[kept], there), 1)
    matrix[background] += np.bincount(missed, minlength=background + 1)
    return matrix


def find_mistakes(
    evaluation: Evaluation, confidence: Confidence = FIXED_CONFIDENCE
) -> tuple[Bool, Bool]:
    """(T,) bool: cones that are missed, and (D,) bool: detections that are wrong, at IoU 0.5."""
    kept, match = _confident(evaluation, confidence), evaluation.detection_match[:, 0]
    missed = np.ones(evaluation.truth_count, bool)
    missed[match[kept & (match >= 0)]] = False
    return missed, kept & (match < 0)


def _confident(evaluation: Evaluation, confidence: Confidence) -> Bool:
    """(D,) bool: detections of at least this confidence."""
    least = _least_scores(evaluation.class_names, confidence)
    kept: Bool = evaluation.detection_score >= least[evaluation.detection_class]
    return kept


def _least_scores(names: Sequence[str], confidence: Confidence) -> Float32:
    """(classes,) float32: least score of each class."""
    each = [confidence[name] if isinstance(confidence, Mapping) else confidence for name in names]
    return np.array(each, np.float32)


def _mean(values: Float64) -> float:
    return float(mean_known(values))
