"""Source picture -> network pictures, and what is found there the way back.

A view fills one network picture with the whole source, or with patches of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from cone_perception.types import Detections, Float32, UInt8, ViewName

PAD_VALUE = 114
"""Grey of the border around the patches, the value that Ultralytics trains with."""
SHARED = 1 / 40
"""Share of the source's width that two neighbours show both: 32 px of 1280."""
CUT_PX = 2
"""A box that ends so near to a patch's border in the network picture may be cut by it."""
MOST_TILES = 4
MOST_MAGNIFIED = 4
"""Network pixels per source pixel; more shows nothing new."""


class Rectangle(NamedTuple):
    """Left and top side, and those behind the last pixel."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of the source, and the one of the network picture that it is scaled into."""

    source: Rectangle
    place: Rectangle

    @property
    def scale(self) -> float:
        """Network pixels per source pixel."""
        return self.place.width / self.source.width

    def to_source(self, found: Detections, width_px: int, height_px: int) -> Detections:
        """Move boxes from network pixels to pixels of a source of this size, clipped to the patch.

        Those that may be cut by a border which is not the source's own are left out: another view
        sees them whole.
        """
        source, place = self.source, self.place
        inside = np.array([source.left > 0, source.top > 0], bool)
        inside = np.append(inside, [source.right < width_px, source.bottom < height_px])
        cut_px = np.array([CUT_PX, CUT_PX, -CUT_PX, -CUT_PX], np.float32)
        margin = np.array(place, np.float32) + cut_px
        beyond = (found.xyxy_px - margin) * (-1, -1, 1, 1) > 0
        whole = found[~(beyond & inside).any(axis=1)]
        size = np.array([source.width, source.height] * 2, np.float32)
        sides = np.array([place.width, place.height] * 2)
        scale = (sides / size).astype(np.float32)  # as really resized, rounding included
        moved = (whole.xyxy_px - np.array(place[:2] * 2, np.float32)) / scale
        clipped: Float32 = np.clip(moved, 0, size) + np.array(source[:2] * 2, np.float32)
        return replace(whole, xyxy_px=clipped.astype(np.float32))


@dataclass(frozen=True, slots=True)
class View:
    """What one network picture shows of a source of width_px, height_px.

    patches: their places lie above each other; the rest of the picture is grey.
    """

    name: ViewName
    width_px: int
    height_px: int
    patches: tuple[Patch, ...]

    def apply(self, bgr: UInt8, out: UInt8) -> None:
        """Draw the view of `bgr` into `out`, (H, W, 3) uint8 of the network's size."""
        below = 0
        for patch in self.patches:
            source, place = patch.source, patch.place
            out[below : place.top] = PAD_VALUE
            below = place.bottom
            rows = out[place.top : below]
            rows[:, : place.left] = PAD_VALUE
            rows[:, place.right :] = PAD_VALUE
            inner = rows[:, place.left : place.right]
            part = bgr[source.top : source.bottom, source.left : source.right]
            if part.shape == inner.shape:
                inner[:] = part
            else:  # straight into its place: a picture between them takes as long again
                cv2.resize(part, inner.shape[1::-1], dst=inner, interpolation=cv2.INTER_LINEAR)
        out[below:] = PAD_VALUE

    def to_source(self, found: Detections) -> list[tuple[Patch, Detections]]:
        """Each patch with what lies in it, boxes in source pixels."""
        middle = (found.xyxy_px[:, 1] + found.xyxy_px[:, 3]) / 2
        seams = [(a.place.bottom + b.place.top) / 2 for a, b in pairwise(self.patches)]
        patch = np.searchsorted(np.array(seams, np.float32), middle)
        return [
            (each, each.to_source(found[patch == index], self.width_px, self.height_px))
            for index, each in enumerate(self.patches)
        ]


def whole_view(height_px: int, width_px: int, network: tuple[int, int]) -> View:
    """The whole source, scaled evenly and centred. network: height, width."""
    if min(height_px, width_px, *network) < 1:
        raise ValueError(
            f'the sides of a picture must be at least 1, got {height_px}x{width_px} for {network}'
        )
    patch = _fit(Rectangle(0, 0, width_px, height_px), Rectangle(0, 0, network[1], network[0]))
    return View('whole', width_px, height_px, (patch,))


def letterbox(bgr: UInt8, height_px: int, width_px: int) -> UInt8:
    """(height_px, width_px, 3) uint8: the whole picture, as every engine is given it."""
    placed = np.empty((height_px, width_px, 3), np.uint8)
    whole_view(bgr.shape[0], bgr.shape[1], (height_px, width_px)).apply(bgr, placed)
    return placed


def _fit(source: Rectangle, room: Rectangle) -> Patch:
    """Scale a rectangle evenly into the middle of another one."""
    scale = min(room.width / source.width, room.height / source.height)
    width, height = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    left = room.left + (room.width - width) // 2
    top = room.top + (room.height - height) // 2
    return Patch(source, Rectangle(left, top, left + width, top + height))


def _parts(length_px: int, count: int, shared_px: float) -> list[tuple[int, int]]:
    """First and behind-last pixel of `count` equal parts that overlap by `shared_px`."""
    part = min(length_px, -int(-(length_px + (count - 1) * shared_px) // count))
    starts = [round(index * (length_px - part) / max(count - 1, 1)) for index in range(count)]
    return [(start, start + part) for start in starts]


def band_views(
    name: ViewName, height_px: int, width_px: int, network: tuple[int, int], row_px: float
) -> list[View]:
    """The rows around `row_px` in network pictures of two patches, one above the other.

    horizon: halves of the width, native resolution for a source of twice the network's width; one
    network picture. strip: quarters, at twice that scale; two network pictures. None where the
    source is so small that they would show nothing new.
    """
    half_px = network[0] // 2
    columns = _parts(width_px, 2 if name == 'horizon' else 4, width_px * SHARED)
    column_px = columns[0][1] - columns[0][0]
    if column_px * MOST_MAGNIFIED < network[1]:
        return []
    rows = min(height_px, max(1, int(half_px * column_px / network[1])))
    top = min(max(round(row_px - rows / 2), 0), height_px - rows)
    rooms = [Rectangle(0, start, network[1], start + half_px) for start in (0, half_px)]
    patches = [
        _fit(Rectangle(left, top, right, top + rows), rooms[index % 2])
        for index, (left, right) in enumerate(columns)
    ]
    pairs = [tuple(patches[first : first + 2]) for first in range(0, len(patches), 2)]
    return [View(name, width_px, height_px, pair) for pair in pairs]


def tile_views(height_px: int, width_px: int, network: tuple[int, int]) -> list[View]:
    """Tiles of a source that is far narrower or far wider than the network, each in a picture.

    They follow each other along the longer side and share some with each neighbour. None where the
    whole view fills most of the network picture, and none that would be magnified.
    """
    ratio = (width_px / height_px) / (network[1] / network[0])
    if 0.62 < ratio < 2.0:
        return []
    native = height_px // network[0] if ratio < 1 else width_px // network[1]
    count = min(MOST_TILES, round(1.1 * max(ratio, 1 / ratio)), native)
    if count < 2:
        return []
    shared_px = 0.1 * min(height_px * network[1] / network[0], width_px * network[0] / network[1])
    if ratio < 1:
        parts = [(0, a, width_px, b) for a, b in _parts(height_px, count, shared_px)]
    else:
        parts = [(a, 0, b, height_px) for a, b in _parts(width_px, count, shared_px)]
    room = Rectangle(0, 0, network[1], network[0])
    patches = [_fit(Rectangle(*part), room) for part in parts]
    return [View('tile', width_px, height_px, (patch,)) for patch in patches]


def to_planes(letterboxed: UInt8) -> Float32:
    """(1, 3, H, W) float32 RGB in 0..1 of an (H, W, 3) BGR picture: a network's own input."""
    planes = letterboxed[None, :, :, ::-1].transpose(0, 3, 1, 2)
    scaled: Float32 = np.ascontiguousarray(planes, np.float32) / np.float32(255)
    return scaled
