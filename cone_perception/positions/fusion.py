"""Several ranges of one cone become one, weighted by their covariances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cone_perception.types import Float64, Int64

GATE = 3.5
"""Ranges that are farther apart than so many standard deviations of their difference disagree."""


class Ranges(NamedTuple):
    """depth_m, sigma_m: (N,), infinite sigma where there is none. source: (N,) which of the
    ranges that were not left out counted most, an index into them. disagree: (N,) bool, one was
    left out, as it contradicts those before it.
    """

    depth_m: Float64
    sigma_m: Float64
    source: Int64
    disagree: npt.NDArray[np.bool_]


def fuse(depth_m: Float64, sigma_m: Float64) -> Ranges:
    """Fuse (S, N) depths of S sources, the most trusted first; infinite sigma where there is none.

    They are fused as 1 / depth, in which disparity, height of the box and row of the foot are
    linear: errors are alike on both sides there, and what came out too near weighs no more for it.
    A range that contradicts those before it is left out. Where only one came before it, the
    standard deviation grows to half the gap: one of the two is wrong, and nothing says which.
    """
    there = np.isfinite(sigma_m) & (depth_m > 0)
    inverse = 1 / np.where(there, depth_m, np.inf)
    sigma = np.where(there, sigma_m, np.inf) * np.where(there, inverse**2, 1.0)
    best, best_sigma = inverse[0], sigma[0]
    disagree, agree = np.zeros(best.shape, bool), np.zeros(best.shape, bool)
    source, source_sigma = np.zeros(best.shape, np.int64), best_sigma
    for index, (other, other_sigma) in enumerate(zip(inverse[1:], sigma[1:], strict=True), 1):
        both = np.isfinite(best_sigma) & np.isfinite(other_sigma)
        gap = np.abs(best - other)
        apart = both & (gap > GATE * np.hypot(best_sigma, other_sigma))
        weight, other_weight = 1 / np.square(best_sigma), 1 / np.square(other_sigma)
        total = weight + other_weight
        mixed = (weight * best + other_weight * other) / np.where(total > 0, total, 1.0)
        with np.errstate(invalid='ignore', divide='ignore'):
            spread = 1 / np.sqrt(total)
            wide = np.hypot(best_sigma, gap / 2 * best / other)  # half the gap in metres
        alone = apart & ~agree
        best_sigma = np.where(alone, wide, np.where(apart, best_sigma, spread))
        best = np.where(apart, best, mixed)
        source_sigma = np.where(alone, wide, source_sigma)
        counts_most = ~apart & (other_sigma < source_sigma)
        source = np.where(counts_most, index, source)
        source_sigma = np.where(counts_most, other_sigma, source_sigma)
        disagree |= apart
        agree |= both & ~apart
    known = np.isfinite(best_sigma)
    fused_m = 1 / np.where(known, best, 1.0)
    spread_m = np.where(known, best_sigma * fused_m**2, np.inf)
    return Ranges(np.where(known, fused_m, 0.0), spread_m, source, disagree)


def along_rays(
    rays: Float64, depth_m: Float64, sigma_m: Float64, across_m: Float64
) -> tuple[Float64, Float64]:
    """Positions (N, 3) and covariances (N, 3, 3) in the optical frame.

    rays: (N, 3) to the cones, as long as z is 1. across_m: (N, 2) standard deviations to the right
    and down, of where the box shows the cone.
    """
    along = rays * sigma_m[:, None]
    covariance = along[:, :, None] * along[:, None]
    covariance[:, 0, 0] += across_m[:, 0] ** 2
    covariance[:, 1, 1] += across_m[:, 1] ** 2
    return rays * depth_m[:, None], covariance
