"""How far apart two data sets are, and whether that is more than each differs in itself.

data sets -> figures per picture and per box -> distances -> what differs most

Every distance stands beside the one that halves of the same set have: consecutive pictures are
alike, so halves are drawn by blocks of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cone_perception.classes import CLASS_NAMES
from cone_perception.types import UInt8
from training.data.fingerprint import find_inside
from training.data.gap.embedding import embed_pictures
from training.data.gap.pictures import measure_set
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

PERMUTATIONS = 200
QUANTILES = np.linspace(0.002, 0.998, 250)


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
