"""What sensor_msgs/CameraInfo says of a camera, and the pinhole camera of its rectified pictures.

Words as in image_pipeline and OpenCV's calib3d: K and D describe the picture as it is taken, R
turns its rays into the rectified camera, P projects them there. Pixel (0, 0) is the middle of the
first one. `equidistant` is the model of cv2.fisheye, the others are those of cv2.projectPoints.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from cone_perception.errors import CalibrationError
from cone_perception.settings import RectifiedChoice
from cone_perception.types import Float64, UInt8

COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
"""Distortion model of sensor_msgs/distortion_models -> how many numbers it may have."""

RECTIFIED_PART = re.compile('rect|.*_rect(_color)?$')
"""Part of the topic of rectified pictures: image_proc's image_rect_color, ZED's rect/image."""
CALIBRATE = 'Calibrate it (camera_calibration) or repair what publishes it'
WIDEST_RAD = math.radians(85)
"""Rays farther from the axis are left out: a flat picture does not hold them."""
BESIDE = 8
"""So often the size of the picture is what is rectified beside each of its borders."""
PRECISE_PX = 1e-5
"""A point is undistorted when it is distorted again to within this of where it was."""


class CameraInfo(NamedTuple):
    """The content of sensor_msgs/CameraInfo beside its header; names as there, in small letters.

    width_px, height_px: of the pictures that it was calibrated on. d: coefficients of
    distortion_model. k, r: 3x3, p: 3x4, row by row; k and p in pixels.
    """

    width_px: int
    height_px: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]

    @property
    def distorts(self) -> bool:
        """Tell whether there is a distortion. Without coefficients a fisheye lens has one too."""
        return self.distortion_model == 'equidistant' or any(self.d)

    @property
    def projects(self) -> bool:
        """Tell whether P has numbers: drivers leave it zero where nobody rectifies."""
        return any((*self.p[:3], *self.p[4:7]))


def is_rectified(choice: RectifiedChoice, topic: str, info: CameraInfo) -> bool:
    """Tell whether the pictures on a topic are rectified already: setting `rectified`."""
    if choice != 'auto':
        return choice == 'yes'
    return any(map(RECTIFIED_PART.match, topic.split('/'))) or not (
        info.distorts or (any(info.r) and not np.allclose(info.r, np.eye(3).ravel(), atol=1e-6))
    )


@dataclass(frozen=True)
class CameraModel:
    """The pinhole camera of the rectified pictures, and how these are made.

    fx_px .. cy_px: focal lengths and principal point of the rectified picture, which is as large
    as the picture. raw: calibration of a picture that is still to be rectified; None: it is.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    raw: CameraInfo | None = None

    @classmethod
    def of(cls, info: CameraInfo, rectified: bool) -> CameraModel:
        """P counts where it has numbers, else K. D and R count where pictures are not rectified.

        Raises CalibrationError where the numbers are missing or impossible.
        """
        counting = {'K': info.k, 'P': info.p} | ({} if rectified else {'D': info.d, 'R': info.r})
        for name, numbers in counting.items():
            if not all(map(math.isfinite, numbers)):
                raise CalibrationError(f'{name} of camera_info is not finite. {CALIBRATE}.')
        if min(info.width_px, info.height_px) < 1:
            size = f'{info.width_px}x{info.height_px}'
            raise CalibrationError(f'camera_info is for pictures of {size} pixels. {CALIBRATE}.')
        name, matrix = 'K', np.reshape(info.k, (3, 3))
        if info.projects:
            name, matrix = 'P', np.reshape(info.p, (3, 4))
        if not matrix.any():
            raise CalibrationError(
                f'P and K of camera_info are zero: the camera is not calibrated. {CALIBRATE}.'
            )
        if not rectified:
            _check_raw(info)
        if min(matrix[0, 0], matrix[1, 1]) <= 0:
            raise CalibrationError(
                f'{name} of camera_info has the focal lengths {matrix[0, 0]:g} and '
                f'{matrix[1, 1]:g} px. {CALIBRATE}.'
            )
        fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        return cls(info.width_px, info.height_px, fx, fy, cx, cy, None if rectified else info)

    def check_picture(self, width_px: int, height_px: int, eye: str = '') -> None:
        """Raise CalibrationError where a picture is not as large as camera_info says."""
        if (width_px, height_px) != (self.width_px, self.height_px):
            raise CalibrationError(
                f'{eye} pictures are {width_px}x{height_px}, but camera_info is for '.lstrip()
                + f'{self.width_px}x{self.height_px}: publish that of the pictures as they come.'
            )

    def rays(self, points_px: Float64) -> Float64:
        """(N, 2) rectified pixels -> (N, 3) rays of the optical frame, scaled to z = 1."""
        flat = (points_px - [self.cx_px, self.cy_px]) / [self.fx_px, self.fy_px]
        return np.column_stack([flat, np.ones(len(flat))])

    def project(self, xyz_m: Float64) -> Float64:
        """(N, 3) of the optical frame -> (N, 2) rectified pixels; NaN where not ahead."""
        ahead = np.where(xyz_m[:, 2:] > 0, xyz_m[:, 2:], np.nan)
        focal_px, centre_px = [self.fx_px, self.fy_px], [self.cx_px, self.cy_px]
        return np.asarray(xyz_m[:, :2] / ahead * focal_px + centre_px, np.float64)

    def rectify_points(self, points_px: Float64) -> Float64:
        """(N, 2) pixels of the picture -> (N, 2) of the rectified one.

        NaN where no ray leads to a pixel, or where more than one would: the model folds there.
        """
        if self._lens is None or not len(points_px):
            return points_px
        flat = self._lens.undistort(points_px)
        rays = np.column_stack([flat, np.ones(len(flat))])
        return self.project(rays @ self._lens.turn.T)

    def unrectify_points(self, points_px: Float64) -> Float64:
        """(N, 2) pixels of the rectified picture -> (N, 2) of the picture; NaN as above."""
        if self._lens is None or not len(points_px):
            return points_px
        rays = self.rays(points_px) @ self._lens.turn
        flat = rays[:, :2] / np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)
        flat[np.hypot(*flat.T) > self._lens.fold[0]] = np.nan
        return self._lens.distort(flat)

    def rectify_patch(self, picture: UInt8, left: int, top: int, right: int, bottom: int) -> UInt8:
        """A rectangle of the rectified picture, right and bottom excluded; only it is made.

        picture: (H, W) or (H, W, channels). Black where the camera does not see. Raises ValueError
        where the rectangle leaves `reach_px`.
        """
        first, upper, last, lower = self.reach_px
        if not (first <= left < right <= last and upper <= top < bottom <= lower):
            edges = (left, top, right, bottom)
            raise ValueError(f'the rectangle {edges} is empty or leaves {self.reach_px}')
        if self._maps is None:
            return picture[top:bottom, left:right]
        rows, columns = slice(top - upper, bottom - upper), slice(left - first, right - first)
        whole, fraction = (part[rows, columns] for part in self._maps)
        return np.asarray(cv2.remap(picture, whole, fraction, cv2.INTER_LINEAR), np.uint8)

    def prepare(self) -> None:
        """Make the tables of the lens, which takes some 20 ms, before the first picture comes."""
        if self._maps is not None and self._lens is not None:
            _ = self._lens.fold

    @functools.cached_property
    def _lens(self) -> RawLens | None:
        return None if self.raw is None else RawLens(self.raw)

    @functools.cached_property
    def reach_px(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what can be rectified.

        A lens that shrinks the border shows more than the rectified picture has room for.
        """
        x, y = (0, 0) if self._lens is None else (self.width_px // BESIDE, self.height_px // BESIDE)
        return -x, -y, self.width_px + x, self.height_px + y

    @functools.cached_property
    def _maps(self) -> tuple[cv2.typing.MatLike, cv2.typing.MatLike] | None:
        """Fixed-point maps of cv2.remap, 6 bytes a pixel."""
        if self._lens is None:
            return None
        left, top, right, bottom = self.reach_px
        lens, size = self._lens, (right - left, bottom - top)
        centre_px = self.cx_px - left, self.cy_px - top
        target = np.array([[self.fx_px, 0, centre_px[0]], [0, self.fy_px, centre_px[1]], [0, 0, 1]])
        make = cv2.fisheye.initUndistortRectifyMap if lens.fisheye else cv2.initUndistortRectifyMap
        whole, fraction = make(lens.k, lens.d, lens.turn, target, size, cv2.CV_16SC2)
        corners = np.array([[x, y] for x in (left, right - 1.0) for y in (top, bottom - 1.0)])
        if np.isnan(self.unrectify_points(corners)).any():
            columns = np.arange(left, right)
            for row in range(top, bottom):
                points_px = np.column_stack(np.broadcast_arrays(columns, float(row)))
                nowhere = np.isnan(self.unrectify_points(points_px)[:, 0])
                whole[row - top, nowhere] = -2  # sees nothing
        return whole, fraction


class RawLens:
    """How a lens distorts: K, D and R of the camera_info of a picture that is not rectified.

    k: (3, 3). d: coefficients. turn: (3, 3), R: ray of the camera to ray of the rectified one;
    the identity where R is zero, as drivers leave it that know no second eye.
    """

    def __init__(self, info: CameraInfo) -> None:
        self.k = np.reshape(info.k, (3, 3)).astype(np.float64)
        self.d = np.array(info.d if info.distorts else [0.0] * 4, np.float64)
        self.turn = np.reshape(info.r, (3, 3)) if any(info.r) else np.eye(3)
        self.fisheye = info.distortion_model == 'equidistant'
        self._focal_px, self._centre_px = self.k[[0, 1], [0, 1]], self.k[:2, 2]

    def distort(self, flat: Float64) -> Float64:
        """(N, 2) x, y of rays with z = 1 -> (N, 2) pixels of the picture."""
        rays = np.column_stack([flat, np.ones(len(flat))]).reshape(-1, 1, 3)
        project = cv2.fisheye.projectPoints if self.fisheye else cv2.projectPoints
        pixels, _ = project(rays, np.zeros(3), np.zeros(3), self.k, self.d)
        return np.reshape(pixels, (-1, 2)).astype(np.float64)

    def undistort(self, points_px: Float64) -> Float64:
        """(N, 2) pixels of the picture -> (N, 2) x, y of rays with z = 1, or NaN.

        Newton's method from where a lens without tangential distortion would have them.
        cv2.undistortPoints does five rounds of a fixed point, which a strong lens needs more of.
        """
        reach, grown, straight = self.fold
        aim = (points_px - self._centre_px) / self._focal_px
        far = np.hypot(*aim.T)
        start = np.interp(far, grown, straight) / np.maximum(far, 1e-12)
        flat = aim * start[:, None]
        with np.errstate(all='ignore'):
            for _ in range(12):
                pixels, slope = self._slope(flat)
                miss = points_px - pixels
                if not (np.abs(miss) > PRECISE_PX / 100).any():
                    break
                (a, b), (c, d) = np.moveaxis(slope, 0, -1)
                step = np.stack([d * miss[:, 0] - b * miss[:, 1], a * miss[:, 1] - c * miss[:, 0]])
                flat = flat + (step / (a * d - b * c)).T
                flat /= np.maximum(np.hypot(*flat.T) / reach, 1)[:, None]
            good = np.hypot(*(points_px - self.distort(flat)).T) < PRECISE_PX
            good &= np.hypot(*flat.T) < reach * (1 - 1e-9)
        return np.where(good[:, None], flat, np.nan)

    @functools.cached_property
    def fold(self) -> tuple[float, Float64, Float64]:
        """Distance from the axis from which the model is of no use, at z = 1, and a table.

        There the picture turns round: farther rays come nearer again, in some direction. The table:
        distances in the picture -> distances without the lens, both at z = 1, mean of directions.
        """
        straight = np.tan(np.linspace(0, WIDEST_RAD, 200))
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        around = np.column_stack([np.cos(angles), np.sin(angles)])
        flat = (straight[:, None, None] * around).reshape(-1, 2)
        with np.errstate(all='ignore'):
            pixels, slope = self._slope(flat)
            grown = np.hypot(*((pixels - self._centre_px) / self._focal_px).T).reshape(-1, 16)
            turned = ~(np.linalg.det(slope).reshape(-1, 16) > 0)
        turned[1:] |= ~(np.diff(grown, axis=0) > 0)
        bad = turned.any(axis=1)
        last = max(int(bad.argmax()), 1) if bad.any() else len(straight)
        return float(straight[last - 1]), grown[:last].mean(axis=1), straight[:last]

    def _slope(self, flat: Float64) -> tuple[Float64, Float64]:
        """(N, 2) pixels, and (N, 2, 2) by how much they move with x and y."""
        step = 1e-6
        moved = [flat, *(flat + step * np.eye(2)[:, None])]
        here, by_x, by_y = self.distort(np.concatenate(moved)).reshape(3, -1, 2)
        return here, np.stack([by_x - here, by_y - here], axis=2) / step


def _check_raw(info: CameraInfo) -> None:
    """Raise CalibrationError where pictures cannot be rectified with K, D and R."""
    model, count = info.distortion_model, len(info.d)
    advice = 'or, if the pictures are rectified, set rectified: yes'
    if min(info.k[0], info.k[4]) <= 0:
        raise CalibrationError(
            f'K of camera_info has the focal lengths {info.k[0]:g} and {info.k[4]:g} px, so raw '
            f'pictures cannot be rectified. {CALIBRATE}, {advice}.'
        )
    if info.distorts and model not in COEFFICIENTS:
        raise CalibrationError(
            f'camera_info has the distortion model {model!r}, not one of '
            f'{", ".join(COEFFICIENTS)}. {CALIBRATE}, {advice}.'
        )
    if info.distorts and count not in COEFFICIENTS[model]:
        wanted = ' or '.join(map(str, COEFFICIENTS[model]))
        raise CalibrationError(
            f'D of camera_info has {count} numbers, but {model} has {wanted}. {CALIBRATE}, '
            f'{advice}.'
        )
    turn = np.reshape(info.r, (3, 3))
    if turn.any() and not (
        np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    ):
        raise CalibrationError(f'R of camera_info is no rotation. {CALIBRATE}, {advice}.')
