"""Which views a picture is looked at in, where the band lies, and one list of cones of all of them.

Far cones need the band around the horizon, near ones the whole picture. docs/views.md explains it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import cycle
from typing import Literal

import numpy as np

from cone_perception.preprocess import Patch, View, band_views, tile_views, whole_view
from cone_perception.settings import DetectorSettings
from cone_perception.types import Detections, Float32, Int64, ViewName, Views

FAR_PX, NEAR_PX = 12.0, 32.0
"""Height of a box as the whole view shows it, in network pixels: 24 and 64 px of a source 1280 px
wide. Below FAR_PX the finer view is believed, from NEAR_PX on only the whole view."""
FINER = 0.2
"""What the score of a far box gains over the whole view's, each time its view doubles the scale. A
box that the finer view hardly believes in must not replace one that the whole view is sure of."""
SAME_IOU, ANY_IOU = 0.45, 0.6
"""Boxes of two patches that overlap more are one cone: of the same class, of any two classes."""
REMEMBERED = 15
"""Answers whose bands are averaged: half a second of a 30 Hz camera."""
ROW_DECIMALS = 2
"""Of a band's row in pixels: one that is laid again by its stored row has the same pixels."""
NOWHERE = 0.5
"""Row of the band, as a share of the height, in a still that shows no cone."""
FAR_M = 20.0
"""Distance of the cone in the middle of a band that is laid by the mounting: cones from 10 to 40 m
away stand around it."""
CONE_M = 0.325
"""Height of a small cone of Formula Student."""

BANDS: tuple[ViewName, ...] = ('horizon', 'strip')
"""Views that lie around the horizon."""

BandOrigin = Literal['mounting', 'boxes', 'start', 'first look']
"""What says where a band lies."""

Looks = list[tuple[View, Detections]]


def bands_of(views: Views) -> tuple[ViewName, ...]:
    """Those of BANDS that are used."""
    return tuple(name for name in BANDS if name in views.split('+'))


def band_edges(views: Iterable[View]) -> list[tuple[int, int]]:
    """First and behind-last row of each of the bands among the views."""
    patches = (patch for view in views if view.name in BANDS for patch in view.patches)
    return sorted({(patch.source.top, patch.source.bottom) for patch in patches})


def first_views(
    height_px: int, width_px: int, network: tuple[int, int], views: Views
) -> list[View]:
    """Views that need to know nothing of a source of this size. network: height, width."""
    whole = whole_view(height_px, width_px, network)
    return [whole] if views == 'whole' else [whole, *tile_views(height_px, width_px, network)]


def views_around(
    row_px: float, height_px: int, width_px: int, network: tuple[int, int], views: Views
) -> list[View]:
    """Views of the second look, around this row."""
    return [
        view
        for name in bands_of(views)
        for view in band_views(name, height_px, width_px, network, row_px)
    ]


def views_of(
    height_px: int,
    width_px: int,
    network: tuple[int, int],
    views: Views,
    row_px: float | None = None,
) -> list[View]:
    """Views of a source of this size; those of the second look where their row is given."""
    first = first_views(height_px, width_px, network, views)
    around = () if row_px is None else views_around(row_px, height_px, width_px, network, views)
    return [*first, *around]


@lru_cache
def views_per_picture(views: Views) -> int:
    """Number of network pictures that a picture of twice the network's size takes."""
    return len(views_of(720, 1280, (360, 640), views, 0))


def above(looks: Looks, thresholds: Mapping[ViewName, Float32]) -> Looks:
    """What reaches the least score of its class in its view."""
    return [(view, found.above(thresholds[view.name])) for view, found in looks]


def merge(looks: Looks) -> Detections:
    """One list of what several views of one picture show, best score first.

    looks: each view with its boxes in network pixels, the whole view first. Only boxes of two
    patches can be the same cone: one patch has had its overlaps suppressed. A box that counts never
    gives way to one that does not.
    """
    whole_scale = looks[0][0].patches[0].scale
    parts: list[tuple[Patch, Detections]] = [
        part for view, found in looks for part in view.to_source(found)
    ]
    if len(parts) == 1:
        return parts[0][1]
    every = Detections.joined([found for _, found in parts])
    xyxy, score, class_id, counts = every.xyxy_px, every.score, every.class_id, every.counts
    lengths = [len(found) for _, found in parts]
    patch = np.repeat(np.arange(len(parts)), lengths)
    finer = np.repeat([patch.scale / whole_scale for patch, _ in parts], lengths)
    tall = (xyxy[:, 3] - xyxy[:, 1]) * whole_scale
    rank = score + np.where(tall < FAR_PX, FINER * np.log2(finer), 0)
    belongs = (tall < NEAR_PX) | (finer <= 1.01)
    order = np.flatnonzero(belongs)[np.lexsort((-rank[belongs], ~counts[belongs]))]
    first, second, overlap = _overlaps(xyxy[order])
    same = class_id[order[first]] == class_id[order[second]]
    other = patch[order[first]] != patch[order[second]]
    one_cone = other & (overlap > np.where(same, SAME_IOU, ANY_IOU))
    kept = [True] * len(order)
    pairs = zip(first[one_cone].tolist(), second[one_cone].tolist(), strict=True)
    for better, worse in sorted(pairs):
        if kept[better]:
            kept[worse] = False
    chosen = order[kept]
    chosen = chosen[np.argsort(-score[chosen], kind='stable')]
    return every[chosen]


def _overlaps(xyxy: Float32) -> tuple[Int64, Int64, Float32]:
    """Pairs of boxes that share columns: the lower index, the higher, intersection over union."""
    by_left = np.argsort(xyxy[:, 0], kind='stable')
    left, top, right, bottom = xyxy[by_left].T
    here = np.arange(len(xyxy))
    counts = np.maximum(np.searchsorted(left, right) - here - 1, 0)  # those that begin inside it
    a = np.repeat(here, counts)
    b = a + 1 + np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = np.minimum(right[a], right[b]) - left[b]
    height = np.minimum(bottom[a], bottom[b]) - np.maximum(top[a], top[b])
    shared = width * np.maximum(height, 0)
    area = (right - left) * (bottom - top)
    pair = np.sort([by_left[a], by_left[b]], axis=0)
    return pair[0], pair[1], shared / np.maximum(area[a] + area[b] - shared, 1e-9)


def far_row(found: Detections, whole_scale: float) -> float | None:
    """Row at which far cones stand; None where none is found.

    The median middle of small boxes; else the median upper side of all, since near cones stand
    lower but reach up to the horizon.
    """
    if not len(found):
        return None
    small = found.height_px * whole_scale < FAR_PX
    rows = found.xyxy_px[small][:, [1, 3]].mean(axis=1) if small.any() else found.xyxy_px[:, 1]
    return round(float(np.median(rows)), ROW_DECIMALS)


def mounted_row(fy_px: float, cy_px: float, height_m: float, pitch_deg: float) -> float:
    """Row of the middle of a cone that stands FAR_M ahead on level ground.

    fy_px, cy_px: of the camera: focal length, row of the optical axis. height_m: of the camera
    above the ground. pitch_deg: by how much it looks down.
    The cone's middle lies height_m - CONE_M / 2 below the camera and FAR_M ahead, so the ray to it
    points atan((height_m - CONE_M / 2) / FAR_M) below the horizontal. The optical axis points
    pitch_deg below it. A pinhole camera shows what lies an angle below its axis fy tan(angle) rows
    below cy. The horizon itself, where that ray is level, is the row cy - fy tan(pitch).
    """
    down = math.atan((height_m - CONE_M / 2) / FAR_M)
    return cy_px + fy_px * math.tan(down - math.radians(pitch_deg))


class Horizon:
    """Where the band of a camera lies: at the median far row of its last answers.

    Shares of the picture's height. fixed: where it lies by the camera's mounting; None: not known.
    start: where it lies as long as no cone was seen; None: where that picture itself shows them.
    every: each so many frames get a second look, the first one does.
    """

    def __init__(
        self, start: float | None = None, fixed: float | None = None, every: int = 1
    ) -> None:
        self.fixed = fixed
        self._start = start
        self._turns = cycle([True] + [False] * (every - 1))
        self._rows: deque[float] = deque(maxlen=REMEMBERED)

    @classmethod
    def of(cls, settings: DetectorSettings) -> Horizon:
        """Horizon of a camera before its first picture."""
        return cls(settings.horizon or None, every=settings.far_every)

    def takes_turn(self) -> bool:
        """Tell whether the next frame gets a second look; asked once for each frame."""
        return next(self._turns)

    @property
    def seen(self) -> float | None:
        """Where the last answers showed far cones; None before the first cone."""
        rows = tuple(self._rows)
        return float(np.median(rows)) if rows else None

    @property
    def band(self) -> tuple[float | None, BandOrigin]:
        """Where the next band lies, None where that picture itself has to show it, and why there.

        The mounting counts most, then the boxes of the last answers, then the start value.
        """
        shares: dict[BandOrigin, float | None] = {
            'mounting': self.fixed,
            'boxes': self.seen,
            'start': self._start,
        }
        known: Iterator[tuple[float | None, BandOrigin]] = (
            (share, origin) for origin, share in shares.items() if share is not None
        )
        return next(known, (None, 'first look'))

    def row_px(self, height_px: int) -> float | None:
        """Row around which the next band lies; None: not known yet."""
        share, _ = self.band
        return None if share is None else round(share * height_px, ROW_DECIMALS)

    def follow(self, row_px: float | None, height_px: int) -> None:
        """Take an answer's far row into account."""
        if row_px is not None:
            self._rows.append(row_px / height_px)
