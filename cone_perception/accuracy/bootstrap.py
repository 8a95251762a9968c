"""Resamples of pictures that are drawn in groups, the same for all that is compared.

Drawing a picture twice counts its detections and its cones twice: a resample is a row of
multiplicities, and two models with the same rows are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.intervals import Float64, Interval, percentile_interval
from cone_perception.types import Int64

Int32 = npt.NDArray[np.int32]

ROWS = 32
"""Resamples worked on together: of 40,000 detections of a class they take some 30 MB."""


def draw(group: Int64, resamples: int, seed: int) -> Iterator[Int32]:
    """Draw pictures: multiplicities, (up to ROWS, pictures) int32, `resamples` rows in all.

    group: (pictures,) 0..G-1. G whole groups are drawn with replacement, so that pictures that are
    alike stay together (block bootstrap; Efron and Tibshirani 1993, chapter 8).
    """
    rng = np.random.default_rng(seed)
    groups = int(group.max()) + 1
    for start in range(0, resamples, ROWS):
        rows = min(ROWS, resamples - start)
        drawn = rng.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield times.astype(np.int32)[:, group]


def resampled(
    figure: Callable[[Int32], Float64], group: Int64, resamples: int, seed: int = 0
) -> Interval:
    """A figure with its percentile interval.

    figure: (R, pictures) multiplicities -> (R,) values. group: as `draw` takes it.
    """
    value = float(figure(np.ones((1, len(group)), np.int32))[0])
    drawn = [figure(weights) for weights in draw(group, resamples, seed)]
    return percentile_interval(value, np.concatenate(drawn))


def draw_blocks(blocks: int, resamples: int, seed: int) -> Float64:
    """(resamples, blocks) float64: how often each block was drawn, as many draws as blocks."""
    rows = list(draw(np.arange(blocks), resamples, seed))
    return np.concatenate(rows).astype(np.float64)
