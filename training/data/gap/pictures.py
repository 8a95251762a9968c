"""A data set -> figures per picture and per box."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import map_in_threads, read_labels
from cone_perception.dataset.layout import label_path, read_layout
from cone_perception.errors import DataError
from cone_perception.pictures.draw import short_name
from cone_perception.types import UInt8
from training.data.fingerprint import find_inside
from training.data.gap.report import Float64, Int64, Sample, SetFigure

REFERENCE_PX = 640
"""Longer side of the picture at which heights are given and sharpness is measured."""
BLOCK = 25
"""Consecutive pictures of one drive that stay together when a set is halved."""
LEAST_COLOUR_PX = 8
LEAST_BOXES = 30
"""Colours are compared for classes with so many boxes in both sets."""


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """What one picture contributes: figures of its own, boxes (N, 5), colours (N, 2) or NaN."""

    figures: tuple[float, ...]
    boxes: Float64
    colours: Float64


PICTURE_FIGURES = (
    ('brightness', 'grey level'),
    ('contrast', 'grey levels'),
    ('saturation', '0 to 255'),
    ('sharpness', 'log10 of the Laplacian variance'),
    ('frame', 'share of the picture'),
    ('picture shape', 'width / height'),
    ('boxes per picture', ''),
    ('classes per picture', ''),
)
BOX_FIGURES = (
    ('box height', f'px, picture {REFERENCE_PX} px long'),
    ('box shape', 'height / width'),
    ('position across', '0 left to 1 right'),
    ('position down', '0 top to 1 bottom'),
)


def measure_set(path: Path, splits: Sequence[str], workers: int | None) -> Sample:
    """Measure each picture and box of a data set; splits: those that count, none: all."""
    layout = read_layout(path)
    chosen = [files for name, files in layout.splits.items() if not splits or name in splits]
    listed = list(chain.from_iterable(chosen))
    if not listed:
        raise DataError(f'{layout.data_yaml} lists no picture in {", ".join(splits) or "it"}.')
    mapping = map_classes(layout.names)

    def measure(file: Path) -> _Picture:
        return _measure_picture(file, len(layout.names), mapping)

    measured = map_in_threads(measure, listed, layout.root.name, workers=workers)
    return Sample(layout.root.name, tuple(listed), _blocks(listed), dict(_gather_figures(measured)))


def _measure_picture(path: Path, classes: int, mapping: Mapping[int, int]) -> _Picture:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f'{path} cannot be decoded: run `cone-training data verify` first.')
    height, width = bgr.shape[:2]
    inside = np.ascontiguousarray(bgr[find_inside(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))])
    scale = REFERENCE_PX / max(inside.shape[:2])
    small = cv2.resize(inside, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    saturation = cv2.cvtColor(small, cv2.COLOR_BGR2HSV)[..., 1]
    rows = read_labels(label_path(path), classes).rows
    rows = rows[[int(entry) in mapping for entry in rows[:, 0]]]
    class_id = np.array([mapping[int(entry)] for entry in rows[:, 0]], np.float64)
    size = np.array([width, height], np.float64)
    extent = rows[:, 3:5] * size
    boxes = np.column_stack(
        [
            extent[:, 1] * REFERENCE_PX / max(width, height),
            extent[:, 1] / np.maximum(extent[:, 0], 1e-6),
            rows[:, 1],
            rows[:, 2],
            class_id,
        ]
    )
    figures = (
        float(grey.mean()),
        float(grey.std()),
        float(saturation.mean()),
        float(np.log10(cv2.Laplacian(grey, cv2.CV_32F).var() + 1)),
        1 - inside.shape[0] * inside.shape[1] / (height * width),
        inside.shape[1] / inside.shape[0],
        float(len(rows)),
        float(len(set(class_id.tolist()))),
    )
    return _Picture(figures, boxes, _colours(bgr, rows[:, 1:3] * size, extent))


def _colours(bgr: UInt8, centre: Float64, extent: Float64) -> Float64:
    """(N, 2) mean a and b (CIE Lab, as OpenCV writes them) of each box's middle."""
    colours = np.full((len(centre), 2), np.nan)
    for index, ((x, y), (width, height)) in enumerate(zip(centre, extent, strict=True)):
        if height < LEAST_COLOUR_PX:
            continue
        left, right = int(max(x - width / 4, 0)), int(x + width / 4) + 1
        top, bottom = int(max(y - height / 4, 0)), int(y + height / 4) + 1
        middle = bgr[top:bottom, left:right]
        if middle.size:
            colours[index] = cv2.mean(cv2.cvtColor(middle, cv2.COLOR_BGR2LAB))[1:3]
    return colours


def _gather_figures(measured: Sequence[_Picture]) -> Iterator[tuple[str, SetFigure]]:
    table = np.array([entry.figures for entry in measured], np.float64)
    every = np.arange(len(measured))
    for column, (name, unit) in enumerate(PICTURE_FIGURES):
        yield name, SetFigure(name, unit, table[:, column : column + 1], every)
    picture = np.repeat(every, [len(entry.boxes) for entry in measured])
    if not len(picture):
        return
    boxes = np.concatenate([entry.boxes for entry in measured])
    colours = np.concatenate([entry.colours for entry in measured])
    for column, (name, unit) in enumerate(BOX_FIGURES):
        yield name, SetFigure(name, unit, boxes[:, column : column + 1], picture)
    yield 'classes', SetFigure('classes', '', boxes[:, 4:], picture, 'class')
    for class_id, class_name in enumerate(CLASS_NAMES):
        chosen = (boxes[:, 4] == class_id) & ~np.isnan(colours[:, 0])
        if chosen.sum() >= LEAST_BOXES:
            name = f'colour of {short_name(class_name)}'
            yield name, SetFigure(name, 'a of CIE Lab', colours[chosen], picture[chosen])


def _blocks(paths: Sequence[Path]) -> Int64:
    """(N,) a number per picture: the same for neighbours in one drive."""
    drive = [(path.parent, re.sub(r'\d+\D*$', '', path.stem)) for path in paths]
    blocks, block, members = [], 0, 0
    for index in range(len(paths)):
        if index and (drive[index] != drive[index - 1] or members == BLOCK):
            block, members = block + 1, 0
        members += 1
        blocks.append(block)
    return np.array(blocks, np.int64)
