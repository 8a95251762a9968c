"""Annotated pictures -> files: one by one, or as a film."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from cone_perception.errors import OutputError
from cone_perception.types import UInt8


class Album(Protocol):
    """Takes annotated pictures."""

    def add(self, name: str, bgr: UInt8) -> None: ...

    def close(self) -> None: ...


def encode_picture(suffix: str, bgr: UInt8, jpeg_quality: int = 95) -> bytes:
    """A file of the format that `suffix` stands for, e.g. `.png`. Raises OutputError."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix in ('.jpg', '.jpeg') else []
    done, encoded = cv2.imencode(suffix, bgr, options)
    if not done:
        raise OutputError(f'a picture of {bgr.shape} cannot be written as {suffix}')
    return bytes(encoded.tobytes())


class PictureFolder:
    """Annotated pictures under their own names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, bgr: UInt8) -> None:
        (self._folder / name).write_bytes(encode_picture(Path(name).suffix, bgr))

    def close(self) -> None:
        pass


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

    def add(self, name: str, bgr: UInt8) -> None:
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
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            bgr = np.asarray(cv2.resize(bgr, self._size), np.uint8)
        right, below = (_video_side(side) - side for side in self._size)
        if right or below:
            border = cv2.copyMakeBorder(bgr, 0, below, 0, right, cv2.BORDER_CONSTANT)
            bgr = np.asarray(border, np.uint8)
        self._writer.write(bgr)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def _video_side(side_px: int) -> int:
    return max(16, side_px + side_px % 2)
