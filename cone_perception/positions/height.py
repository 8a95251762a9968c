"""Range from the height of a cone's box, and what a box is worth for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cone_perception.classes import CONE_SIZES_M, LARGE_ORANGE, UNKNOWN, project_classes
from cone_perception.types import Float64, Int64

Bool = npt.NDArray[np.bool_]

KNOTS_PX = np.array([5.5, 7.5, 9.0, 11.0, 14.0, 20.0, 32.0, 60.0, 110.0])
BIAS = np.array([0.100, 0.099, 0.090, 0.076, 0.055, 0.058, 0.075, 0.105, 0.168])
"""Logarithm of true depth over f H / h for boxes h pixels high: far boxes are drawn too high, near
ones show the front of the base plate too. Fitted by `benchmarks/positions.py --fit`."""
SHARE, PIXELS = 0.035, 0.8
"""Standard deviation of a range as a share of it, of the cone, and of the box in pixels."""
LARGE_SHARE, UNKNOWN_SHARE, HIDDEN_SHARE = 0.1, 0.18, 0.1
"""What is added to that for a large cone, which may be a small one, for a cone of no known class,
and for a box that overlaps another one."""
LYING = 1.12
"""Width over height from which a cone lies; of one that stands it is 0.65 to 1.03."""
BORDER_PX = 2.0
"""A box whose side is so near to the picture's border may be cut off there."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of one picture and what speaks against them; row i is detection i.

    rectified_px: (N, 4) left, top, right, bottom in the rectified picture, centres of pixels at
    whole numbers; NaN where the lens has no ray. size_m: (N,) height of a cone of the class.
    cut: (N, 4) bool, that side may lie at the border of the picture. covered: (N, N) bool, the box
    j, of a nearer cone, overlaps the box i. crossed: (N,) bool, any other box does. unsure: (N,)
    share of the size that the class leaves open.
    """

    rectified_px: Float64
    size_m: Float64
    cut: Bool
    covered: Bool
    crossed: Bool
    unsure: Float64

    @property
    def height_px(self) -> Float64:
        return self.rectified_px[:, 3] - self.rectified_px[:, 1]

    @property
    def width_px(self) -> Float64:
        return self.rectified_px[:, 2] - self.rectified_px[:, 0]

    @property
    def hidden(self) -> Bool:
        """(N,) bool: a nearer cone may hide a part of it."""
        return np.asarray(self.covered.any(axis=1))

    @property
    def lies(self) -> Bool:
        """(N,) bool: the cone lies on the ground, so that its box is not as high as it is."""
        return np.asarray(self.width_px > LYING * self.height_px)

    @property
    def whole(self) -> Bool:
        """(N,) bool: the height of the box is that of a standing cone."""
        return ~(self.cut.any(axis=1) | self.hidden | self.lies)


def look_at(
    xyxy_px: Float64,
    rectified_px: Float64,
    sizes: tuple[Float64, Float64],
    width_px: int,
    height_px: int,
) -> Boxes:
    """Say what boxes are worth. xyxy_px: (N, 4) in the picture, edges of pixels.

    sizes: (N,) height of a cone of the class, and by what share of it that is unsure.
    """
    border = np.array([BORDER_PX, BORDER_PX, width_px - BORDER_PX, height_px - BORDER_PX])
    sign = np.array([1, 1, -1, -1])
    cut = (xyxy_px - border) * sign < 0
    low = np.maximum(rectified_px[:, None, :2], rectified_px[None, :, :2])
    high = np.minimum(rectified_px[:, None, 2:], rectified_px[None, :, 2:])
    crossed: Bool = (low < high).all(axis=2) & ~np.eye(len(xyxy_px), dtype=bool)
    bottom = rectified_px[:, 3]
    nearer = bottom[None] > bottom[:, None]
    size_m, unsure = sizes
    return Boxes(
        rectified_px, size_m, cut, crossed & nearer, np.asarray(crossed.any(axis=1)), unsure
    )


def class_sizes(class_names: Sequence[str], class_id: Int64) -> tuple[Float64, Float64]:
    """(N,) heights of cones of these classes, metres, and by what share of it each is unsure."""
    classes = project_classes(class_names)
    size_m = np.array([CONE_SIZES_M[each][2] for each in classes])
    unsure = np.array(
        [{LARGE_ORANGE: LARGE_SHARE, UNKNOWN: UNKNOWN_SHARE}.get(c, 0.0) for c in classes]
    )
    return size_m[class_id], unsure[class_id]


def height_range(boxes: Boxes, fy_px: float) -> tuple[Float64, Float64]:
    """(N,) depth by the height of the box, and its standard deviation, metres.

    Infinite deviation where the height says nothing: the cone lies, or the border cuts it off.
    """
    high = np.maximum(boxes.height_px, 1.0)
    depth_m = fy_px * boxes.size_m / high * np.exp(np.interp(high, KNOTS_PX, BIAS))
    share = np.sqrt(
        SHARE**2 + (PIXELS / high) ** 2 + boxes.unsure**2 + (HIDDEN_SHARE * boxes.crossed) ** 2
    )
    useless = boxes.lies | boxes.cut.any(axis=1)
    return depth_m, np.where(useless, np.inf, share * depth_m)
