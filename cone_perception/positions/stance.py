"""How an upright cone stands in the coordinate frame of its position, and what its pose knows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cone_perception.types import Float64

ORIENTATION_VARIANCE_RAD2 = 1e6
"""So large that it says nothing: a cone looks the same from all sides, so its yaw has no meaning,
and how far it leans is not measured."""


@dataclass(frozen=True, slots=True)
class Stance:
    """How an upright cone stands in a coordinate frame.

    orientation: x, y, z, w of the quaternion that turns z of the cone, its axis, into the frame.
    up: (3,) of that axis. ground: indices of the coordinates x and y of the cone lie along.
    """

    orientation: tuple[float, float, float, float]
    up: tuple[float, float, float]
    ground: tuple[int, int]


IN_CAR = Stance((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0, 1))
IN_CAMERA = Stance((math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)), (0.0, -1.0, 0.0), (0, 2))
"""In an optical frame, as if the camera were level: nothing says how it is mounted."""


def pose_covariances(covariance_m2: Float64) -> Float64:
    """(N, 36) float64, row-major 6x6 of poses: x, y, z, and an orientation that is not known."""
    covariances = np.zeros((len(covariance_m2), 6, 6))
    covariances[:, :3, :3] = covariance_m2
    covariances[:, range(3, 6), range(3, 6)] = ORIENTATION_VARIANCE_RAD2
    return covariances.reshape(-1, 36)
