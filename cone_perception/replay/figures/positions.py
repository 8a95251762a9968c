"""How far positions lie from where the cones stand, and how honest their covariances are.

Judged on the ground, over the cones that were found: those whose box is that of a cone of the
truth, by IoU of 0.5, whatever the class. Depth is along the line from the camera to the cone,
across is square to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cone_perception.accuracy.average_precision import share
from cone_perception.accuracy.intervals import Float64, Int32, Interval
from cone_perception.accuracy.matching import Bool, match
from cone_perception.replay.figures.accuracy import Answers, frame_weights, interval_of
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.figures.statistics import repeated_quantiles
from cone_perception.replay.traces import FrameTrace, Pass
from cone_perception.types import RANGE_SOURCES, Detections, Int64, Positions

Places = Mapping[tuple[str, int], Positions]
"""(camera name, stamp_ns) -> where the cones of the truth stand, row by row."""

RANGES_M = (5, 10, 15, 20, 25, 30)
"""Middles of the bins of true range from the camera: `10 m` holds 7.5 to 12.5 m."""
BIN_M = 5.0

WRONG_M, WRONG_BELOW_M = 1.0, 15.0
"""A position so far off is wrong. Over all bins only nearer cones count: farther ones may be."""

QUANTILES = {'median': 0.5, 'p90': 0.9}

POSITION_FIGURES = ('depth_', 'across_', 'position_', 'inside_', 'by_stereo_', 'wrong_over_')
"""Beginnings of the names of all figures here."""


@dataclass(frozen=True, slots=True, eq=False)
class PositionErrors:
    """The N cones that were found, and stand where the truth says; NaN where none was published.

    frame: (N,) int64, of `stamps_ns`. range_m: (N,) from the camera to the true cone. depth_m,
    across_m: (N,) found less true; too far and too far left are positive. sigma_m: (N,) standard
    deviation of the depth. nees: (N,) normalised error squared, over its expectation of 2.
    source: (N,) int64, index into RANGE_SOURCES.
    """

    stamps_ns: Sequence[int]
    frame: Int64
    range_m: Float64
    depth_m: Float64
    across_m: Float64
    sigma_m: Float64
    nees: Float64
    source: Int64

    @classmethod
    def of(
        cls,
        frames: Iterable[FrameTrace],
        truth: Answers,
        places: Places,
        camera_m: tuple[float, float],
    ) -> PositionErrors:
        """Errors of the answered frames whose cones and places are known, in one frame_id.

        camera_m: forward and left, where the camera stands in that frame. Without a position in any
        of them there is nothing to judge, and N is 0.
        """
        judged = [frame for frame in frames if _is_judged(frame, places)]
        if all(frame.positions is None for frame in judged):
            judged = []
        parts = [np.zeros((0, 7))]
        for number, frame in enumerate(judged):
            key = frame.camera, frame.stamp_ns
            parts.append(_errors(number, frame, truth[key], places[key], np.array(camera_m)))
        number_of, range_m, depth_m, across_m, sigma_m, nees, source = np.concatenate(parts).T
        return cls(
            [frame.stamp_ns for frame in judged],
            number_of.astype(np.int64),
            *(range_m, depth_m, across_m, sigma_m, nees),
            source.astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.range_m)


def _is_judged(frame: FrameTrace, places: Places) -> bool:
    there = places.get((frame.camera, frame.stamp_ns))
    if frame.found is None or there is None:
        return False
    return frame.positions is None or frame.positions.frame_id == there.frame_id


def _errors(
    number: int, frame: FrameTrace, truth: Detections, places: Positions, camera_m: Float64
) -> Float64:
    """(found, 7) the columns of PositionErrors."""
    found = frame.found
    assert found is not None
    order = np.argsort(-found.score, kind='stable')
    _, cone = match(
        found.xyxy_px[order], found.class_id[order], truth.xyxy_px, truth.class_id
    )  # of any class: a planner drives on a cone of the wrong colour too
    known = places.known[cone] & (cone >= 0)
    row, cone = order[known], cone[known]
    there_m = places.xyz_m[cone, :2]
    away = there_m - camera_m
    range_m = np.linalg.norm(away, axis=1)
    ahead = away / np.maximum(range_m, 1e-9)[:, None]
    off_m, covariance = np.full((len(row), 2), np.nan), np.zeros((len(row), 2, 2))
    source = np.zeros(len(row), np.int64)
    if frame.positions is not None:
        off_m = frame.positions.xyz_m[row, :2] - there_m
        source = frame.positions.source[row]
        off_m[source == 0] = np.nan
        known_m2 = frame.positions.covariance_m2[row, :2, :2]
        covariance = np.where(source[:, None, None] > 0, known_m2, 0.0)
    depth_m = (off_m * ahead).sum(axis=1)
    across_m = ahead[:, 0] * off_m[:, 1] - ahead[:, 1] * off_m[:, 0]
    nees = np.full(len(row), np.nan)
    published = source > 0
    nees[published] = np.inf  # of a covariance that says that nothing is wrong
    solvable = published & (np.linalg.det(covariance) > 0)
    solved = np.linalg.solve(covariance[solvable], off_m[solvable][:, :, None])[:, :, 0]
    nees[solvable] = (off_m[solvable] * solved).sum(axis=1) / 2
    sigma_m = np.sqrt(np.einsum('ni,nij,nj->n', ahead, covariance, ahead))
    return np.stack(
        [np.full(len(row), number), range_m, depth_m, across_m, sigma_m, nees, source], axis=1
    )


def position_figures(
    passes: Sequence[Pass], truth: Answers, places: Places, camera_m: tuple[float, float]
) -> dict[str, Interval]:
    """The figures of `position_rows`, of all passes together; none where nothing is judged."""
    frames = (frame for one in passes for frame in one.frames)
    errors = PositionErrors.of(frames, truth, places, camera_m)
    return {name: interval_of(rows) for name, rows in position_rows(errors).items()}


def in_bins(errors: PositionErrors) -> dict[str, Bool]:
    """`` for all, ` 5 m`, ` 10 m`, ... -> (N,) bool: the cones of that true range."""
    bins = {'': np.ones(len(errors), bool)}
    for middle_m in RANGES_M:
        bins[f' {middle_m} m'] = np.abs(errors.range_m - middle_m) < BIN_M / 2
    return bins


def position_rows(errors: PositionErrors) -> dict[str, Float64]:
    """Each figure, over all and per bin, as (1 + R,): its value, then that of each resample.

    As `accuracy_rows`: the seconds of the drive are resampled, so that two replays can be paired.
    """
    rows: dict[str, Float64] = {}
    if not len(errors):
        return rows
    published = errors.source > 0
    off_m = np.hypot(errors.depth_m, errors.across_m)
    with np.errstate(divide='ignore', invalid='ignore'):  # of a covariance of zero
        depth_nees = (errors.depth_m / errors.sigma_m) ** 2
    frames, weights = len(errors.stamps_ns), frame_weights(errors.stamps_ns)
    for of, inside in in_bins(errors).items():
        near = inside & published if of else published & (errors.range_m < WRONG_BELOW_M)
        counted = {
            'detected': inside,
            'published': inside & published,
            'stereo': inside & (errors.source == RANGE_SOURCES.index('stereo')),
            'depth': np.where(inside & published, errors.depth_m, 0.0),
            'nees': np.where(inside & published, errors.nees, 0.0),
            'depth_nees': np.where(inside & published, depth_nees, 0.0),
            'one': inside & (np.abs(errors.depth_m) < errors.sigma_m),
            'two': inside & (np.abs(errors.depth_m) < 2 * errors.sigma_m),
            'near': near,
            'wrong': near & (off_m > WRONG_M),
        }
        sums = np.stack([np.bincount(errors.frame, each, frames) for each in counted.values()], 1)
        total = dict(zip(counted, np.concatenate([w @ sums for w in weights]).T, strict=True))
        rows[f'depth_bias_m{of}'] = share(total['depth'], total['published'])
        for what, values in (('depth', errors.depth_m), ('across', errors.across_m)):
            found = _quantile_rows(np.abs(values), inside & published, errors.frame, weights)
            for name, column in zip(QUANTILES, found.T, strict=True):
                rows[f'{what}_{name}_m{of}'] = column
        rows[f'depth_nees{of}'] = share(total['depth_nees'], total['published'])
        rows[f'position_nees{of}'] = share(total['nees'], total['published'])
        rows[f'inside_1_sigma_share{of}'] = share(total['one'], total['published'])
        rows[f'inside_2_sigma_share{of}'] = share(total['two'], total['published'])
        rows[f'position_share{of}'] = share(total['published'], total['detected'])
        rows[f'by_stereo_share{of}'] = share(total['stereo'], total['published'])
        rows[f'wrong_over_1m_share{of}'] = share(total['wrong'], total['near'])
    return rows


def _quantile_rows(
    values: Float64, chosen: Bool, frame: Int64, weights: Sequence[Int32]
) -> Float64:
    """(1 + R, quantiles) of the chosen values. weights: as `frame_weights` gives them."""
    q = np.fromiter(QUANTILES.values(), np.float64)
    order = np.argsort(values[chosen], kind='stable')
    ascending, of_frame = values[chosen][order], frame[chosen][order]
    drawn = (times for some in weights for times in some)
    return np.stack([repeated_quantiles(ascending, times[of_frame], q) for times in drawn])


def errors_of(result: ReplayResult, frames: Sequence[FrameTrace]) -> PositionErrors:
    """Errors of these frames of a result."""
    camera_m = camera_in_car_m(result.configuration.get('settings') or {})
    return PositionErrors.of(frames, result.truth or {}, result.places or {}, camera_m)


def camera_in_car_m(settings: Mapping[str, Any]) -> tuple[float, float]:
    """Where the settings of a replay say that the camera stands: forward and left of the origin."""
    return float(settings.get('mount_x_m', 0.0)), float(settings.get('mount_y_m', 0.0))


def why_not_judged(frames: Iterable[FrameTrace], places: Places) -> str:
    """Say that positions and places are told in different frames; '' where none are."""
    for frame in frames:
        there = places.get((frame.camera, frame.stamp_ns))
        told = frame.positions
        if there is not None and told is not None and told.frame_id != there.frame_id:
            return (
                f'positions are told in {told.frame_id!r}, where cones stand in '
                f'{there.frame_id!r}: they are not judged. Set mount_height_m and base_frame.'
            )
    return ''
