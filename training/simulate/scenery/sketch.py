"""A flat picture to draw things into, and colours and noise by chance."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
Colour = tuple[float, ...]
"""BGR, 0..255."""
Point = tuple[float, float]


def hsv_colour(hue: float, saturation: float, value: float) -> Colour:
    """Colour of OpenCV's 8-bit HSV: hue 0..180, the others 0..255."""
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return tuple(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(float).tolist())


def random_colour(rng: np.random.Generator, vivid: float = 0.5) -> Colour:
    """A colour: greyish with probability 1 - vivid, else any hue, cone hues more often."""
    if rng.random() > vivid:
        grey = rng.uniform(15, 245)
        return tuple(np.clip(grey + rng.normal(0, 10, 3), 0, 255).tolist())
    hue = rng.choice([rng.uniform(0, 180), 110.0, 25.0, 5.0, 60.0], p=[0.5, 0.15, 0.15, 0.12, 0.08])
    return hsv_colour(hue, rng.uniform(90, 255), rng.uniform(60, 255))


def scaled(colour: Colour, factor: float, more: float = 0.0) -> Colour:
    """A darker or a brighter colour, at most 255."""
    return tuple(min(factor * value + more, 255) for value in colour)


class Sketch:
    """A BGRA picture, transparent where nothing is drawn. Corners are cut to whole pixels."""

    def __init__(self, width: int, height: int, colour: Colour | None = None) -> None:
        self.bgra: Bytes = np.zeros((height, width, 4), np.uint8)
        if colour is not None:
            self.bgra[:] = (*colour, 255.0)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour, thick: int = -1
    ) -> None:
        """Draw a rectangle, its last row and column included; thick: of its line, -1: filled."""
        ends = (int(x0), int(y0)), (int(x1), int(y1))
        cv2.rectangle(self.bgra, *ends, (*colour, 255.0), thick)

    def polygon(self, points: npt.ArrayLike, colour: Colour) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.bgra, [np.array(points).astype(np.int32)], (*colour, 255.0))

    def line(
        self, start: Point, end: Point, colour: Colour, thick: int = 1, soft: bool = False
    ) -> None:
        """Draw a line; soft: anti-aliased."""
        ends = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        kind = cv2.LINE_AA if soft else cv2.LINE_8
        cv2.line(self.bgra, *ends, (*colour, 255.0), thick, kind)

    def ellipse(
        self,
        middle: Point,
        axes: Point,
        colour: Colour,
        thick: int = -1,
        turn_deg: float = 0,
        first_deg: float = 0,
        soft: bool = False,
    ) -> None:
        """Draw an ellipse, from `first_deg` to its end; soft: anti-aliased."""
        place = (int(middle[0]), int(middle[1])), (int(axes[0]), int(axes[1]))
        kind = cv2.LINE_AA if soft else cv2.LINE_8
        angles = turn_deg, first_deg, 360
        cv2.ellipse(self.bgra, *place, *angles, (*colour, 255.0), thick, kind)

    def shade(self, factor: npt.NDArray[np.floating]) -> None:
        """Multiply the colours; factor: broadcast to (H, W)."""
        colours = self.bgra[..., :3] * factor[..., None]
        self.bgra[..., :3] = np.clip(colours, 0, 255).astype(np.uint8)

    def mottled(self, rng: np.random.Generator, strength: float) -> Bytes:
        """The picture, its colours multiplied with noise of this standard deviation."""
        height, width = self.bgra.shape[:2]
        cells = (max(height // int(rng.choice([2, 6, 16])), 2), max(width // 6, 2))
        noise = rng.normal(1, strength, cells).astype(np.float32)
        self.shade(cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR))
        return self.bgra
