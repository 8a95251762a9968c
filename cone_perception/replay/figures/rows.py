"""Cones and where they stand, as rows of a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cone_perception.types import Detections, Positions

SCORE_STEPS = 10_000

COVARIANCE = [3, 4, 5, 4, 6, 7, 5, 7, 8]
"""Columns of a PositionRow that make up the matrix, row by row."""


Number = float | None
"""Null in the file is NaN in the result."""


class ConeRow(NamedTuple):
    """A cone in the file: pixels rounded to 0.01, the score rounded up to 0.0001."""

    left_px: Number
    top_px: Number
    right_px: Number
    bottom_px: Number
    score: Number
    class_id: int


CONE_COLUMNS = ConeRow._fields


class PositionRow(NamedTuple):
    """Where a cone stands in the file: metres to the millimetre, the covariance in m^2.

    source: index into RANGE_SOURCES; 0: there is no position.
    """

    x_m: Number
    y_m: Number
    z_m: Number
    xx_m2: Number
    xy_m2: Number
    xz_m2: Number
    yy_m2: Number
    yz_m2: Number
    zz_m2: Number
    source: int


def cones_from(rows: Sequence[ConeRow]) -> Detections:
    """Make cones from rows of CONE_COLUMNS."""
    table = np.array(rows, np.float64).reshape(-1, len(CONE_COLUMNS))
    boxes, score = np.split(table[:, :5].astype(np.float32), [4], axis=1)
    return Detections(boxes, score[:, 0], table[:, 5].astype(np.int64))


def positions_from(rows: Sequence[PositionRow], frame_id: str | None) -> Positions:
    """Make positions from rows, in this frame."""
    table = np.array(rows, np.float64).reshape(-1, len(PositionRow._fields))  # None: NaN
    covariance_m2 = table[:, COVARIANCE].reshape(-1, 3, 3)
    return Positions(
        table[:, :3].copy(), covariance_m2, table[:, -1].astype(np.int64), frame_id or ''
    )


def cone_rows(cones: Detections) -> list[list[float]]:
    """(N) rows of CONE_COLUMNS."""
    boxes = np.round(cones.xyxy_px.astype(np.float64), 2).tolist()
    # Up, so that no cone falls below the threshold that it passed; but for float32's own rounding.
    steps = np.ceil(cones.score.astype(np.float64) * SCORE_STEPS - 0.01)
    scores = (steps / SCORE_STEPS + 0.0).tolist()
    classes = cones.class_id.tolist()
    return [
        [*box, score, class_id] for box, score, class_id in zip(boxes, scores, classes, strict=True)
    ]


def position_cells(positions: Positions) -> tuple[str, list[list[Any]]]:
    """The cells frame_id and positions of a row."""
    down, across = np.triu_indices(3)
    upper = positions.covariance_m2[:, down, across]
    rows = [
        [*xyz, *(float(f'{each:.6g}') for each in covariance), source]
        for xyz, covariance, source in zip(
            np.round(positions.xyz_m, 3).tolist(),
            upper.tolist(),
            positions.source.tolist(),
            strict=True,
        )
    ]
    return positions.frame_id, rows
