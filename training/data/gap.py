"""How far apart two data sets are, and whether that is more than each differs in itself.

data sets -> figures per picture and per box -> distances -> what differs most, and what it suggests

Every distance stands beside the one that halves of the same set have: consecutive pictures are
alike, so halves are drawn by blocks of them.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cone_perception.classes import CLASS_NAMES, map_classes
from cone_perception.dataset.labels import read_labels
from cone_perception.dataset.layout import label_path, read_layout
from cone_perception.errors import DataError
from cone_perception.files import write_json
from cone_perception.model_card import shipped_bundle
from cone_perception.pictures.draw import short_name
from cone_perception.types import UInt8
from training.data.embedding import embed_pictures
from training.data.fingerprint import find_inside

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Kind = Literal['number', 'class']

REFERENCE_PX = 640
"""Longer side of the picture at which heights are given and sharpness is measured."""
BLOCK = 25
"""Consecutive pictures of one drive that stay together when a set is halved."""
HALVINGS = 40
PERMUTATIONS = 200
QUANTILES = np.linspace(0.002, 0.998, 250)
LEAST_COLOUR_PX = 8
LEAST_BOXES = 30
"""Colours are compared for classes with so many boxes in both sets."""
EXAMPLES = 8

ADVICE: Mapping[str, str] = {
    'box height': 'more `scale` augmentation, crops, or another `imgsz` in stage 1 so that cones '
    'are as tall as in the target set',
    'box shape': 'look at the labels: boxes that are drawn looser or tighter cost mAP50-95 first',
    'position across': 'more `translate` augmentation',
    'position down': 'another camera height or pitch: more `translate` and `perspective`',
    'boxes per picture': '`mosaic` evens this out; look for unlabelled far cones too',
    'classes per picture': '`mosaic` evens this out',
    'classes': 'classes that one set lacks are learned from the other alone: judge them one by one',
    'brightness': 'more `hsv_v` augmentation in stage 1',
    'contrast': 'more `hsv_v` augmentation in stage 1',
    'saturation': 'more `hsv_s` augmentation in stage 1',
    'sharpness': 'another camera, size or compression: train and judge at one `imgsz`',
    'frame': 'a frame is part of the pictures of one set only, and a real camera has none: cut it '
    'off, or expect the model to rely on it',
    'picture shape': 'the letterbox takes another share of the network input: prefer crops',
    'embedding': 'the network sees another domain: fine-tune all layers with a warm-up, and expect '
    'the first epochs to lose before they gain',
}
COLOUR_ADVICE = 'more `hsv_h` and `hsv_s` augmentation in stage 1'


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One thing that is measured in a set.

    values: (M, D) float64, per picture or per box. picture: (M,) the picture it belongs to.
    kind: `class`: values are class indices, (M, 1).
    """

    name: str
    unit: str
    values: Float64
    picture: Int64
    kind: Kind = 'number'


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A data set as measured. paths: its pictures. block: (N,) which pictures stay together."""

    name: str
    paths: tuple[Path, ...]
    block: Int64
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """One figure of both sets.

    distance: Wasserstein-1 in standard deviations of both sets together (several components: root
    of the sum of squares); for classes the Jensen-Shannon distance, 0..1 (Lin 1991); for the
    embedding the maximum mean discrepancy (Gretton et al. 2012). within: the greatest distance of
    HALVINGS random halves of a set, in the set that varies more.
    median_a, median_b: of the first component; NaN for classes and the embedding.
    """

    name: str
    unit: str
    distance: float
    within: float
    median_a: float
    median_b: float

    @property
    def ratio(self) -> float:
        return self.distance / max(self.within, 1e-9)

    @property
    def notable(self) -> bool:
        """More than chance and a set's own variety explain."""
        return self.distance > self.within


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Pictures as the backbone sees them.

    a, b: (N, C) float64, standardised. index_a, index_b: which pictures of the samples.
    if_same: 95 % of the discrepancies that shuffled blocks of both sets give are at most this.
    told_apart: share of pictures whose nearest one outside their block is of their own set;
    0.5 when the sets cannot be told apart. to_a: (N,) of B's pictures, mean distance to the five
    nearest of A.
    """

    a: Float64
    b: Float64
    index_a: Int64
    index_b: Int64
    if_same: float
    told_apart: float
    to_a: Float64


@dataclass(frozen=True, slots=True, eq=False)
class GapReport:
    """What `measure_gap` found. differences: largest first. embedding: None if not asked for."""

    a: Sample
    b: Sample
    differences: tuple[Difference, ...]
    embedding: Embedding | None
    weights: str = ''
    examples: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """What differs most and what that suggests, in words."""
        notable = [entry for entry in self.differences if entry.notable]
        if not notable:
            return [
                f'Nothing sets {self.a.name} and {self.b.name} apart more than halves of one of '
                'them differ.',
                *self._missing_classes(),
            ]
        said = [_sentence(entry, self.a.name, self.b.name) for entry in notable[:6]]
        rest = [entry.name for entry in notable[6:]]
        if rest:
            said.append(f'Also different, but less: {", ".join(rest)}.')
        alike = [entry.name for entry in self.differences if not entry.notable]
        if alike:
            said.append(f'Not more different than halves of one set: {", ".join(alike)}.')
        said += self._missing_classes()
        if self.embedding is not None:
            said.append(
                f"To the network's backbone the nearest other picture belongs to the same set in "
                f'{100 * self.embedding.told_apart:.0f} % of the pictures (50 %: no difference).'
            )
        return said

    def _missing_classes(self) -> Iterator[str]:
        """Classes that one set has and the other does not."""
        for here, there in ((self.a, self.b), (self.b, self.a)):
            counts, others = _class_counts(here), _class_counts(there)
            for name, count, other in zip(CLASS_NAMES, counts, others, strict=True):
                if count and not other:
                    yield (
                        f'{short_name(name).capitalize()}: {count} boxes in {here.name}, none in '
                        f'{there.name}. Suggests: {ADVICE["classes"]}.'
                    )

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, for programs."""
        return {
            'a': {'name': self.a.name, 'pictures': len(self.a.paths)},
            'b': {'name': self.b.name, 'pictures': len(self.b.paths)},
            'differences': [
                {
                    'name': entry.name,
                    'unit': entry.unit,
                    'distance': entry.distance,
                    'within': entry.within,
                    'notable': entry.notable,
                    'median_a': None if np.isnan(entry.median_a) else entry.median_a,
                    'median_b': None if np.isnan(entry.median_b) else entry.median_b,
                }
                for entry in self.differences
            ],
            'embedding': self.embedding
            and {
                'weights': self.weights,
                'pictures': [len(self.embedding.a), len(self.embedding.b)],
                'if_same': self.embedding.if_same,
                'told_apart': self.embedding.told_apart,
            },
            'sentences': self.sentences(),
        }


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
    workers = workers or len(os.sched_getaffinity(0))
    one, two = (_measure_set(path, splits, workers) for path in (a, b))
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


def _measure_set(path: Path, splits: Sequence[str], workers: int) -> Sample:
    layout = read_layout(path)
    listed = [
        file for name, files in layout.splits.items() if not splits or name in splits
        for file in files
    ]  # fmt: skip
    if not listed:
        raise DataError(f'{layout.data_yaml} lists no picture in {", ".join(splits) or "it"}.')
    mapping = map_classes(layout.names)

    def measure(file: Path) -> _Picture:
        return _measure_picture(file, len(layout.names), mapping)

    with ThreadPoolExecutor(workers) as pool:
        measured = list(
            tqdm(
                pool.map(measure, listed),
                total=len(listed),
                unit='picture',
                desc=layout.root.name,
            )
        )
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


def _gather_figures(measured: Sequence[_Picture]) -> Iterator[tuple[str, Figure]]:
    table = np.array([entry.figures for entry in measured], np.float64)
    every = np.arange(len(measured))
    for column, (name, unit) in enumerate(PICTURE_FIGURES):
        yield name, Figure(name, unit, table[:, column : column + 1], every)
    picture = np.repeat(every, [len(entry.boxes) for entry in measured])
    if not len(picture):
        return
    boxes = np.concatenate([entry.boxes for entry in measured])
    colours = np.concatenate([entry.colours for entry in measured])
    for column, (name, unit) in enumerate(BOX_FIGURES):
        yield name, Figure(name, unit, boxes[:, column : column + 1], picture)
    yield 'classes', Figure('classes', '', boxes[:, 4:], picture, 'class')
    for class_id, class_name in enumerate(CLASS_NAMES):
        chosen = (boxes[:, 4] == class_id) & ~np.isnan(colours[:, 0])
        if chosen.sum() >= LEAST_BOXES:
            name = f'colour of {short_name(class_name)}'
            yield name, Figure(name, 'a of CIE Lab', colours[chosen], picture[chosen])


def _class_counts(sample: Sample) -> list[int]:
    if 'classes' not in sample.figures:
        return [0] * len(CLASS_NAMES)
    class_id = sample.figures['classes'].values[:, 0].astype(np.int64)
    return [int((class_id == index).sum()) for index in range(len(CLASS_NAMES))]


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


def _compare(one: Sample, two: Sample, name: str, rng: np.random.Generator) -> Difference:
    a, b = one.figures[name], two.figures[name]
    scale = np.concatenate([a.values, b.values]).std(axis=0)
    within = [max(_halves(sample, sample.figures[name], scale, rng)) for sample in (one, two)]
    nothing = a.kind == 'class'
    return Difference(
        name,
        a.unit,
        _distance(a.values, b.values, scale, a.kind),
        max(within),
        float('nan') if nothing else float(np.median(a.values[:, 0])),
        float('nan') if nothing else float(np.median(b.values[:, 0])),
    )


def _halves(
    sample: Sample, figure: Figure, scale: Float64, rng: np.random.Generator
) -> list[float]:
    """Distances between random halves of a set."""
    found = []
    for _ in range(HALVINGS):
        half = _draw_half(sample.block, rng)[figure.picture]
        if half.any() and not half.all():
            found.append(_distance(figure.values[half], figure.values[~half], scale, figure.kind))
    return found or [0.0]


def _draw_half(block: Int64, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(N,) bool: half of the blocks."""
    blocks = np.unique(block)
    return np.isin(block, rng.permutation(blocks)[: max(1, len(blocks) // 2)])


def _distance(a: Float64, b: Float64, scale: Float64, kind: Kind) -> float:
    if kind == 'class':
        return _jensen_shannon(a[:, 0], b[:, 0])
    differences = np.abs(np.quantile(a, QUANTILES, axis=0) - np.quantile(b, QUANTILES, axis=0))
    return float(np.linalg.norm(differences.mean(axis=0) / np.maximum(scale, 1e-9)))


def _jensen_shannon(a: Float64, b: Float64) -> float:
    shares = [
        np.bincount(values.astype(np.int64), minlength=len(CLASS_NAMES)) / max(len(values), 1)
        for values in (a, b)
    ]
    mixed = (shares[0] + shares[1]) / 2
    total = 0.0
    for share in shares:
        there = share > 0
        total += 0.5 * float((share[there] * np.log2(share[there] / mixed[there])).sum())
    return float(np.sqrt(max(total, 0.0)))


def _embed(
    one: Sample,
    two: Sample,
    weights: Path,
    pictures: int,
    cut_frames: bool,
    rng: np.random.Generator,
) -> tuple[Difference, Embedding]:
    count = min(pictures, len(one.paths), len(two.paths))
    index_a, index_b = (
        np.linspace(0, len(sample.paths) - 1, count).round().astype(np.int64)
        for sample in (one, two)
    )
    paths = [one.paths[i] for i in index_a.tolist()] + [two.paths[i] for i in index_b.tolist()]
    rows = embed_pictures(paths, weights, _cut if cut_frames else None).astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    block = np.concatenate([one.block[index_a], two.block[index_b] + one.block.max() + 1])
    squares = (rows**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0)
    first = np.arange(2 * count) < count
    typical = np.median(apart[np.triu_indices(len(apart), 1)])
    kernel = np.exp(-apart / max(float(typical), 1e-9))
    within = [
        _discrepancy(kernel, half & own, ~half & own)
        for own in (first, ~first)
        for half in (_draw_half_of(block, own, rng) for _ in range(HALVINGS))
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
    nan = float('nan')
    return Difference('embedding', 'MMD', distance, max(within), nan, nan), embedding


def _draw_half_of(
    block: Int64, own: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    half = np.zeros(len(block), bool)
    half[own] = _draw_half(block[own], rng)
    return half


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


def _sentence(entry: Difference, a: str, b: str) -> str:
    advice = ADVICE.get(entry.name, COLOUR_ADVICE)
    how = f'{entry.distance:.2f} apart, halves of one set at most {entry.within:.2f}'
    if np.isnan(entry.median_a):
        return f'{entry.name.capitalize()}: {how}. Suggests: {advice}.'
    unit = f' {entry.unit}' if entry.unit else ''
    return (
        f'{entry.name.capitalize()}: median {entry.median_a:.3g} in {a}, {entry.median_b:.3g} in '
        f'{b}{unit} ({how}). Suggests: {advice}.'
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('a', type=Path, help='data set to learn from first')
    parser.add_argument('b', type=Path, help='target data set')
    parser.add_argument('--out', type=Path, default=Path('gap'), help='folder (default: gap)')
    parser.add_argument(
        '--weights',
        type=Path,
        default=shipped_bundle(),
        help='.pt, .onnx or model bundle whose backbone compares (default: the shipped model)',
    )
    parser.add_argument('--no-embedding', action='store_true', help='leave the backbone out')
    parser.add_argument(
        '--pictures', type=int, default=300, help='per set, for the embedding (default: 300)'
    )
    parser.add_argument(
        '--cut-frames', action='store_true', help='embed without the frames around pictures'
    )
    parser.add_argument('--split', nargs='+', default=(), help='only these (default: all)')
    parser.add_argument('--workers', type=int, help='threads (default: one per processor)')


def run(args: argparse.Namespace) -> int:
    """Measure, write gap.json and gap.html below --out, print what differs."""
    from training.data.gap_page import write_gap_page

    report = measure_gap(
        args.a,
        args.b,
        weights=None if args.no_embedding else args.weights,
        pictures=args.pictures,
        cut_frames=args.cut_frames,
        splits=args.split,
        workers=args.workers,
    )
    write_json(args.out / 'gap.json', report.to_json())
    write_gap_page(args.out / 'gap.html', report)
    print_gap(report)
    print(f'\n{args.out / "gap.html"} shows it, with pictures of the sets: do not publish it.')
    return 0


def print_gap(report: GapReport) -> None:
    """A table of the distances, largest first, and what they say."""
    print(f'{report.a.name}: {len(report.a.paths)} pictures; {report.b.name}: ', end='')
    print(f'{len(report.b.paths)} pictures')
    print(f'\n  {"":26}{"A":>10}{"B":>10}{"A to B":>10}{"halves":>10}')
    for entry in report.differences:
        medians = ''.join(
            f'{"-" if np.isnan(value) else f"{value:.3g}":>10}'
            for value in (entry.median_a, entry.median_b)
        )
        mark = ' *' if entry.notable else ''
        print(f'  {entry.name:26}{medians}{entry.distance:10.3f}{entry.within:10.3f}{mark}')
    print('\n' + '\n'.join(report.sentences()))
