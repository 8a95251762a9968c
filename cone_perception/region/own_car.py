"""The parts of the own car in a moving picture: what stays at its place, with boxes that do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cone_perception.accuracy.matching import box_iou
from cone_perception.filters import feet_of
from cone_perception.types import Float32, Int64, UInt8

Bool = npt.NDArray[np.bool_]

SIDE_PX = 160
"""Longer side of the small pictures in which the car is looked for."""
CHANGE = 0.08
"""Least difference of two pictures that show different things, as a share of their contrast."""
STAYS = 0.6
"""Share of the edges at a place that the mean picture keeps, from which the place is on the car."""
BLUR_PX, THIN_PX, MARGIN_PX, CORNER_PX = 2.5, 7, 11, 2.0
"""Of the small picture: an edge's surroundings; a part's least width; widths of the ellipse by
which the parts are made smaller; what a corner of the region is worth."""
SAME = 0.3
"""Overlap (IoU) of boxes at the same place."""
SHARE, LEAST = 0.1, 3
"""Share and number of the pictures in which a place has a box, at least."""
STATIONARY = 0.75
"""Least share of the boxes on a part of the car that lie at places; cones drive by elsewhere."""


class StayingEdges:
    """Edges of a sequence of pictures that stay at their place while the others move.

    The mean of all pictures keeps the edges of the own car and blurs all others: the edges of the
    mean, divided by the mean of the edges, are 1 on the car and near 0 elsewhere.
    moved: pictures taken in.
    """

    def __init__(self) -> None:
        self.moved = 0
        self._last: Float32 | None = None
        self._sum = np.zeros(1, np.float32)  # (3, rows, columns) from the first picture on

    def add(self, bgr: UInt8) -> bool:
        """Take a picture in; False where it hardly differs from the last one taken in.

        bgr: (H, W, 3) uint8, all of one size.
        """
        scale = SIDE_PX / max(bgr.shape[:2])
        size = (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale)))
        small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)
        grey -= grey.mean()
        if self._last is not None:
            contrast = (np.abs(grey).mean() + np.abs(self._last).mean()) / 2
            if np.abs(grey - self._last).mean() < CHANGE * (contrast + 0.5):
                return False
        across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=0.25)
        down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=0.25)
        self._sum = self._sum + np.array([across, down, np.hypot(across, down)], np.float32)
        self._last, self.moved = grey, self.moved + 1
        return True

    def staying(self) -> Bool:
        """(rows, columns) bool of the small picture: where the edges stay. After a picture."""
        across, down, every = self._sum / np.float32(self.moved)
        kept, every = (
            cv2.GaussianBlur(edges, (0, 0), BLUR_PX) for edges in (np.hypot(across, down), every)
        )
        return np.asarray(kept > STAYS * (every + 0.5))


@dataclass(frozen=True, slots=True)
class Place:
    """A place of the picture with a box in many pictures.

    xyxy_px: the middle one of its boxes. share: of the pictures that have one.
    """

    xyxy_px: tuple[float, float, float, float]
    share: float


def find_places(xyxy_px: Float32, picture: Int64, pictures: int) -> list[Place]:
    """Find where boxes come again. xyxy_px: (N, 4), surest first. picture: (N,), of `pictures`."""
    places = []
    while len(xyxy_px):
        same = box_iou(xyxy_px[:1], xyxy_px)[0] >= SAME
        same[0] = True  # also a box without area
        seen = len(np.unique(picture[same]))
        if seen >= max(LEAST, SHARE * pictures):
            middle = np.median(xyxy_px[same], axis=0).astype(float)
            left, top, right, bottom = middle.round(1).tolist()
            places.append(Place((left, top, right, bottom), round(seen / pictures, 3)))
        xyxy_px, picture = xyxy_px[~same], picture[~same]
    return places


def at_places(xyxy_px: Float32, places: list[Place]) -> Bool:
    """(N,) bool: which boxes lie at one of the places."""
    known = np.array([place.xyxy_px for place in places], np.float32).reshape(-1, 4)
    return np.asarray((box_iou(xyxy_px, known) >= SAME).any(axis=1))


def find_car(
    staying: Bool, xyxy_px: Float32, picture: Int64, pictures: int, size_px: tuple[int, int]
) -> tuple[Bool, list[Place]]:
    """Find the parts of the car on which boxes stay, made smaller by a margin, and their places.

    staying: of `StayingEdges`. xyxy_px: (N, 4), surest first. picture: (N,). size_px: width and
    height of the pictures.
    """
    rows, columns = staying.shape
    feet = np.floor(feet_of(xyxy_px, *size_px) * (columns, rows)).astype(int)
    x, y = np.clip(feet, 0, (columns - 1, rows - 1)).T
    car, places = np.zeros_like(staying), []
    for part in _parts(staying):
        on_it = part[y, x]
        found = find_places(xyxy_px[on_it], picture[on_it], pictures)
        stay = at_places(xyxy_px[on_it], found)
        if found and stay.mean() >= STATIONARY:
            car |= _smaller(part)
            for column, row in zip(x[on_it][stay], y[on_it][stay], strict=True):
                car[row - 1 :, max(column - 1, 0) : column + 2] = True
            places += found
    return car, places


def _parts(staying: Bool) -> Iterator[Bool]:
    """Each part of the car: it hangs together, reaches the lower edge, and hides what is below.

    What reaches the upper edge, too, is no part of the car: a region needs all columns.
    """
    solid = cv2.morphologyEx(staying.astype(np.uint8), cv2.MORPH_OPEN, _ellipse(THIN_PX))
    _, label = cv2.connectedComponents(solid)
    for number in np.unique(label[-1][label[-1] > 0]):
        part = np.asarray(np.logical_or.accumulate(label == number, axis=0))
        if not part[0].any():
            yield part


def _smaller(part: Bool) -> Bool:
    return np.asarray(cv2.erode(part.astype(np.uint8), _ellipse(MARGIN_PX)), bool)


def _ellipse(side_px: int) -> UInt8:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px))
    return np.asarray(kernel, np.uint8)


def region_without(car: Bool) -> tuple[float, ...]:
    """Corners x, y, x, y, ... in fractions: the outline of all but the car, with few corners."""
    kept = (~car).astype(np.uint8)
    outlines, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea)
    corners = cv2.approxPolyDP(outline, CORNER_PX, True).reshape(-1, 2)
    fractions = corners / np.maximum(np.array(car.shape[::-1]) - 1, 1)
    return tuple(np.round(fractions, 3).ravel().tolist())
