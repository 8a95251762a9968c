"""Where the two eyes stand, and what their camera_info says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cone_perception.positions.camera import CameraInfo
from training.simulate.camera import PinholeCamera
from training.simulate.rig.settings import RigSettings

BASELINE_M = 0.12
EYES = ('left', 'right')


def make_eyes(nominal: PinholeCamera, rig: RigSettings) -> dict[str, PinholeCamera]:
    """Both eyes as they are; nominal: the left eye as it is calibrated, where it stands."""
    left = _longer(nominal, 1 + rig.focal_error)
    right_m = np.array(left.position_m) + (BASELINE_M + rig.baseline_error_m) * left.rotation[0]
    right = replace(left, position_m=tuple(right_m.tolist()))
    turns = (rig.right_yaw_deg, rig.right_pitch_deg, rig.right_roll_deg)
    if any(turns):
        right = right.turned(*(math.radians(turn) for turn in turns))
    return {'left': left, 'right': _longer(right, 1 + rig.right_focal_error)}


def _longer(camera: PinholeCamera, factor: float) -> PinholeCamera:
    return replace(camera, fx_px=camera.fx_px * factor, fy_px=camera.fy_px * factor)


def calibration(nominal: PinholeCamera, eye: str) -> CameraInfo:
    """The camera_info of an eye: both eyes alike, parallel, one baseline apart; errors unknown."""
    projection = np.column_stack([nominal.matrix, np.zeros(3)])
    if eye == 'right':
        projection[0, 3] = -BASELINE_M * nominal.fx_px
    k, r, p = (tuple(numbers.reshape(-1)) for numbers in (nominal.matrix, np.eye(3), projection))
    size_px = (nominal.width_px, nominal.height_px)
    return CameraInfo(*size_px, 'plumb_bob', nominal.distortion, k, r, p)
