"""Source picture -> letterboxed network picture, and boxes the way back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cone_perception.types import Float32, UInt8

PAD_VALUE = 114
"""Grey of the letterbox's border, the value that Ultralytics trains with."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Placement of one picture in a network's input: scaled evenly, centred, the rest grey.

    source_height_px, source_width_px: the picture.
    height_px, width_px: the network's input.
    """

    source_height_px: int
    source_width_px: int
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        for name in ('source_height_px', 'source_width_px', 'height_px', 'width_px'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')

    @property
    def inner_width_px(self) -> int:
        """Width of the scaled picture inside the network's input, at least 1."""
        return max(1, round(self.source_width_px * self._scale))

    @property
    def inner_height_px(self) -> int:
        """Height of the scaled picture inside the network's input, at least 1."""
        return max(1, round(self.source_height_px * self._scale))

    @property
    def left_px(self) -> int:
        return (self.width_px - self.inner_width_px) // 2

    @property
    def top_px(self) -> int:
        return (self.height_px - self.inner_height_px) // 2

    @property
    def _scale(self) -> float:
        return min(self.height_px / self.source_height_px, self.width_px / self.source_width_px)

    def apply(self, bgr: UInt8, out: UInt8) -> None:
        """Write the letterboxed picture into `out`, (height_px, width_px, 3) uint8."""
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
