"""Cones followed from frame to frame, and those that vanish for one frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cone_perception.accuracy.intervals import Float64
from cone_perception.accuracy.matching import Bool
from cone_perception.replay.traces import FrameTrace
from cone_perception.types import Detections, Int64

SAME_CONE_HEIGHTS = 1.0
"""A cone is found again no farther than this many of its heights from where it should be."""

TAKEN_HEIGHTS = 0.5
"""Where a cone is so near to where another should be, none is said to be missing."""

SIMILAR_HEIGHT = 1.5
"""Boxes whose heights differ by more than this factor are not the same cone."""

SAME_PLACE_HEIGHTS = 0.15
SAME_VIEW_SHARE = 0.8
"""Of the cones of two pictures: as many must be no farther apart than that, see `same_view`."""

VOTERS = 30
"""Tallest boxes of a frame that vote on how the picture moved."""

LEAST_FOLLOWED = 4
"""Cones from which more than a shift of the picture is estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class Flicker:
    """The cones that a frame did not show, though the ones before and after it did.

    gone: the cones that vanished, where they should have been. steady_class_id: (N,) int64, classes
    of those that could be followed through all three.
    """

    frame: FrameTrace
    gone: Detections
    steady_class_id: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """The way that cones move from one frame to the next.

    A cone whose box is h tall moves by shift + h * (growth * centre - pull), and becomes
    h * (1 + growth * h) tall: the shift is the camera's turning and pitching. A camera that drives
    on sees cones move away from one point of the picture, the nearer the faster, and h is as one
    over the distance; that point is pull / growth. All in pixels; growth in 1/pixel.
    """

    shift_px: Float64
    growth: float = 0.0
    pull: Float64 | None = None

    def apply(self, cones: Detections) -> Detections:
        """The cones where they should be in the next frame."""
        height = cones.height_px[:, None].astype(np.float64)
        centre = _centre(cones)
        away = self.growth * centre - (0.0 if self.pull is None else self.pull)
        half = (cones.xyxy_px[:, 2:] - cones.xyxy_px[:, :2]) / 2
        half = half * np.clip(1 + self.growth * height, 1 / SIMILAR_HEIGHT, SIMILAR_HEIGHT)
        centre = centre + self.shift_px + height * away
        boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        return Detections(boxes, cones.score, cones.class_id)


def find_flicker(frames: Sequence[FrameTrace]) -> Iterator[Flicker]:
    """Each answered frame between two answered ones of the same camera, in the bag's order.

    A cone has vanished in it when it cannot be followed (`follow`) from the frame before into this
    one, the frame after has a cone of its class where it should be by then (within
    SAME_CONE_HEIGHTS) that cannot be followed back into this one either, and this one has no cone
    of the class within TAKEN_HEIGHTS of the place. So a cone that changes its class for one
    frame has vanished.
    """
    cameras: dict[str, list[FrameTrace]] = defaultdict(list)
    for frame in frames:
        cameras[frame.camera].append(frame)
    for of_camera in cameras.values():
        yield from _flicker_of_camera(sorted(of_camera, key=lambda frame: frame.index))


def _flicker_of_camera(frames: Sequence[FrameTrace]) -> Iterator[Flicker]:
    steps = [
        follow(a.found, b.found)
        if a.found is not None and b.found is not None and b.index == a.index + 1
        else None
        for a, b in pairwise(frames)
    ]
    for place, (one, two) in enumerate(pairwise(steps)):
        before, here, after = (frame.found for frame in frames[place : place + 3])
        if one is None or two is None or before is None or here is None or after is None:
            continue
        (onto, motion), (later_onto, later_motion) = one, two
        through = onto >= 0
        through[through] = later_onto[onto[through]] >= 0
        expected = motion.apply(before[onto < 0])
        came = after[~np.isin(np.arange(len(after)), later_onto)]
        again = _pair(later_motion.apply(expected), came) >= 0
        hidden = (_heights_apart(expected, here) > TAKEN_HEIGHTS).all(axis=1)
        yield Flicker(frames[place + 1], expected[again & hidden], before.class_id[through])


def follow(a: Detections, b: Detections) -> tuple[Int64, Motion]:
    """Find the cones of a frame again in the next one of the same camera: (N,) int64; -1: none.

    First the shift of the picture under which most cones meet one of their class within half a
    height; of equal ones the smallest. Then in turns: a cone and one of its class are the same if
    each is the nearest to the other, within SAME_CONE_HEIGHTS of their mean height of where it
    should be, and similar in height; and from those the motion (least squares).
    """
    motion = Motion(_vote(a, b))
    onto = _pair(motion.apply(a), b)
    for _ in range(3):
        followed = onto >= 0
        if followed.sum() < LEAST_FOLLOWED:
            break
        motion = _fit(a[followed], b[onto[followed]])
        onto = _pair(motion.apply(a), b)
    return onto, motion


def same_view(a: Detections, b: Detections) -> bool:
    """Tell whether two pictures show at least SAME_VIEW_SHARE of their cones in the same places.

    Pictures without a cone tell nothing of it.
    """
    most = max(len(a), len(b))
    return most > 0 and int((_pair(a, b, SAME_PLACE_HEIGHTS) >= 0).sum()) >= SAME_VIEW_SHARE * most


def _vote(a: Detections, b: Detections) -> Float64:
    """(2,) right and down, pixels."""
    a = a[np.argsort(-a.height_px, kind='stable')[:VOTERS]]
    b = b[np.argsort(-b.height_px, kind='stable')[:VOTERS]]
    alike = _alike(a, b)
    if not alike.any():
        return np.zeros(2)
    moved = _centre(b)[None] - _centre(a)[:, None]  # (A, B, 2)
    candidates = np.concatenate([np.zeros((1, 2)), moved[alike]])
    size = (a.height_px[:, None] + b.height_px[None]) / 2
    apart_px = np.linalg.norm(moved[None] - candidates[:, None, None], axis=-1)
    near = apart_px / size <= 0.5  # (candidates, A, B)
    votes = (alike & near).any(axis=2).sum(axis=1)
    tied = candidates[votes == votes.max()]
    return np.asarray(tied[np.linalg.norm(tied, axis=-1).argmin()])


def _fit(a: Detections, b: Detections) -> Motion:
    """The motion that brings the cones of `a` to those of `b`; near ones count as far ones do."""
    height = a.height_px.astype(np.float64)
    centre = _centre(a)
    one, none = np.ones(len(a)), np.zeros(len(a))
    columns = np.concatenate(
        [
            np.stack([one, none, height * centre[:, 0], -height, none], axis=1),
            np.stack([none, one, height * centre[:, 1], none, -height], axis=1),
            np.stack([none, none, height**2, none, none], axis=1),
        ]
    )
    moved = _centre(b) - centre
    wanted = np.concatenate([moved[:, 0], moved[:, 1], b.height_px - height])
    weight = np.tile(1 / height, 3)
    # lstsq takes the smallest solution where there are several: in columns of equal size.
    size = np.maximum(np.linalg.norm(columns * weight[:, None], axis=0), 1e-9)
    solution = np.linalg.lstsq(columns * weight[:, None] / size, wanted * weight, rcond=1e-6)[0]
    shift_x, shift_y, growth, pull_x, pull_y = solution / size
    return Motion(np.array([shift_x, shift_y]), float(growth), np.array([pull_x, pull_y]))


def _pair(a: Detections, b: Detections, reach: float = SAME_CONE_HEIGHTS) -> Int64:
    """(A,) int64: the cone of b that is each other's nearest, within `reach` heights; -1: none."""
    pairs = np.full(len(a), -1, np.int64)
    if not len(a) or not len(b):
        return pairs
    apart = _heights_apart(a, b)
    nearest = apart.argmin(axis=1)
    mutual = apart.argmin(axis=0)[nearest] == np.arange(len(a))
    close = mutual & (apart[np.arange(len(a)), nearest] <= reach)
    pairs[close] = nearest[close]
    return pairs


def _heights_apart(a: Detections, b: Detections) -> Float64:
    """(A, B) between centres in mean heights; infinite where class or size differ."""
    size = np.maximum((a.height_px[:, None] + b.height_px[None]) / 2, 1e-6)
    distance = np.linalg.norm(_centre(b)[None] - _centre(a)[:, None], axis=-1) / size
    return np.where(_alike(a, b), distance, np.inf)


def _alike(a: Detections, b: Detections) -> Bool:
    """(A, B): of one class, and of similar height."""
    low = np.minimum(a.height_px[:, None], b.height_px[None])
    high = np.maximum(a.height_px[:, None], b.height_px[None])
    same_class = a.class_id[:, None] == b.class_id[None]
    return np.asarray(same_class & (high <= SIMILAR_HEIGHT * low) & (low > 0))


def _centre(cones: Detections) -> Float64:
    """(N, 2) float64."""
    return (cones.xyxy_px[:, :2] + cones.xyxy_px[:, 2:]).astype(np.float64) / 2
