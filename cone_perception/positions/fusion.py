"""Several ranges of one cone become one, weighted by their covariances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cone_perception.types import Float64, Int64

GATE = 3.5
"""Ranges that are farther apart than so many standard deviations of their difference disagree."""


class Ranges(NamedTuple):
    """depth_m, sigma_m: (N,), infinite sigma where there is none. source: (N,) what counted most,
    an index into the ranges. disagree: (N,) bool, two of them contradict each other.
    """

    depth_m: Float64
    sigma_m: Float64
    source: Int64
    disagree: npt.NDArray[np.bool_]


def fuse(depth_m: Float64, sigma_m: Float64) -> Ranges:
    """Fuse (S, N) depths of S sources, the most trusted first; infinite sigma where there is none.

    Where one contradicts those before it, it is left out and the standard deviation grows to half
    the gap: one of the two is wrong, and nothing says which.
    """
    best_m, best_sigma = depth_m[0].copy(), sigma_m[0].copy()
    most = sigma_m.argmin(axis=0)
    disagree = np.zeros(best_m.shape, bool)
    for other_m, other_sigma in zip(depth_m[1:], sigma_m[1:], strict=True):
        both = np.isfinite(best_sigma) & np.isfinite(other_sigma)
        with np.errstate(invalid='ignore'):
            gap = np.abs(best_m - other_m)
            apart = both & (gap > GATE * np.hypot(best_sigma, other_sigma))
        weight = 1 / np.square(best_sigma), 1 / np.square(other_sigma)
        total = weight[0] + weight[1]
        with np.errstate(invalid='ignore', divide='ignore'):
            mixed = np.where(
                both,
                (weight[0] * best_m + weight[1] * other_m) / total,
                np.where(np.isfinite(best_sigma), best_m, other_m),
            )
            spread = np.where(both, 1 / np.sqrt(total), np.minimum(best_sigma, other_sigma))
        best_m = np.where(apart, best_m, mixed)
        best_sigma = np.where(apart, np.hypot(best_sigma, gap / 2), spread)
        disagree |= apart
    return Ranges(best_m, best_sigma, most, disagree)


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
