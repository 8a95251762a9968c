"""A rolling shutter: the camera moves while it reads its rows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.simulate.camera import Lens, PinholeCamera
from training.simulate.cone_view import Ids
from training.simulate.scenery.sketch import Array

Places = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shutter:
    """How points move past a camera from its first row to its last, as if at constant speed.

    A point P of the optical frame, at the moment of the middle row, has moved by turn @ P +
    shift_m between the first and the last; each row shows it at its own moment.
    """

    turn: Array
    shift_m: Array

    @classmethod
    def of(cls, first: PinholeCamera, middle: PinholeCamera, last: PinholeCamera) -> Shutter:
        """Of one camera at the moments of its first, its middle and its last row."""
        here = np.array(middle.position_m)
        (turn_a, shift_a), (turn_b, shift_b) = (
            (at.rotation @ middle.rotation.T, at.rotation @ (here - at.position_m))
            for at in (first, last)
        )
        return cls(turn_b - turn_a, shift_b - shift_a)

    def seen(self, flat: Array, depth_m: Array, camera: PinholeCamera) -> Array:
        """(N, 2) normalised places at the middle moment -> where their own row shows them."""
        rays = np.column_stack([flat, np.ones(len(flat))])
        moved = rays @ self.turn.T + self.shift_m / depth_m[:, None]
        seen = flat
        for _ in range(4):  # the row depends on the place, a little
            at = rays + self._moments(camera.distort(seen)[:, 1:], camera) * moved
            seen = at[:, :2] / at[:, 2:]
        return np.asarray(seen)

    def sources(self, lens: Lens, ids: Ids, depths_m: Array, camera: PinholeCamera) -> Places:
        """(H, W, 2) float32: place in the canvas that each pixel shows.

        ids: (H, W), the cone of each pixel at the middle moment. depths_m: of the cones, by id.
        A cone counts as a flat picture at its depth, the ground as a plane, all else as infinitely
        far. What a near thing uncovers while it moves is drawn from its surroundings.
        """
        height, width = ids.shape
        centre = np.array([camera.cx_px, camera.cy_px])
        canvas = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        if lens.maps:
            canvas = np.stack(cv2.convertMaps(*lens.maps, cv2.CV_32FC1), axis=-1)
        flat = (canvas - centre) / lens.focal_px
        rays = np.concatenate([flat, np.ones((height, width, 1))], axis=-1)
        nearness = np.maximum(-(rays @ camera.rotation[:, 2]), 0) / camera.position_m[2]
        # The edge of a cone moves with the cone, not with what lies behind it.
        around = cv2.dilate(ids, np.ones((5, 5), np.uint8))
        nearness = np.where(around > 0, 1 / depths_m[around], nearness)
        rows = np.arange(height, dtype=np.float64)[:, None, None]
        moved = rays @ self.turn.T + nearness[..., None] * self.shift_m
        there = rays - self._moments(rows, camera) * moved
        places = there[..., :2] / there[..., 2:] * lens.focal_px + centre
        return np.asarray(places, np.float32)

    @staticmethod
    def _moments(row: Array, camera: PinholeCamera) -> Array:
        """When a row is read: -0.5 the first, 0.5 the last."""
        return np.asarray((row + 0.5) / camera.height_px - 0.5)
