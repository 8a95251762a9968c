"""Precision and recall at a threshold for each class, all cones counted alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cone_perception.accuracy.average_precision import RankedClass, map50, mean_known, rank
from cone_perception.accuracy.bootstrap import resampled
from cone_perception.accuracy.intervals import Interval
from cone_perception.accuracy.matching import Matches
from cone_perception.types import Int64


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
    """Accuracy over many pictures, of the cones whose height is in [low_px, high_px).

    per_class: by name. overall: all classes together; its ap50 is the mean over the classes with
    at least one cone (mAP50).
    """

    per_class: Mapping[str, ClassAccuracy]
    overall: ClassAccuracy
    low_px: float = 0.0
    high_px: float = math.inf

    @property
    def boxes(self) -> str:
        """Which boxes count, in words."""
        return band_name(self.low_px, self.high_px)


def band_name(low_px: float, high_px: float) -> str:
    """Name of a band of box heights: `16-32 px`, `from 64 px`, `all boxes`."""
    if math.isinf(high_px):
        return f'from {low_px:g} px' if low_px else 'all boxes'
    return f'{low_px:g}-{high_px:g} px'


def summarise(
    matches: Matches,
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
    low_px: float = 0.0,
    high_px: float = math.inf,
) -> AccuracySummary:
    """Accuracy over many pictures; precision and recall at the class's threshold and IoU 0.5."""
    once = np.ones((1, matches.pictures), np.int32)
    ranked = rank(matches, low_px, high_px)
    counts = np.array(
        [
            each.counts(once, thresholds[name])[:, 0]
            for each, name in zip(ranked, class_names, strict=True)
        ]
    )
    ap50 = np.array([each.average_precisions(once, 1)[0, 0] for each in ranked])
    every = np.append(ap50, mean_known(ap50))
    rows = [
        _class_accuracy(int(truths), int(found), int(correct), float(ap))
        for (truths, found, correct), ap in zip([*counts, counts.sum(axis=0)], every, strict=True)
    ]
    per_class = dict(zip(class_names, rows, strict=False))
    return AccuracySummary(per_class, rows[-1], low_px, high_px)


def map50_interval(
    ranked: Sequence[RankedClass], group: Int64, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean AP50 of some classes, with its interval over groups of pictures, see `draw`."""
    return resampled(lambda weights: map50(ranked, weights), group, resamples, seed)


def _class_accuracy(truths: int, found: int, correct: int, ap50: float) -> ClassAccuracy:
    return ClassAccuracy(
        truths=truths,
        found=found,
        correct=correct,
        precision=correct / found if found else math.nan,
        recall=correct / truths if truths else math.nan,
        ap50=ap50,
    )
