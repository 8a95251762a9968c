"""The camera: where a point of the world lands in the picture.

World: x, y on the ground, z up, metres. Optical frame: x right, y down, z forward.
The lens is the Brown-Conrady model of OpenCV's calib3d (k1, k2, p1, p2, k3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources

import cv2
import numpy as np
import numpy.typing as npt

from cone_perception.files import parse_yaml
from training.simulate.scenery.sketch import Array


@dataclass(frozen=True)
class PinholeCamera:
    """Pinhole camera with a lens and a place in the world.

    width_px, height_px: picture size. fx_px .. cy_px: focal lengths and principal point.
    distortion: k1, k2, p1, p2, k3. position_m: (x, y, z) of the optical centre.
    yaw_rad: 0 looks along x, positive turns left. pitch_rad: positive looks down.
    roll_rad: positive turns the camera clockwise.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    position_m: tuple[float, float, float] = (0.0, 0.0, 1.0)
    yaw_rad: float = 0.0
    pitch_rad: float = 0.0
    roll_rad: float = 0.0

    @property
    def matrix(self) -> Array:
        """(3, 3) intrinsic matrix K."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1.0]])

    @cached_property
    def rotation(self) -> Array:
        """(3, 3) world to optical frame: its rows are right, down and forward in the world."""
        turns = (self.yaw_rad, self.pitch_rad, self.roll_rad)
        (cy, sy), (cp, sp), (cr, sr) = ((math.cos(turn), math.sin(turn)) for turn in turns)
        forward = np.array([cy * cp, sy * cp, -sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    def to_optical(self, points_m: npt.ArrayLike) -> Array:
        """(..., 3) world points to (..., 3) points of the optical frame, metres."""
        offset = np.asarray(points_m, np.float64) - np.array(self.position_m)
        return np.asarray(offset @ self.rotation.T, np.float64)

    def to_level(self, points_m: npt.ArrayLike) -> Array:
        """(..., 3) world points as seen from the ground below the camera, metres.

        x points to where the camera looks, along the ground, y left, z up.
        """
        sin, cos = math.sin(self.yaw_rad), math.cos(self.yaw_rad)
        offset = np.asarray(points_m, np.float64) - (*self.position_m[:2], 0.0)
        return np.asarray(offset @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]))

    def project(self, points_m: npt.ArrayLike) -> tuple[Array, Array]:
        """(..., 3) world points to (..., 2) pixels without the lens, and (...) depth in metres.

        Pixels of points less than 5 cm ahead are meaningless: look at the depth first.
        """
        optical = self.to_optical(points_m)
        depth = optical[..., 2]
        safe = np.maximum(depth, 0.05)
        x_px = self.fx_px * optical[..., 0] / safe + self.cx_px
        y_px = self.fy_px * optical[..., 1] / safe + self.cy_px
        return np.stack([x_px, y_px], axis=-1), depth

    def distort(self, normalised: Array) -> Array:
        """(..., 2) undistorted normalised coordinates to (..., 2) pixels through the lens."""
        k1, k2, p1, p2, k3 = self.distortion
        x, y = normalised[..., 0], normalised[..., 1]
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx_px * xd + self.cx_px, self.fy_px * yd + self.cy_px], axis=-1)

    def turned(self, yaw_rad: float, pitch_rad: float, roll_rad: float) -> PinholeCamera:
        """Turned about its own axes: to the left, then down, then clockwise."""
        here = replace(PinholeCamera(1, 1, 1, 1, 0, 0), yaw_rad=yaw_rad, pitch_rad=pitch_rad)
        level = PinholeCamera(1, 1, 1, 1, 0, 0).rotation
        change = replace(here, roll_rad=roll_rad).rotation @ level.T
        right, down, forward = change @ self.rotation
        return replace(
            self,
            yaw_rad=math.atan2(forward[1], forward[0]),
            pitch_rad=-math.asin(forward[2]),
            roll_rad=math.atan2(-right[2], -down[2]),
        )

    def resized(self, width_px: int) -> PinholeCamera:
        """The same view in a picture of another width."""
        scale = width_px / self.width_px
        return replace(
            self,
            width_px=width_px,
            height_px=round(self.height_px * scale),
            fx_px=self.fx_px * scale,
            fy_px=self.fy_px * scale,
            cx_px=(self.cx_px + 0.5) * scale - 0.5,
            cy_px=(self.cy_px + 0.5) * scale - 0.5,
        )


@dataclass(frozen=True, slots=True)
class Lens:
    """A camera's lens, drawn in two steps: a plain pinhole canvas, then one remap.

    focal_px: focal lengths of a canvas that shows all that the camera sees.
    maps: fixed-point maps for cv2.remap, picture pixel to canvas pixel; None: they are the same.
    """

    focal_px: tuple[float, float]
    maps: tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]] | None


def make_lens(camera: PinholeCamera) -> Lens:
    """The canvas and the maps for a camera; without distortion the canvas is the picture.

    Raises ValueError for a lens that folds: one that shows two places at one pixel.
    """
    if not any(camera.distortion):
        return Lens((camera.fx_px, camera.fy_px), None)
    cell = 16
    xs = (np.arange(-1, camera.width_px // cell + 2) + 0.5) * cell - 0.5
    ys = (np.arange(-1, camera.height_px // cell + 2) + 0.5) * cell - 0.5
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    focal_lengths = np.array([camera.fx_px, camera.fy_px])
    flat = (grid - np.array([camera.cx_px, camera.cy_px])) / focal_lengths
    for _ in range(20):
        miss = (camera.distort(flat) - grid) / focal_lengths
        flat = flat - miss
        worst = float(np.abs(miss).max())
        if not 1e-5 < worst < 10:
            break
    if not worst < 1e-3:
        raise ValueError(
            f'distortion {camera.distortion} folds the picture within {camera.width_px}x'
            f'{camera.height_px} px at a focal length of {camera.fx_px:.0f} px: '
            'weaken k1 or narrow the field of view'
        )
    reach = (
        -flat[:, 0, 0].min() / (camera.cx_px + 1),
        flat[:, -1, 0].max() / (camera.width_px - camera.cx_px),
        -flat[0, :, 1].min() / (camera.cy_px + 1),
        flat[-1, :, 1].max() / (camera.height_px - camera.cy_px),
    )
    focal = 1 / max(reach)
    focal_px = (focal, focal * camera.fy_px / camera.fx_px)
    pixel = flat * np.array(focal_px) + np.array([camera.cx_px, camera.cy_px])
    size = (len(xs) * cell, len(ys) * cell)
    full = cv2.resize(pixel.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    inside = full[cell : cell + camera.height_px, cell : cell + camera.width_px]
    x, y = np.ascontiguousarray(np.moveaxis(inside, 2, 0))
    return Lens(focal_px, cv2.convertMaps(x, y, cv2.CV_16SC2))


def load_camera() -> PinholeCamera:
    """The camera of zed2i.yaml, standing at the origin."""
    text = resources.files(__package__).joinpath('zed2i.yaml').read_text(encoding='utf-8')
    values = parse_yaml(text)
    position_m, pitch_deg = (0.0, 0.0, values.pop('height_m')), values.pop('pitch_deg')
    values['distortion'] = tuple(values['distortion'])
    return PinholeCamera(**values, position_m=position_m, pitch_rad=math.radians(pitch_deg))
