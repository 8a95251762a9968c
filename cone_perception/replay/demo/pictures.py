"""The drive with the node's answers drawn in: a film, a contact sheet, pictures for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.model_card import ModelCard
from cone_perception.pictures.video import Film, encode_picture
from cone_perception.replay.demo.figures import truth_of
from cone_perception.replay.pages.pictures import annotate, read_pictures
from cone_perception.replay.traces import Drive, FrameTrace
from cone_perception.types import UInt8

PAGE_PICTURES = 150
PAGE_WIDTH_PX = 880
JPEG_QUALITY = 70
SHEET_PICTURES = 9
SHEET_COLUMNS = 3
SHEET_WIDTH_PX = 640
DEFAULT_RATE_HZ = 15.0


@dataclass(frozen=True, slots=True)
class PagePicture:
    """One picture of the page. index: of the frame that it shows. jpeg: encoded."""

    index: int
    jpeg: bytes


def make_pictures(
    out: Path, drive: Drive, frames: Sequence[FrameTrace], card: ModelCard
) -> list[PagePicture]:
    """Write demo.mp4 and contact_sheet.png; returns the pictures for the page."""
    index_of = {(frame.camera, frame.index): index for index, frame in enumerate(frames)}
    topics = {camera.name: camera.topic for camera in drive.cameras}
    on_page = set(_spread(len(frames), PAGE_PICTURES))
    on_sheet = set(_spread(len(frames), SHEET_PICTURES))
    page: list[PagePicture] = []
    sheet: list[UInt8] = []
    rate_hz = drive.frames / drive.duration_s if drive.duration_s else DEFAULT_RATE_HZ
    film = Film(out / 'demo.mp4', rate_hz)
    problems: list[str] = []  # those of the play, told there
    pictures = read_pictures(drive.bag, topics, index_of, problems)
    try:
        for place, bgr in tqdm(pictures, 'drawing', total=len(frames), unit='picture'):
            if isinstance(bgr, str):
                continue
            index = index_of[place]
            frame = frames[index]
            truth = None if drive.truth is None else truth_of(frame, drive.truth)
            film.add('', annotate(bgr, frame, card.class_names, truth, bgr.shape[1]))
            if index in on_page:
                small = annotate(bgr, frame, card.class_names, truth, PAGE_WIDTH_PX)
                page.append(PagePicture(index, encode_picture('.jpg', small, JPEG_QUALITY)))
            if index in on_sheet:
                sheet.append(annotate(bgr, frame, card.class_names, truth, SHEET_WIDTH_PX))
    finally:
        film.close()
    if sheet:
        (out / 'contact_sheet.png').write_bytes(encode_picture('.png', contact_sheet(sheet)))
    return page


def contact_sheet(pictures: Sequence[UInt8], columns: int = SHEET_COLUMNS) -> UInt8:
    """Pictures side by side, row by row, with a gap; all get the first one's size."""
    height, width = pictures[0].shape[:2]
    gap = 8
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        if picture.shape[:2] != (height, width):
            picture = np.asarray(cv2.resize(picture, (width, height)), np.uint8)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices, evenly from the first to the last."""
    if count <= wanted:
        return list(range(count))
    return [round(index) for index in np.linspace(0, count - 1, wanted)]
