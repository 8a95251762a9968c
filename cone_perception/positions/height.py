"""Range from the height of a cone's box, and what a box is worth for that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.classes import CLASS_NAMES, CONE_SIZES_M, LARGE_ORANGE, UNKNOWN
from cone_perception.positions.camera import CameraModel
from cone_perception.types import Detections, Float32, Float64, Int64

Bool = npt.NDArray[np.bool_]

FITTED_PX = 527.0
"""Focal length of the pictures that the constants in pixels were fitted on. What a near cone shows
depends on how far it is, so boxes are compared as high as they would be with this one."""
KNOTS_PX = np.array([5.5, 7.5, 9.0, 11.0, 14.0, 20.0, 32.0, 60.0, 110.0])
BIAS = np.array([0.038, 0.053, 0.056, 0.050, 0.043, 0.053, 0.074, 0.105, 0.162])
"""Logarithm of true depth over f H / h for boxes h pixels high: far boxes are drawn too high, near
ones show the front of the base plate too. Fitted by `benchmarks/positions.py --fit`."""
ASIDE_PX = 0.8
"""By how much boxes at the sides of the picture are drawn higher, where cones look wider: pixels
times ((u - cx) / fx)^2. Of the same fit."""
SHARE, PIXELS = 0.025, 0.64
"""Standard deviation of a range as a share of it, of the cone, and of the box in pixels."""
CROSSED_SHARE, LOST_SHARE = 0.04, 0.2
"""What is added to that for a box that overlaps another one, and for one that the other eye should
show but does not."""
SLACK, SLIM_SHARE = 0.08, 1.0
"""What is added for each e-fold by which a box is slimmer than usual, beyond some slack: it holds
two cones, one behind the other, or a part of one."""
LYING = 1.28
"""A box that is wider than usual by this factor shows a cone that lies on the ground."""
BORDER_PX = 2.0
"""A box whose side is so near to the picture's border may be cut off there."""

_PLATE_M, _, _HEIGHT_M = np.array(CONE_SIZES_M).T
_EVERY = np.arange(len(CLASS_NAMES))
_WIDTH = np.where(_EVERY == LARGE_ORANGE, 0.72, 0.845)
"""Usual width of a box over its height."""
_SIZE_SHARE = np.where(_EVERY == LARGE_ORANGE, 0.1, np.where(_EVERY == UNKNOWN, 0.18, 0.0))
"""Standard deviation of a cone's height, as a share of it: a large cone may be a small one, an
unknown one any."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one picture and what speaks against them; row i is detection i.

    rectified_px: (N, 4) left, top, right, bottom in the rectified picture, centres of pixels at
    whole numbers; NaN where the lens has no ray. kind: (N,) class of the project. score: (N,). cut:
    (N, 4) bool, that side may lie at the border of the picture. covered: (N, N) bool, the box j, of
    a nearer cone, overlaps the box i. crossed: (N,) bool, any other box does. aside: (N,)
    ((u - cx) / fx)^2 of its column u.
    """

    rectified_px: Float64
    kind: Int64
    score: Float32
    cut: Bool
    covered: Bool
    crossed: Bool
    aside: Float64

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(
        cls, found: Detections, rectified_px: Float64, kind: Int64, camera: CameraModel
    ) -> Boxes:
        """Say what boxes are worth that were found in a picture of this camera."""
        xyxy_px = found.xyxy_px
        far = camera.width_px - BORDER_PX, camera.height_px - BORDER_PX
        border = np.array([BORDER_PX, BORDER_PX, *far])
        cut = (xyxy_px - border) * [1, 1, -1, -1] < 0
        low = np.maximum(rectified_px[:, None, :2], rectified_px[None, :, :2])
        high = np.minimum(rectified_px[:, None, 2:], rectified_px[None, :, 2:])
        crossed: Bool = (low < high).all(axis=2) & ~np.eye(len(xyxy_px), dtype=bool)
        bottom = rectified_px[:, 3]
        nearer = bottom[None] > bottom[:, None]
        touched = np.asarray(crossed.any(axis=1))
        column_px = (rectified_px[:, 0] + rectified_px[:, 2]) / 2
        aside = ((column_px - camera.cx_px) / camera.fx_px) ** 2
        return cls(rectified_px, kind, found.score, cut, crossed & nearer, touched, aside)

    @property
    def width_px(self) -> Float64:
        return self.rectified_px[:, 2] - self.rectified_px[:, 0]

    @property
    def height_px(self) -> Float64:
        return self.rectified_px[:, 3] - self.rectified_px[:, 1]

    @property
    def height_m(self) -> Float64:
        """(N,) of a cone of the class, by the rules."""
        return np.asarray(_HEIGHT_M[self.kind])

    @property
    def plate_m(self) -> Float64:
        """(N,) side of the base plate of a cone of the class, by the rules."""
        return np.asarray(_PLATE_M[self.kind])

    @property
    def usual_width_px(self) -> Float64:
        """(N,) width of a box so high."""
        return np.asarray(_WIDTH[self.kind] * self.height_px)

    @property
    def stoutness(self) -> Float64:
        """(N,) logarithm of the width over the usual one."""
        return np.asarray(np.log(np.maximum(self.width_px, 1) / np.maximum(self.usual_width_px, 1)))

    @property
    def hidden(self) -> Bool:
        """(N,) bool: a nearer cone may hide a part of it."""
        return np.asarray(self.covered.any(axis=1))

    @property
    def lies(self) -> Bool:
        """(N,) bool: the cone lies on the ground, so that its box is not as high as it is.

        A flat picture stretches what stands aside.
        """
        return np.asarray(self.stoutness > np.log(LYING * np.sqrt(1 + self.aside)))

    @property
    def whole(self) -> Bool:
        """(N,) bool: the height of the box is that of a standing cone, and of no other."""
        return ~(self.cut.any(axis=1) | self.crossed | self.lies | (self.stoutness < -2 * SLACK))


def height_range(boxes: Boxes, fy_px: float, lost: Bool) -> tuple[Float64, Float64]:
    """(N,) depth by the height of the box, and its standard deviation, metres.

    lost: (N,) bool, the other eye should show the cone but does not. Infinite deviation where the
    height says nothing: the cone lies, or the border cuts it off.
    """
    fitted = FITTED_PX / fy_px
    high = np.maximum(boxes.height_px * fitted - ASIDE_PX * boxes.aside, 1.0)
    depth_m = FITTED_PX * boxes.height_m / high * np.exp(np.interp(high, KNOTS_PX, BIAS))
    share = np.sqrt(
        SHARE**2
        + (PIXELS * max(1, fitted) / high) ** 2
        + _SIZE_SHARE[boxes.kind] ** 2
        + (CROSSED_SHARE * boxes.crossed) ** 2
        + (SLIM_SHARE * np.maximum(-boxes.stoutness - SLACK, 0)) ** 2
        + (LOST_SHARE * lost) ** 2
    )
    useless = boxes.lies | boxes.cut.any(axis=1)
    return depth_m, np.where(useless, np.inf, share * depth_m)
