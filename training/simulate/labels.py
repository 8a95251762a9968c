"""Boxes of what can be seen of each cone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from cone_perception.classes import UNKNOWN
from training.simulate.camera import PinholeCamera
from training.simulate.cone_view import ConeView
from training.simulate.settings import SimulateSettings


@dataclass(frozen=True, slots=True)
class Label:
    """One visible cone. xyxy_px: left, top, right, bottom, edges of pixels, whole picture is
    0, 0, width, height. visible: fraction of its pixels in view. depth_m: along the optical axis.
    """

    class_id: int
    xyxy_px: tuple[float, float, float, float]
    visible: float
    depth_m: float

    def moved(self, right_px: int, down_px: int) -> Label:
        """The same cone in a picture with so much of a border."""
        x0, y0, x1, y1 = self.xyxy_px
        box = (x0 + right_px, y0 + down_px, x1 + right_px, y1 + down_px)
        return replace(self, xyxy_px=box)


def find_labels(
    ids: npt.NDArray[np.int16],
    views: list[tuple[int, ConeView, int]],
    camera: PinholeCamera,
    canvas: PinholeCamera,
    settings: SimulateSettings,
) -> list[Label]:
    """Labels from the ids of the finished picture.

    views: for each cone its id, its view in the canvas, and the pixels of it without occlusion.
    A side of a box that nothing hides is taken from geometry, to a fraction of a pixel; any other
    from the pixels that show the cone.
    """
    height, width = ids.shape
    scale = width / 1280
    if not views:
        return []
    points = np.concatenate([view.outline_px for _, view, _ in views])
    flat = (points - (canvas.cx_px, canvas.cy_px)) / (canvas.fx_px, canvas.fy_px)
    through_lens = camera.distort(flat)
    starts = np.cumsum([0] + [len(view.outline_px) for _, view, _ in views])
    lows = (np.minimum.reduceat(through_lens, starts[:-1]) + 0.5).tolist()
    highs = (np.maximum.reduceat(through_lens, starts[:-1]) + 0.5).tolist()
    labels = []
    for k, (cone_id, view, whole) in enumerate(views):
        low, high = lows[k], highs[k]
        left, top = max(int(low[0]) - 2, 0), max(int(low[1]) - 2, 0)
        right, bottom = min(int(high[0]) + 3, width), min(int(high[1]) + 3, height)
        if right <= left or bottom <= top:
            continue
        mine = ids[top:bottom, left:right] == cone_id
        count = int(np.count_nonzero(mine))
        if count == 0:
            continue
        seen = through_lens[starts[k] : starts[k + 1]]
        grown = _area(seen) / max(_area(view.outline_px), 1e-6)
        visible = min(count / max(whole * grown, 1e-6), 1.0)
        columns, rows = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
        slack = max(1.25, 0.12 * (high[1] - low[1]) if high[1] - low[1] < 24 else 1.25)
        box = []
        for geometric, pixel, limit in (
            (low[0], left + columns[0], width),
            (low[1], top + rows[0], height),
            (high[0], left + columns[-1] + 1, width),
            (high[1], top + rows[-1] + 1, height),
        ):
            edge = min(max(geometric, 0.0), float(limit))
            box.append(edge if abs(edge - pixel) <= slack else float(pixel))
        x0, y0, x1, y1 = box
        tall = y1 - y0
        if visible < settings.min_visible or tall < settings.min_height_px * scale:
            continue
        if x1 - x0 < 0.4 * settings.min_height_px * scale:
            continue
        class_id = view.cone.class_id
        if view.cone.lift_m > 0 and view.toward < -0.8:
            # It lies with its foot to the camera: nobody could tell its colour.
            class_id = UNKNOWN
        labels.append(Label(class_id, (x0, y0, x1, y1), visible, view.depth_m))
    return labels


def _area(points: npt.NDArray[np.float64]) -> float:
    return float(cv2.contourArea(cv2.convexHull(points.astype(np.float32))))
