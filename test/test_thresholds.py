"""The threshold of a class lies where its F1 is best, every data set counting alike."""

from __future__ import annotations

import numpy as np
import pytest

from cone_perception.accuracy.average_precision import RankedClass
from training.export.thresholds import best_threshold


def data_set(scores: list[float], correct: list[bool], truths: int, times: int = 1) -> RankedClass:
    """Detections and cones of one class, in each of `times` pictures."""
    order = np.argsort(-np.tile(scores, times), kind='stable')
    right = np.tile(correct, times)[order][:, None]
    return RankedClass(
        np.repeat(np.arange(times), len(scores))[order],
        np.tile(scores, times)[order].astype(np.float32),
        right,
        np.ones_like(right),
        np.full(times, truths),
    )


def test_threshold_separates_right_from_wrong() -> None:
    found = data_set([0.9, 0.6, 0.4, 0.3], [True, True, False, False], 2)
    assert best_threshold([found]) == pytest.approx(0.41)


def test_large_data_set_does_not_outvote_a_small_one() -> None:
    small = data_set([0.8, 0.5, 0.45], [True, False, False], 1)  # best above 0.5
    large = data_set([0.9, 0.4], [True, True], 2, times=50)  # best up to 0.4
    assert best_threshold([large]) <= 0.4
    assert best_threshold([small, large]) == pytest.approx(0.51)


def test_class_that_no_set_shows_gets_the_middle() -> None:
    assert best_threshold([data_set([0.9], [True], 0)]) == 0.5
