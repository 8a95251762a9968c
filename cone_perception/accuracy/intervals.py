"""A figure with its 95 % interval, and the ways to such an interval.

SciPy is loaded where a judgement is made: the car makes none. A bootstrap draws pictures in groups;
drawing one twice counts its detections and cones twice, so a resample is a row of multiplicities,
and two models with the same rows are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cone_perception.types import Int64

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; NaN where it is not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def known(self) -> bool:
        """The interval has both ends."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def __sub__(self, exact: float) -> Interval:
        """The figure less one that is taken as exact, e.g. a published one."""
        return Interval(self.value - exact, self.low - exact, self.high - exact)

    def __str__(self) -> str:
        return f'{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]'

    @property
    def signed(self) -> str:
        """The text of a difference: `+0.0123 (95 %: +0.0100 to +0.0150)`."""
        return f'{self.value:+.4f} (95 %: {self.low:+.4f} to {self.high:+.4f})'

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Interval:
        """Read `{"value": ..., "low": ..., "high": ...}`; null is NaN."""
        ends = (stored[name] for name in ('value', 'low', 'high'))
        return cls(*(math.nan if end is None else float(end) for end in ends))


def subtract(other: Interval, baseline: Interval) -> Interval:
    """The difference of two independent figures, with its interval by MOVER.

    Zou and Donner 2008: each end is as far from the difference as both of the ends that it hangs on
    are from their figures, added as squares. It keeps their skewness, and needs no second draw.
    """
    value = other.value - baseline.value
    return Interval(
        value,
        value - math.hypot(other.value - other.low, baseline.high - baseline.value),
        value + math.hypot(other.high - other.value, baseline.value - baseline.low),
    )


def percentile_interval(value: float, drawn: npt.ArrayLike, tail: float = TAIL) -> Interval:
    """Percentile interval of a bootstrap (Efron and Tibshirani 1993).

    drawn: (R,) the figure in each resample; NaN, where it is not defined, is left out.
    tail: share of the resamples on either side of the interval.
    """
    resampled = np.asarray(drawn, np.float64)
    known = resampled[~np.isnan(resampled)]
    if not len(known) or math.isnan(value):
        return Interval(float(value))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def t_interval(value: float, variances: Sequence[float], freedoms: Sequence[float]) -> Interval:
    """Student's t interval of a figure whose error is the sum of independent ones.

    variances: of the value, one part for each source. freedoms: degrees of freedom of each part.
    They are joined as Welch (1947) and Satterthwaite (1946) do it.
    """
    parts, freedom = np.asarray(variances, np.float64), np.asarray(freedoms, np.float64)
    total = float(parts.sum())
    if total == 0:
        return Interval(value, value, value)
    half = t_quantile(total**2 / float((parts**2 / freedom).sum())) * math.sqrt(total)
    return Interval(value, value - half, value + half)


def t_quantile(freedom: float) -> float:
    """97.5 % quantile of Student's t, for any degrees of freedom above 0."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - TAIL))


def expanded_tail(blocks: int) -> float:
    """Share of the resamples below the interval, so that few blocks make it as wide as Student's t.

    The plain percentiles of n blocks are too close together by t / z and sqrt(n / (n - 1)); the
    expanded ones (Hesterberg 2015, The American Statistician 69, 371) make up for it: 0.011
    instead of 0.025 for 12 blocks.
    """
    from scipy.special import ndtr

    return float(ndtr(-math.sqrt(blocks / (blocks - 1)) * t_quantile(blocks - 1)))


def share_interval(hits: int, count: int) -> Interval:
    """Interval of a share of independent trials (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    if not count:
        return Interval(math.nan)
    low = float(betaincinv(hits, count - hits + 1, TAIL)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - TAIL)) if hits < count else 1.0
    return Interval(hits / count, low, high)


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
    figure: Callable[[Int32], Float64],
    group: Int64,
    resamples: int,
    seed: int = 0,
    tail: float = TAIL,
) -> Interval:
    """A figure, (R, pictures) times -> (R,), with its interval; group: as `draw` takes it."""
    value = float(figure(np.ones((1, len(group)), np.int32))[0])
    drawn = [figure(weights) for weights in draw(group, resamples, seed)]
    return percentile_interval(value, np.concatenate(drawn), tail)


def draw_blocks(blocks: int, resamples: int, seed: int) -> Float64:
    """(resamples, blocks) float64: how often each block was drawn, as many draws as blocks."""
    return np.concatenate([*draw(np.arange(blocks), resamples, seed)]).astype(np.float64)
