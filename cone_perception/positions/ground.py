"""How far away a cone stands, by where the foot of its box meets the ground.

With R of the mount (optical frame to car), h its height, d = ((u - cx) / fx, (v - cy) / fy, 1) the
ray to the foot and e = R d: the ray meets level ground at depth s = h / -e_z. An error of the row
or of the pitch changes e_z, and the depth by ds / s = -de_z / e_z: the farther, the worse, and
without a limit at the horizon, where e_z is 0.
"""

from __future__ import annotations

import numpy as np

from cone_perception.positions.camera import CameraModel
from cone_perception.positions.rig import Mount
from cone_perception.types import Float64

LARGEST_SHARE = 0.5
"""Standard deviation as a share of the depth, from which the ground says nothing: the foot may as
well stand at the horizon. Up to there the errors of 1 / depth are alike on both sides."""
TURNED = 4 / np.pi
TURNED_SIGMA = float(np.sqrt(1 + 2 / np.pi - TURNED**2))
"""Distance from the axis to the nearest edge of a square plate, in halves of its side: mean and
standard deviation over how it may be turned, of |cos| + |sin|."""


def ground_range(
    camera: CameraModel, mount: Mount, feet_px: Float64, row_sigma_px: Float64, plate_m: Float64
) -> tuple[Float64, Float64]:
    """(N,) depth by where the foot meets level ground, and its standard deviation, metres.

    feet_px: (N, 2) rectified pixels, middle of the lower side of each box. row_sigma_px: (N,)
    standard deviation of that side. plate_m: (N,) side of the square plate of the cone: the box
    ends at the plate's nearest edge, behind which the axis stands. Infinite deviation where the
    ray does not meet the ground, or too flatly.
    """
    turned = camera.rays(feet_px) @ mount.rotation.T
    up = np.where(turned[:, 2] < 0, turned[:, 2], np.nan)
    level = np.hypot(turned[:, 0], turned[:, 1])
    edge_m = mount.translation_m[2] / -up
    # Depth from that edge to the axis: its way from the car, level, turned back into the camera.
    behind_m = (turned[:, :2] @ mount.rotation[:2, 2]) / level * plate_m / 2
    depth_m = edge_m + TURNED * behind_m
    # e_z moves by the row, and by the car's roll and pitch, as w_x e_y - w_y e_x.
    by_row = mount.rotation[2, 1] / camera.fy_px * row_sigma_px
    by_turn = level * mount.sigma_rad
    sigma_m = np.hypot(edge_m / up * np.hypot(by_row, by_turn), TURNED_SIGMA * behind_m)
    usable = sigma_m < LARGEST_SHARE * depth_m
    return np.where(usable, depth_m, 0.0), np.where(usable, sigma_m, np.inf)
