"""The drive with the node's answers drawn in: a film, a contact sheet, pictures for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cone_perception.albums import Film, encode_picture
from cone_perception.demo.recording import MIN_HEIGHT_PX, Exchange
from cone_perception.draw import draw_caption, draw_cones, shrink
from cone_perception.model_card import ModelCard
from cone_perception.sources import open_source
from cone_perception.types import Detections, Frame, UInt8

PAGE_PICTURES = 150
PAGE_WIDTH_PX = 880
JPEG_QUALITY = 70
SHEET_PICTURES = 9
SHEET_COLUMNS = 3
SHEET_WIDTH_PX = 640
DEFAULT_RATE_HZ = 15.0


@dataclass(frozen=True, slots=True)
class PagePicture:
    """One picture of the page. index: of the exchange that it shows. jpeg: encoded."""

    index: int
    jpeg: bytes


def make_pictures(
    out: Path, bag: Path, topic: str, exchanges: Sequence[Exchange], card: ModelCard
) -> list[PagePicture]:
    """Write demo.mp4 and contact_sheet.png; returns the pictures for the page."""
    source = open_source(bag, topic)
    index_of = {exchange.stamp_ns: index for index, exchange in enumerate(exchanges)}
    on_page = set(_spread(len(exchanges), PAGE_PICTURES))
    on_sheet = set(_spread(len(exchanges), SHEET_PICTURES))
    page: list[PagePicture] = []
    sheet: list[UInt8] = []
    film = Film(out / 'demo.mp4', source.rate_hz or DEFAULT_RATE_HZ)
    try:
        for frame in tqdm(source.frames, 'drawing', total=source.count, unit='picture'):
            if not isinstance(frame, Frame) or frame.stamp_ns not in index_of:
                continue
            index = index_of[frame.stamp_ns]
            caption = _caption(index, exchanges)
            film.add('', _annotated(frame.bgr, exchanges[index], card, frame.width_px, caption))
            if index in on_page:
                small = _annotated(frame.bgr, exchanges[index], card, PAGE_WIDTH_PX, caption)
                page.append(PagePicture(index, encode_picture('.jpg', small, JPEG_QUALITY)))
            if index in on_sheet:
                sheet.append(_annotated(frame.bgr, exchanges[index], card, SHEET_WIDTH_PX, caption))
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


def _caption(index: int, exchanges: Sequence[Exchange]) -> str:
    exchange = exchanges[index]
    if exchange.latency_ms is None or exchange.found is None:
        return f'{index + 1}/{len(exchanges)}   no answer'
    return (
        f'{index + 1}/{len(exchanges)}   {exchange.latency_ms:.0f} ms   {len(exchange.found)} cones'
    )


def _annotated(
    bgr: UInt8, exchange: Exchange, card: ModelCard, width_px: int, caption: str
) -> UInt8:
    """Found cones as boxes; those of the truth that are judged as dashes around them."""
    truth = exchange.truth
    if truth is not None:
        truth = truth[truth.height_px >= MIN_HEIGHT_PX]
    small, found, truth = shrink(bgr, exchange.found or Detections.empty(), truth, width_px)
    picture = draw_cones(small, found, card.class_names, truth)
    draw_caption(picture, caption)
    return picture


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices, evenly from the first to the last."""
    if count <= wanted:
        return list(range(count))
    return [round(index) for index in np.linspace(0, count - 1, wanted)]
