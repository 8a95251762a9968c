"""Cones drawn into a picture, the ground truth beside them, and annotated pictures as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from cone_perception.errors import OutputError
from cone_perception.types import Detections, Float32, UInt8

Colour = tuple[int, int, int]

CLASS_COLOURS: dict[str, Colour] = {
    'blue_cone': (255, 144, 30),
    'large_orange_cone': (60, 60, 255),
    'orange_cone': (0, 140, 255),
    'unknown_cone': (255, 120, 255),
    'yellow_cone': (0, 230, 255),
}
"""Blue, green, red; told apart on asphalt, grass and sky."""

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
REFERENCE_HEIGHT_PX = 720
"""Height of the picture at which a line is 1 px wide; larger pictures get wider ones."""


def class_colour(class_name: str) -> Colour:
    """Blue, green, red of a class; light grey for one that is not a cone of the rules."""
    return CLASS_COLOURS.get(class_name, (220, 220, 220))


def short_name(class_name: str) -> str:
    """`large_orange_cone` -> `large orange`."""
    return class_name.removesuffix('_cone').replace('_', ' ')


def draw_cones(
    bgr: UInt8,
    found: Detections,
    class_names: Sequence[str],
    truth: Detections | None = None,
    bands_px: Iterable[tuple[int, int]] = (),
) -> UInt8:
    """A copy of the picture with a box, class and score for each detection.

    bgr: (H, W, 3) uint8. truth: drawn below them as dashed boxes without a label. bands_px: first
    and behind-last rows that were looked at again, marked at both sides of the picture.
    """
    picture: UInt8 = bgr.copy()
    width_px = line_px(bgr)
    for top, bottom in bands_px:
        for row in (top, bottom - 1):
            _draw_marks(picture, row, width_px)
    if truth is not None:
        for box, class_id in zip(truth.xyxy_px, truth.class_id, strict=True):
            _draw_dashed(picture, box, class_colour(class_names[class_id]), width_px)
    for box, class_id in zip(found.xyxy_px, found.class_id, strict=True):
        left, top, right, bottom = np.round(box).astype(int).tolist()
        cv2.rectangle(
            picture, (left, top), (right, bottom), class_colour(class_names[class_id]), width_px
        )
    # Labels, the best score first, each where it hides the fewest other boxes and labels.
    scale, thickness = _font(picture)
    taken = found.xyxy_px
    for box, score, class_id in zip(found.xyxy_px, found.score, found.class_id, strict=True):
        name = class_names[class_id]
        text = f'{short_name(name)} {score:.2f}'
        (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        label = _place(box, width + 4, height + base + 2, taken, picture)
        taken = np.concatenate([taken, label[None]])
        left, top, right, bottom = label.astype(int).tolist()
        colour = class_colour(name)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
        ink = WHITE if name == 'large_orange_cone' else BLACK
        _write(picture, text, (left + 2, bottom - base), scale, ink, thickness)
    return picture


def line_px(bgr: UInt8) -> int:
    """Width of a line that can be seen in a picture of this size."""
    side_px: int = min(bgr.shape[:2])
    return max(1, round(side_px / REFERENCE_HEIGHT_PX))


def draw_region(picture: UInt8, region: Sequence[float]) -> None:
    """Outline a region in white, and darken what it leaves out, in the picture given.

    region: corners x, y, x, y, ... in fractions of the picture.
    """
    height, width = picture.shape[:2]
    corners = np.array(region).reshape(-1, 2) * (width - 1, height - 1)
    outline = [np.round(corners).astype(np.int32)]
    inside = cv2.fillPoly(np.zeros((height, width), np.uint8), outline, 1)
    picture[inside == 0] //= 2
    cv2.polylines(picture, outline, True, WHITE, 2 * line_px(picture))


def shrink(
    bgr: UInt8, found: Detections, truth: Detections | None, width_px: int
) -> tuple[UInt8, Detections, Detections | None]:
    """Picture and boxes scaled to at most `width_px`, before drawing: lines and text stay sharp."""
    scale = min(1.0, width_px / bgr.shape[1])
    size = (max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale)))
    small = np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)

    def scaled(cones: Detections) -> Detections:
        return Detections(cones.xyxy_px * np.float32(scale), cones.score, cones.class_id)

    return small, scaled(found), None if truth is None else scaled(truth)


def draw_caption(picture: UInt8, text: str) -> None:
    """Write a line of white text on a dark strip into the picture's upper left corner."""
    scale, thickness = _font(picture)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale * 1.2, thickness)
    strip = picture[: height + 2 * base + 4, : width + 2 * base + 4]
    strip[:] = strip // 4
    _write(picture, text, (base + 2, height + base + 2), scale * 1.2, WHITE, thickness)


def _write(
    picture: UInt8, text: str, at: tuple[int, int], scale: float, ink: Colour, thickness: int
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)


def _font(picture: UInt8) -> tuple[float, int]:
    """Scale and thickness of text that is legible in a picture of this size."""
    size = min(picture.shape[:2]) / REFERENCE_HEIGHT_PX
    return max(0.32, 0.42 * size), line_px(picture)


def _place(box: Float32, width: int, height: int, taken: Float32, picture: UInt8) -> Float32:
    """(4,) float32: the place above, below, right or left of a box that hides least."""
    left, top, right, bottom = np.round(box)
    above, below = (left, top - height), (left, bottom + 1)
    farther = [(left, top - 2 * height), (left, bottom + 1 + height)]
    beside = [(right + 1, top), (left - width, top)]
    corners = np.array([above, below, *beside, *farther], np.float32)
    room = np.array([picture.shape[1] - width, picture.shape[0] - height], np.float32)
    corners = np.clip(corners, 0, np.maximum(room, 0))
    places = np.concatenate([corners, corners + np.array([width, height], np.float32)], axis=1)
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    hidden = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    best: Float32 = places[int(hidden.argmin())]
    return best


def _draw_marks(picture: UInt8, row: int, width_px: int) -> None:
    """White dashes with a dark rim at both ends of a row."""
    length = 16 * width_px
    for left in (0, picture.shape[1] - length):
        for ink, thickness in ((BLACK, 3 * width_px), (WHITE, width_px)):
            cv2.line(picture, (left, row), (left + length, row), ink, thickness)


def _draw_dashed(picture: UInt8, box: Float32, colour: Colour, width_px: int) -> None:
    """A box of dashes, one pixel outside of where a detection's box would be."""
    left, top, right, bottom = (np.round(box) + np.array([-2, -2, 2, 2])).astype(int).tolist()
    dash = 4 * width_px
    for y in (top, bottom):
        for x in range(left, right, 2 * dash):
            cv2.line(picture, (x, y), (min(x + dash, right), y), colour, width_px)
    for x in (left, right):
        for y in range(top, bottom, 2 * dash):
            cv2.line(picture, (x, y), (x, min(y + dash, bottom)), colour, width_px)


def encode_picture(suffix: str, bgr: UInt8, jpeg_quality: int = 95) -> bytes:
    """A file of the format that `suffix` stands for, e.g. `.png`. Raises OutputError."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix in ('.jpg', '.jpeg') else []
    done, encoded = cv2.imencode(suffix, bgr, options)
    if not done:
        raise OutputError(f'a picture of {bgr.shape} cannot be written as {suffix}')
    return bytes(encoded.tobytes())


class Film:
    """Annotated pictures as an MP4 (MPEG-4 part 2: the codec that every OpenCV can write).

    All have the first one's size; a picture of another size is scaled to it, and a side that is
    odd or below 16 px is padded in black.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        self._path = path
        self._rate_hz = min(max(rate_hz, 1.0), 240.0)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, bgr: UInt8) -> None:
        if self._writer is None:
            self._size = (bgr.shape[1], bgr.shape[0])
            padded = (_video_side(bgr.shape[1]), _video_side(bgr.shape[0]))
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate_hz, padded)
            if not self._writer.isOpened():
                raise OutputError(
                    f'{self._path} cannot be written as MP4: the disk, or the OpenCV installed, '
                    'does not allow it'
                )
        right, below = (_video_side(side) - side for side in self._size)
        scaled = cv2.resize(bgr, self._size)  # a copy where it has that size
        self._writer.write(cv2.copyMakeBorder(scaled, 0, below, 0, right, cv2.BORDER_CONSTANT))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def _video_side(side_px: int) -> int:
    return max(16, side_px + side_px % 2)
