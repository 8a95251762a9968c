"""Where in its box the foot of a cone is, and how sure that is."""

from __future__ import annotations

import numpy as np

from cone_perception.positions.camera import CameraModel
from cone_perception.positions.ground import ground_range
from cone_perception.positions.height import FITTED_PX, SLACK, Bool, Boxes
from cone_perception.positions.rig import Mount
from cone_perception.types import Float64

LYING_SHARE = 0.35
"""Standard deviation of where the foot of a lying cone is, in heights of the cone."""
SIDE_PX, SIDE_SLOPE_PX, SIDE_HIDDEN, SIDE_CUT, SIDE_SHAPE, SIDE_LOST = (
    *(0.27, 59.0, 0.035, 0.12),
    *(0.2, 0.06),
)
"""Standard deviation of the middle of a box h pixels high: pixels, (h / slope)^2, and shares of h
where a nearer cone hides a part or the border cuts it; a share of what is unusual in its width; and
a share of h where the right eye does not show the cone."""
UNSURE, SURE_SCORE = 0.34, 0.7
"""What is added to that for each point by which the score is lower, as a share of h: cones that lie
with their tip towards the camera are among them."""
FOOT_PX, FOOT_SHARE, FOOT_HIDDEN, FOOT_CUT, FOOT_LOST = 0.38, 0.017, 0.07, 0.15, 0.1
"""The same of the foot, with a share of h, and one where the right eye does not show the cone, as
the car itself may hide its foot."""
FOOT_UP, FOOT_UP_NEAR_PX = 0.03, 830.0
"""The foot lies so far above the lower side of a box, as a share of the height h, and h / so much
more: the front of the base plate lies lower."""


def range_of_feet(
    boxes: Boxes, camera: CameraModel, mount: Mount, lost: Bool
) -> tuple[Float64, Float64]:
    """(N,) depth by the foot of the box, and its standard deviation; infinite where it is not seen.

    Of a cone that lies, the foot may be anywhere along it.
    """
    left, _, right, bottom = boxes.rectified_px.T
    feet_px = np.column_stack([(left + right) / 2, bottom])
    high = boxes.height_px * np.minimum(np.exp(boxes.stoutness), 1)  # as its width has it
    row_sigma_px = np.sqrt(
        FOOT_PX**2
        + (FOOT_SHARE * high) ** 2
        + (high / SIDE_SLOPE_PX) ** 4
        + (FOOT_LOST * lost * high) ** 2
    )
    depth_m, sigma_m = ground_range(camera, mount, feet_px, row_sigma_px, boxes.plate_m)
    sigma_m = np.hypot(sigma_m, LYING_SHARE * boxes.lies * boxes.height_m)
    return depth_m, np.where(boxes.cut[:, 3] | boxes.hidden, np.inf, sigma_m)


def feet_in(
    boxes: Boxes, camera: CameraModel, depth_m: Float64, lost: Bool
) -> tuple[Float64, Float64]:
    """(N, 2) rectified pixel of the middle of the cone's foot, and its standard deviations.

    A side that the picture's border cuts off is put where a cone of the class has it. lost: (N,)
    bool, the right eye should show the cone but does not.
    """
    left, top, right, bottom = boxes.rectified_px.T
    high = boxes.height_px
    whole_px = camera.fy_px * boxes.height_m / depth_m
    half_px = 0.5 * whole_px * boxes.usual_width_px / high
    cut = boxes.cut
    cut_beside, cut_below = cut[:, [0, 2]].any(axis=1), cut[:, 3]
    middle = np.where(cut[:, 0] & ~cut[:, 2], right - half_px, (left + right) / 2)
    middle = np.where(cut[:, 2] & ~cut[:, 0], left + half_px, middle)
    foot = bottom - high * (FOOT_UP + high * FITTED_PX / camera.fy_px / FOOT_UP_NEAR_PX)
    foot = np.where(cut_below & ~cut[:, 1], top + whole_px, foot)
    odd_px = np.maximum(np.abs(boxes.stoutness) - SLACK, 0) * boxes.usual_width_px
    unsure = UNSURE * np.maximum(SURE_SCORE - boxes.score, 0)
    beside = (
        SIDE_PX**2
        + (high / SIDE_SLOPE_PX) ** 4
        + (SIDE_HIDDEN * boxes.hidden * high) ** 2
        + (SIDE_CUT * cut_beside * high) ** 2
        + (SIDE_SHAPE * odd_px) ** 2
        + (unsure * high) ** 2
        + (SIDE_LOST * lost * high) ** 2
    )
    below = (
        FOOT_PX**2
        + (FOOT_SHARE * high) ** 2
        + (FOOT_HIDDEN * boxes.hidden * high) ** 2
        + (FOOT_CUT * cut_below * high) ** 2
    )
    return np.column_stack([middle, foot]), np.sqrt(np.column_stack([beside, below]))
