"""The threshold of a class lies where its F1 is best, every data set counting alike."""

from __future__ import annotations

import numpy as np
import pytest

from cone_perception.accuracy.matching import PictureMatch
from training.export.thresholds import best_threshold


def picture(scores: list[float], correct: list[bool], truths: int) -> PictureMatch:
    """Detections and truths of class 1 of two."""
    return PictureMatch(
        np.array(scores, np.float32),
        np.full(len(scores), 1, np.int64),
        np.array(correct, bool),
        np.array([0, truths], np.int64),
    )


def test_threshold_separates_right_from_wrong() -> None:
    pictures = [picture([0.9, 0.6, 0.4, 0.3], [True, True, False, False], 2)]
    assert best_threshold([pictures], 1) == pytest.approx(0.41)


def test_large_data_set_does_not_outvote_a_small_one() -> None:
    small = picture([0.8, 0.5, 0.45], [True, False, False], 1)  # best above 0.5
    large = picture([0.9, 0.4], [True, True], 2)  # best up to 0.4
    assert best_threshold([[large] * 50], 1) <= 0.4
    assert best_threshold([[small], [large] * 50], 1) == pytest.approx(0.51)


def test_class_that_no_set_shows_gets_the_middle() -> None:
    assert best_threshold([[picture([0.9], [True], 1)]], 0) == 0.5
