"""Source picture -> letterboxed network picture, and boxes the way back."""

from __future__ import annotations

import cv2
import numpy as np

from cone_perception.types import Float32, UInt8

PAD_VALUE = 114
"""Grey of the letterbox's border, the value that Ultralytics trains with."""


class Letterbox:
    """Placement of one picture in a network's input: scaled evenly, centred, the rest grey.

    inner_width_px, inner_height_px: the scaled picture; left_px, top_px: the border before it.
    """

    def __init__(
        self, source_height_px: int, source_width_px: int, height_px: int, width_px: int
    ) -> None:
        sides_px = (source_height_px, source_width_px, height_px, width_px)
        if min(sides_px) < 1:
            raise ValueError(f'the sides of a picture must be at least 1, got {sides_px}')
        scale = min(height_px / source_height_px, width_px / source_width_px)
        self.source_height_px, self.source_width_px = source_height_px, source_width_px
        self.inner_width_px = max(1, round(source_width_px * scale))
        self.inner_height_px = max(1, round(source_height_px * scale))
        self.left_px = (width_px - self.inner_width_px) // 2
        self.top_px = (height_px - self.inner_height_px) // 2

    def apply(self, bgr: UInt8, out: UInt8) -> None:
        """Write the letterboxed picture into `out`, (H, W, 3) uint8 of the network's size."""
        size = (self.inner_width_px, self.inner_height_px)
        right_px, bottom_px = self.left_px + size[0], self.top_px + size[1]
        out[: self.top_px] = PAD_VALUE
        out[bottom_px:] = PAD_VALUE
        out[:, : self.left_px] = PAD_VALUE
        out[:, right_px:] = PAD_VALUE
        inner = out[self.top_px : bottom_px, self.left_px : right_px]
        if (bgr.shape[1], bgr.shape[0]) == size:
            inner[:] = bgr
        else:  # straight into its place: a picture between them takes as long again
            cv2.resize(bgr, size, dst=inner, interpolation=cv2.INTER_LINEAR)

    def to_source(self, xyxy_px: Float32) -> Float32:
        """(N, 4) boxes from network pixels to source pixels, clipped to the picture."""
        offset = np.array([self.left_px, self.top_px] * 2, np.float32)
        source = np.array([self.source_width_px, self.source_height_px] * 2, np.float32)
        inner = np.array([self.inner_width_px, self.inner_height_px] * 2)
        scale = (inner / source).astype(np.float32)  # as really resized, rounding included
        clipped: Float32 = np.clip((xyxy_px - offset) / scale, 0, source).astype(np.float32)
        return clipped


def letterbox(bgr: UInt8, height_px: int, width_px: int) -> UInt8:
    """(height_px, width_px, 3) uint8, as every engine is given it."""
    placed = np.empty((height_px, width_px, 3), np.uint8)
    Letterbox(bgr.shape[0], bgr.shape[1], height_px, width_px).apply(bgr, placed)
    return placed


def to_planes(letterboxed: UInt8) -> Float32:
    """(1, 3, H, W) float32 RGB in 0..1 of an (H, W, 3) BGR picture: a network's own input."""
    planes = letterboxed[None, :, :, ::-1].transpose(0, 3, 1, 2)
    scaled: Float32 = np.ascontiguousarray(planes, np.float32) / np.float32(255)
    return scaled
