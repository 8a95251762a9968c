"""A few pictures of a drive in one, with what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cone_perception.files import write_whole
from cone_perception.pictures.video import encode_picture
from cone_perception.replay.figures.result import ReplayResult
from cone_perception.replay.pages.pictures import draw_frames
from cone_perception.types import UInt8

PICTURES, COLUMNS, WIDTH_PX, GAP_PX = 9, 3, 640, 8


def write_contact_sheet(path: Path, result: ReplayResult, bag: Path) -> None:
    """Write PICTURES of the first pass, evenly from the first to the last; nothing without any."""
    frames = result.passes[0]
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(PICTURES, len(frames))).round())
    drawn = draw_frames(result, bag, [frames[int(at)] for at in chosen], WIDTH_PX, [])
    pictures = [picture for _, picture in drawn if not isinstance(picture, str)]
    if pictures:
        write_whole(path, encode_picture('.png', contact_sheet(pictures)))


def contact_sheet(pictures: Sequence[UInt8], columns: int = COLUMNS) -> UInt8:
    """Pictures side by side, row by row, with a gap; all get the first one's size."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    shape = (rows * (height + GAP_PX) + GAP_PX, columns * (width + GAP_PX) + GAP_PX, 3)
    sheet = np.full(shape, 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = GAP_PX + row * (height + GAP_PX), GAP_PX + column * (width + GAP_PX)
        if picture.shape[:2] != (height, width):
            picture = np.asarray(cv2.resize(picture, (width, height)), np.uint8)
        sheet[top : top + height, left : left + width] = picture
    return sheet
