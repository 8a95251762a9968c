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

LARGEST_SHARE = 0.2
"""Standard deviation as a share of the range, above which the ground says nothing. There the true
one is skewed so much that a normal one would mislead."""
TURNED = 4 / np.pi
TURNED_SIGMA = float(np.sqrt(1 + 2 / np.pi - TURNED**2))
"""Distance from the axis to the nearest edge of a square plate, in halves of its side: mean and
standard deviation over how it may be turned, of |cos| + |sin|."""


def on_ground(
    camera: CameraModel, mount: Mount, feet_px: Float64, row_sigma_px: Float64, plate_m: Float64
) -> tuple[Float64, Float64]:
    """(N, 3) feet of cones in the optical frame, metres, and (N, 3, 3) covariances.

    feet_px: (N, 2) rectified pixels, middle of the lower side of each box. row_sigma_px: (N,)
    standard deviation of that side; of the middle it is taken for the same. plate_m: (N,) side of
    the square plate of the cone. The box ends at the plate's nearest edge, behind which the axis
    stands. NaN where the ray does not meet the ground, or too flatly.
    """
    rays = camera.rays(feet_px)
    turned = rays @ mount.rotation.T
    up = np.where(turned[:, 2] < 0, turned[:, 2], np.nan)
    level = np.hypot(turned[:, 0], turned[:, 1])
    depth_m = mount.translation_m[2] / -up
    behind = (turned * [1, 1, 0] @ mount.rotation) * (plate_m / 2 / level)[:, None]
    xyz_m = rays * depth_m[:, None] + TURNED * behind
    # The picture's column and row move the ray, and by e_z the depth along it.
    across, down = mount.rotation[2, :2]
    by_column, by_row = (
        (depth_m / focal_px)[:, None] * (np.eye(3)[axis] - rays * (part / up)[:, None])
        for axis, focal_px, part in ((0, camera.fx_px, across), (1, camera.fy_px, down))
    )
    # By the car's roll and pitch: e_z moves by w_x e_y - w_y e_x, the ray in the picture does not.
    by_turn = rays * (depth_m / up * level * mount.sigma_rad)[:, None]
    sigma_px = row_sigma_px[:, None]
    moved = np.stack(
        [by_column * sigma_px, by_row * sigma_px, by_turn, TURNED_SIGMA * behind], axis=2
    )
    share = np.sqrt((moved[:, 2] ** 2).sum(axis=1)) / depth_m
    xyz_m[~(share < LARGEST_SHARE)] = np.nan
    covariance_m2 = np.asarray(moved @ moved.transpose(0, 2, 1), np.float64)
    covariance_m2[np.isnan(xyz_m[:, 0])] = np.nan
    return xyz_m, covariance_m2
