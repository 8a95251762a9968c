"""Figures of a data set: of its pictures, boxes and classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import cv2
import numpy as np

from cone_perception.accuracy.intervals import Float64
from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import map_in_threads
from cone_perception.dataset.layout import read_layout
from cone_perception.dataset.split import read_split
from cone_perception.engines.events import print_warning
from cone_perception.errors import DataError
from cone_perception.images import read_picture
from cone_perception.pictures.draw import short_name
from cone_perception.types import Float32, Int64
from training.data.like_pictures import cut_frame
from training.data.report import map_rows

REFERENCE_PX = 640
"""Longer side of the picture at which heights are given and sharpness is measured."""
BLOCK = 25
"""Consecutive pictures of one drive that stay together when a set is halved."""
LEAST_COLOUR_PX = 8
LEAST_BOXES = 30
"""Colours are compared for classes with so many boxes in both sets."""

LIGHT = 'more `hsv_v` augmentation in stage 1'
PICTURE_FIGURES: Mapping[str, tuple[str, str]] = {
    'brightness': ('grey level', LIGHT),
    'contrast': ('grey levels', LIGHT),
    'saturation': ('0 to 255', 'more `hsv_s` augmentation in stage 1'),
    'sharpness': (
        'log10 of the Laplacian variance',
        'another camera, size or compression: train and judge at one `imgsz`',
    ),
    'frame': (
        'share of the picture',
        'a frame is part of the pictures of one set only, and a real camera has none: cut it off, '
        'or expect the model to rely on it',
    ),
    'picture shape': (
        'width / height',
        'the letterbox takes another share of the network input: prefer crops',
    ),
    'boxes per picture': ('', '`mosaic` evens this out; look for unlabelled far cones too'),
    'classes per picture': ('', '`mosaic` evens this out'),
}
BOX_FIGURES: Mapping[str, tuple[str, str]] = {
    'box height': (
        f'px, picture {REFERENCE_PX} px long',
        'more `scale` augmentation, crops, or another `imgsz` in stage 1 so that cones are as tall '
        'as in the target set',
    ),
    'box shape': (
        'height / width',
        'look at the labels: boxes that are drawn looser or tighter cost mAP50-95 first',
    ),
    'position across': ('0 left to 1 right', 'more `translate` augmentation'),
    'position down': (
        '0 top to 1 bottom',
        'another camera height or pitch: more `translate` and `perspective`',
    ),
    'classes': (
        '',
        'classes that one set lacks are learned from the other alone: judge them one by one',
    ),
}
"""Name of a figure -> its unit, and what a difference in it suggests."""

COLOUR = 'a of CIE Lab', 'more `hsv_h` and `hsv_s` augmentation in stage 1'


@dataclass(frozen=True, slots=True, eq=False)
class SetFigure:
    """One thing that is measured in a set.

    values: (M, D) float64, per picture or per box; class indices, (M, 1), of `classes`.
    picture: (M,) the picture that each belongs to.
    """

    unit: str
    advice: str
    values: Float64
    picture: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A data set as measured. paths: its pictures. block: (N,) which pictures stay together."""

    name: str
    paths: tuple[Path, ...]
    block: Int64
    figures: Mapping[str, SetFigure]

    @property
    def class_counts(self) -> list[int]:
        """Boxes of each class."""
        found = self.figures.get('classes')
        classes = found.values[:, 0].astype(int) if found else np.zeros(0, int)
        counts: list[int] = np.bincount(classes, minlength=len(CLASS_NAMES)).tolist()
        return counts


def measure_set(path: Path, splits: Sequence[str], workers: int | None) -> Sample:
    """Measure each picture and box of a data set; splits: those that count, none: all.

    Raises DataError for what cannot be judged either, see `read_split`.
    """
    layout = read_layout(path)
    read = [
        read_split(path, name, workers)
        for name, files in layout.splits.items()
        if files and (not splits or name in splits)
    ]
    if not read:
        raise DataError(f'{layout.data_yaml} lists no picture in {", ".join(splits) or "it"}.')
    for note in dict.fromkeys(chain.from_iterable(each.notes for each in read)):
        print_warning(note)
    pairs = [
        (file, map_rows(rows, map_classes(each.class_names)))
        for each in read
        for file, rows in zip(each.paths, each.rows, strict=True)
    ]
    measured = map_in_threads(
        lambda pair: _measure_picture(*pair), pairs, layout.root.name, workers=workers
    )
    listed = [file for file, _ in pairs]
    figures = dict(_gather_figures(*zip(*measured, strict=True)))
    return Sample(layout.root.name, tuple(listed), _blocks(listed), figures)


def _measure_picture(path: Path, rows: Float32) -> tuple[list[float], Float64]:
    """PICTURE_FIGURES, and per box (N, 7) BOX_FIGURES and a and b of its colour, or NaN."""
    bgr = read_picture(path, DataError)
    height, width = bgr.shape[:2]
    inside = cut_frame(bgr)
    scale = REFERENCE_PX / max(inside.shape[:2])
    small = cv2.resize(inside, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    centre, extent = (rows[:, columns] * (width, height) for columns in (slice(1, 3), slice(3, 5)))
    colours = np.full((len(rows), 2), np.nan)
    for colour, (x, y), (wide, tall) in zip(colours, centre, extent, strict=True):
        left, right = int(max(x - wide / 4, 0)), int(x + wide / 4) + 1
        top, bottom = int(max(y - tall / 4, 0)), int(y + tall / 4) + 1
        middle = bgr[top:bottom, left:right]
        if tall >= LEAST_COLOUR_PX and middle.size:
            colour[:] = cv2.mean(cv2.cvtColor(middle, cv2.COLOR_BGR2LAB))[1:3]
    shape = extent[:, 1] / np.maximum(extent[:, 0], 1e-6)
    height_px = extent[:, 1] * REFERENCE_PX / max(width, height)
    figures = [
        grey.mean(),
        grey.std(),
        cv2.cvtColor(small, cv2.COLOR_BGR2HSV)[..., 1].mean(),
        np.log10(cv2.Laplacian(grey, cv2.CV_32F).var() + 1),
        1 - inside.shape[0] * inside.shape[1] / (height * width),
        inside.shape[1] / inside.shape[0],
        len(rows),
        len(np.unique(rows[:, 0])),
    ]
    return figures, np.column_stack([height_px, shape, rows[:, 1:3], rows[:, 0], colours])


def _gather_figures(
    of_pictures: Sequence[Sequence[float]], of_boxes: Sequence[Float64]
) -> Iterator[tuple[str, SetFigure]]:
    every = np.arange(len(of_pictures))
    for (name, told), column in zip(PICTURE_FIGURES.items(), np.array(of_pictures).T, strict=True):
        yield name, SetFigure(*told, column[:, None], every)
    picture = np.repeat(every, [len(boxes) for boxes in of_boxes])
    if not len(picture):
        return
    boxes = np.concatenate(of_boxes)
    for (name, told), column in zip(BOX_FIGURES.items(), boxes.T, strict=False):
        yield name, SetFigure(*told, column[:, None], picture)
    class_id, colours = boxes[:, 4], boxes[:, 5:]
    for index, class_name in enumerate(CLASS_NAMES):
        chosen = (class_id == index) & ~np.isnan(colours[:, 0])
        if chosen.sum() >= LEAST_BOXES:
            figure = SetFigure(*COLOUR, colours[chosen], picture[chosen])
            yield f'colour of {short_name(class_name)}', figure


def _blocks(paths: Sequence[Path]) -> Int64:
    """(N,) a number per picture: the same for neighbours in one drive."""
    blocks: list[int] = []
    drives = groupby(paths, lambda path: (path.parent, re.sub(r'\d+\D*$', '', path.stem)))
    for _, pictures in drives:
        first = blocks[-1] + 1 if blocks else 0
        blocks += [first + index // BLOCK for index, _ in enumerate(pictures)]
    return np.array(blocks, np.int64)
