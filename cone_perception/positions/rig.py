"""Two eyes, or one, and how they are mounted on the car.

Frames as in REP-103: the car's has x forward, y left, z up; a camera's optical frame has x right,
y down, z forward. The optical frame here is that of the rectified left picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cone_perception.errors import CalibrationError
from cone_perception.positions.camera import CameraInfo, CameraModel, is_rectified
from cone_perception.settings import DetectorSettings
from cone_perception.types import Float64, Positions

SHAKE_RAD = math.radians(0.3)
"""Standard deviation of the car's pitch and of its roll against the ground."""
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
SAME_PX = 0.05
"""By how much the focal lengths and the rows of two rectified eyes may differ."""
BASELINE_M = (0.01, 3.0)
EYES = ('left', 'right')


@dataclass(frozen=True, eq=False)
class Mount:
    """Where a camera stands on the car.

    rotation: (3, 3), optical frame to frame_id. translation_m: (3,), the camera in frame_id, whose
    ground is z = 0. sigma_rad: of the car's pitch and roll against the ground.
    """

    rotation: Float64
    translation_m: Float64
    sigma_rad: float = SHAKE_RAD
    frame_id: str = 'base_footprint'

    @classmethod
    def of(cls, settings: DetectorSettings) -> Mount | None:
        """By the settings; None where mount_height_m is 0."""
        if not settings.mount_height_m:
            return None
        turn = np.eye(3)
        degrees = (settings.mount_roll_deg, settings.mount_pitch_deg, settings.mount_yaw_deg)
        for axis, angle in enumerate(np.radians(degrees)):
            # Around the car's x, then y, then z: REP-103's fixed-axis roll, pitch, yaw.
            before, after = (axis + 1) % 3, (axis + 2) % 3
            one = np.eye(3)
            one[[before, after], [before, after]] = math.cos(angle)
            one[[before, after], [after, before]] = -math.sin(angle), math.sin(angle)
            turn = one @ turn
        place = np.array([settings.mount_x_m, settings.mount_y_m, settings.mount_height_m])
        return cls(turn @ BODY_FROM_OPTICAL, place, frame_id=settings.base_frame)

    @classmethod
    def from_transform(
        cls, translation_m: Sequence[float], quaternion: Sequence[float], frame_id: str
    ) -> Mount:
        """By a transform of tf from the optical frame to frame_id. quaternion: x, y, z, w.

        Raises CalibrationError where it is not finite or no rotation.
        """
        x, y, z, w = quaternion
        length = math.hypot(x, y, z, w)
        if not (all(map(math.isfinite, (*translation_m, length))) and abs(length - 1) < 0.01):
            raise CalibrationError(
                f'the transform to {frame_id} has the translation {tuple(translation_m)} and the '
                f'quaternion {tuple(quaternion)}, which is no rotation: repair what publishes it.'
            )
        x, y, z, w = (part / length for part in (x, y, z, w))
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
        return cls(rotation, np.asarray(translation_m, np.float64), frame_id=frame_id)

    def shifted(self, right_m: float) -> Mount:
        """The mount of an eye that stands farther to the right, as this one sees it."""
        return replace(self, translation_m=self.translation_m + self.rotation[:, 0] * right_m)

    def to_base(self, positions: Positions) -> Positions:
        """From the optical frame to frame_id; rows that are NaN stay so.

        The car turns by small angles w around x and y, which moves a point p by w x p: with J the
        matrix of that product, J diag(sigma^2, sigma^2, 0) J^T is added to the covariance.
        """
        xyz_m = positions.xyz_m @ self.rotation.T + self.translation_m
        x, y, z = xyz_m.T
        zero = np.zeros_like(x)
        by_roll, by_pitch = np.stack([zero, -z, y], axis=1), np.stack([z, zero, -x], axis=1)
        moved = np.stack([by_roll, by_pitch], axis=2) * self.sigma_rad
        covariance = self.rotation @ positions.covariance_m2 @ self.rotation.T
        covariance = covariance + moved @ moved.transpose(0, 2, 1)
        return replace(positions, xyz_m=xyz_m, covariance_m2=covariance, frame_id=self.frame_id)


@dataclass(frozen=True, eq=False)
class Rig:
    """The cameras that see the same cones.

    right: None where there is one eye, or where the two cannot be used together: why_mono says why.
    baseline_m: from the left eye to the right one. mount: of the left eye; None: not known.
    optical_frame: of the left eye.
    """

    left: CameraModel
    right: CameraModel | None = None
    baseline_m: float = 0.0
    mount: Mount | None = None
    optical_frame: str = ''
    why_mono: str = ''

    @classmethod
    def of(
        cls,
        left: CameraInfo,
        right: CameraInfo | None,
        topics: Sequence[str],
        settings: DetectorSettings,
        mount: Mount | None,
        optical_frame: str = '',
    ) -> Rig:
        """Make the rig of one or two camera_info. topics: of the pictures of each eye, or of both.

        optical_frame: frame_id of the left camera_info. Raises CalibrationError where the left eye
        cannot be used.
        """
        flat = is_rectified(settings.rectified, topics[0], left)
        try:
            rig = cls(CameraModel.of(left, flat), None, 0.0, mount, optical_frame)
        except CalibrationError as error:
            raise CalibrationError(f'{topics[0]}: {error}') from error
        if right is None:
            return rig
        try:
            other, baseline_m = _pair(left, right, rig.left, topics, settings)
        except CalibrationError as error:
            return replace(rig, why_mono=str(error))
        return replace(rig, right=other, baseline_m=baseline_m)

    @property
    def zero_px(self) -> float:
        """Disparity of what is infinitely far: depth is fx baseline / (disparity - zero_px)."""
        return self.left.cx_px - self.right.cx_px if self.right else 0.0

    def mount_of(self, eye: int) -> Mount | None:
        """The mount of an eye: 0 left, 1 right."""
        return self.mount.shifted(self.baseline_m) if self.mount and eye else self.mount


def _pair(
    left: CameraInfo,
    right: CameraInfo,
    seen: CameraModel,
    topics: Sequence[str],
    settings: DetectorSettings,
) -> tuple[CameraModel, float]:
    """The right eye and the baseline, metres. CalibrationError: the eyes contradict each other."""
    rectified = [
        is_rectified(settings.rectified, topic, info)
        for topic, info in ((topics[0], left), (topics[-1], right))
    ]
    try:
        other = CameraModel.of(right, rectified[1])
    except CalibrationError as error:
        raise CalibrationError(f'{topics[-1]}: {error}') from error
    if rectified[0] != rectified[1]:
        kinds = [
            f'{topic} is {"rectified" if flat else "raw"}'
            for topic, flat in zip((topics[0], topics[-1]), rectified, strict=True)
        ]
        raise CalibrationError(
            f'{", but ".join(kinds)}: take the same kind of picture of both eyes '
            '(image_topics), or say which it is (rectified: yes or no).'
        )
    sizes = [(info.width_px, info.height_px) for info in (left, right)]
    if sizes[0] != sizes[1]:
        (wide, high), (other_wide, other_high) = sizes
        raise CalibrationError(
            f'the left eye has pictures of {wide}x{high}, the right one of '
            f'{other_wide}x{other_high}: set both cameras to the same size.'
        )
    advice = 'calibrate them together (camera_calibration with --size, --square and two cameras).'
    for info, topic in ((left, topics[0]), (right, topics[-1])):
        if not info.projects:
            raise CalibrationError(
                f'{topic}: P of camera_info is zero, so the eyes were not '
                f'calibrated together: {advice}'
            )
        if not rectified[0] and not any(info.r):
            raise CalibrationError(
                f'{topic}: R of camera_info is zero, so raw pictures of the two '
                f'eyes cannot be rectified: {advice}'
            )
    baseline_m = (left.p[3] / left.p[0]) - (right.p[3] / right.p[0])
    if baseline_m == 0:
        raise CalibrationError(
            'the baseline is zero: P[3] of the right camera_info must be -fx baseline (here '
            f'{right.p[3]:g}). If the cameras are no pair, set stereo: false; else {advice}'
        )
    if baseline_m < 0:
        raise CalibrationError(
            f'the eyes are swapped: by P[3] the right eye stands {-baseline_m:.3f} m to the left '
            'of the left one. Swap the two image_topics (or the camera_info beside them).'
        )
    if not BASELINE_M[0] <= baseline_m <= BASELINE_M[1]:
        raise CalibrationError(
            f'by P[3] of camera_info the eyes stand {baseline_m:g} m apart, which cannot be: P[3] '
            f'is -fx baseline with the baseline in metres; {advice}'
        )
    for name, one, two in (
        ('focal lengths fx', seen.fx_px, other.fx_px),
        ('focal lengths fy', seen.fy_px, other.fy_px),
        ('rows cy', seen.cy_px, other.cy_px),
    ):
        if abs(one - two) > SAME_PX:
            raise CalibrationError(
                f'the {name} of the rectified eyes differ: {one:g} px left, {two:g} px right (P of '
                f'camera_info), so a cone does not stand in the same row of both: {advice}'
            )
    return other, baseline_m
