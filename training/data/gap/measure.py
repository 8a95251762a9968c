"""Measures how far apart two data sets are, and if that is more than each differs in itself.

data sets -> figures per picture and per box -> distances -> what differs most

Every distance stands beside the one that halves of the same set have: consecutive pictures are
alike, so halves are drawn by blocks of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import map_in_threads, read_labels
from cone_perception.dataset.layout import label_path, read_layout
from cone_perception.errors import DataError
from cone_perception.images import read_picture
from cone_perception.pictures.draw import short_name
from cone_perception.types import UInt8
from training.data.gap.embedding import embed_pictures
from training.data.gap.report import (
    EXAMPLES,
    HALVINGS,
    Embedding,
    Float64,
    GapReport,
    Int64,
    Kind,
    Sample,
    SetDifference,
    SetFigure,
)
from training.data.like_pictures import find_inside

PERMUTATIONS = 200
QUANTILES = np.linspace(0.002, 0.998, 250)
REFERENCE_PX = 640
"""Longer side of the picture at which heights are given and sharpness is measured."""
BLOCK = 25
"""Consecutive pictures of one drive that stay together when a set is halved."""
LEAST_COLOUR_PX = 8
LEAST_BOXES = 30
"""Colours are compared for classes with so many boxes in both sets."""


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """The share of one picture: figures of its own, boxes (N, 5), colours (N, 2) or NaN."""

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
    bgr = read_picture(path, DataError)
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


def measure_gap(
    a: Path,
    b: Path,
    *,
    weights: Path | None = None,
    pictures: int = 300,
    cut_frames: bool = False,
    splits: Sequence[str] = (),
    workers: int | None = None,
    seed: int = 0,
) -> GapReport:
    """Measure how far data set B is from A.

    weights: whose backbone embeds `pictures` of each set (None: no embedding). cut_frames: without
    the frames around them. splits: the ones that count; by default all.
    Raises DataError when a path is no data set, has no picture, or one cannot be decoded.
    """
    one, two = (measure_set(path, splits, workers) for path in (a, b))
    rng = np.random.default_rng(seed)
    names = [name for name in one.figures if name in two.figures]
    differences = [
        _compare(one, two, name, rng) for name in tqdm(names, unit='figure', desc='compare')
    ]
    embedding, examples = None, {}
    if weights is not None:
        difference, embedding = _embed(one, two, weights, pictures, cut_frames, rng)
        differences.append(difference)
        order = embedding.to_a.argsort()
        chosen = embedding.index_b[order].tolist()
        examples = {
            'nearest': tuple(two.paths[index] for index in chosen[:EXAMPLES]),
            'farthest': tuple(two.paths[index] for index in chosen[: -EXAMPLES - 1 : -1]),
        }
    differences.sort(key=lambda entry: (entry.notable, entry.distance), reverse=True)
    return GapReport(one, two, tuple(differences), embedding, str(weights or ''), examples)


def _compare(one: Sample, two: Sample, name: str, rng: np.random.Generator) -> SetDifference:
    a, b = one.figures[name], two.figures[name]
    scale = np.concatenate([a.values, b.values]).std(axis=0)
    within = [max(_halves(sample, sample.figures[name], scale, rng)) for sample in (one, two)]
    medians = [
        np.nan if a.kind == 'class' else float(np.median(sample.values[:, 0])) for sample in (a, b)
    ]
    distance = _distance(a.values, b.values, scale, a.kind)
    return SetDifference(name, a.unit, distance, max(within), *medians)


def _halves(
    sample: Sample, figure: SetFigure, scale: Float64, rng: np.random.Generator
) -> list[float]:
    """Distances between random halves of a set."""
    found = []
    for _ in range(HALVINGS):
        half = _draw_half(sample.block, rng)[figure.picture]
        if half.any() and not half.all():
            found.append(_distance(figure.values[half], figure.values[~half], scale, figure.kind))
    return found or [0.0]


def _draw_half(
    block: Int64, rng: np.random.Generator, own: npt.NDArray[np.bool_] | slice = slice(None)
) -> npt.NDArray[np.bool_]:
    """(N,) bool: half of the blocks; own: the pictures that count, no other is drawn."""
    blocks = np.unique(block[own])
    half = np.zeros(len(block), bool)
    half[own] = np.isin(block[own], rng.permutation(blocks)[: max(1, len(blocks) // 2)])
    return half


def _distance(a: Float64, b: Float64, scale: Float64, kind: Kind) -> float:
    if kind == 'class':
        from scipy.spatial.distance import jensenshannon

        ids = (values[:, 0].astype(int) for values in (a, b))
        counts = (np.bincount(each, minlength=len(CLASS_NAMES)) for each in ids)
        return float(np.nan_to_num(jensenshannon(*counts, base=2)))
    differences = np.abs(np.quantile(a, QUANTILES, axis=0) - np.quantile(b, QUANTILES, axis=0))
    return float(np.linalg.norm(differences.mean(axis=0) / np.maximum(scale, 1e-9)))


def _embed(
    one: Sample,
    two: Sample,
    weights: Path,
    pictures: int,
    cut_frames: bool,
    rng: np.random.Generator,
) -> tuple[SetDifference, Embedding]:
    from scipy.spatial.distance import cdist

    count = min(pictures, len(one.paths), len(two.paths))
    index_a, index_b = (
        np.linspace(0, len(sample.paths) - 1, count).round().astype(np.int64)
        for sample in (one, two)
    )
    paths = [one.paths[i] for i in index_a.tolist()] + [two.paths[i] for i in index_b.tolist()]
    rows = embed_pictures(paths, weights, _cut if cut_frames else None).astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    block = np.concatenate([one.block[index_a], two.block[index_b] + one.block.max() + 1])
    apart = cdist(rows, rows, 'sqeuclidean')
    first = np.arange(2 * count) < count
    typical = np.median(apart[np.triu_indices(len(apart), 1)])
    kernel = np.exp(-apart / max(float(typical), 1e-9))
    within = [
        _discrepancy(kernel, half & own, ~half & own)
        for own in (first, ~first)
        for half in (_draw_half(block, rng, own) for _ in range(HALVINGS))
    ]
    shuffled = [_draw_half(block, rng) for _ in range(PERMUTATIONS)]
    # As many pictures of the other set are hidden: otherwise it would have more to offer.
    hidden = np.concatenate(
        [np.tile(own[:, None] == own[None], 2) for own in (block[:count], block[count:])]
    )
    other_block = np.where(hidden, np.inf, apart)
    to_a = np.sqrt(np.sort(apart[count:, :count], axis=1)[:, :5]).mean(axis=1)
    embedding = Embedding(
        a=rows[:count],
        b=rows[count:],
        index_a=index_a,
        index_b=index_b,
        if_same=float(np.quantile([_discrepancy(kernel, half, ~half) for half in shuffled], 0.95)),
        told_apart=float((first[other_block.argmin(axis=1)] == first).mean()),
        to_a=to_a,
    )
    distance = _discrepancy(kernel, first, ~first)
    return SetDifference('embedding', 'MMD', distance, max(within), np.nan, np.nan), embedding


def _discrepancy(kernel: Float64, a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """Maximum mean discrepancy, unbiased before the root; 0 where that is negative."""
    n, m = int(a.sum()), int(b.sum())
    if n < 2 or m < 2:
        return 0.0
    # The kernel of a picture with itself is 1.
    same_a = (kernel[np.ix_(a, a)].sum() - n) / (n * (n - 1))
    same_b = (kernel[np.ix_(b, b)].sum() - m) / (m * (m - 1))
    square = same_a + same_b - 2 * kernel[np.ix_(a, b)].mean()
    return float(np.sqrt(max(square, 0.0)))


def _cut(bgr: UInt8) -> UInt8:
    return np.ascontiguousarray(bgr[find_inside(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))])
