"""Measures how far apart two data sets are, and if that is more than each differs in itself.

data sets -> figures per picture and per box -> distances -> what differs most

Every distance stands beside the one that halves of the same set have: consecutive pictures are
alike, so halves are drawn by blocks of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.intervals import Float64
from cone_perception.accuracy.matching import Bool
from cone_perception.classes import CLASS_NAMES
from cone_perception.pictures.draw import short_name
from cone_perception.types import Int64
from training.data.gap.embedding import embed_pictures
from training.data.gap.figures import BOX_FIGURES, Sample, measure_set

HALVINGS = 40
"""Random halves of a set whose distances say how much it varies in itself."""
EXAMPLES = 8
QUANTILES = np.linspace(0.002, 0.998, 250)


@dataclass(frozen=True, slots=True)
class SetDifference:
    """One figure of both sets.

    distance: Wasserstein-1 in standard deviations of both sets together (several components: root
    of the sum of squares); for classes the Jensen-Shannon distance, 0..1 (Lin 1991); for the
    embedding the maximum mean discrepancy (Gretton et al. 2012). within: the greatest distance of
    HALVINGS random halves of a set, in the set that varies more. advice: what it suggests.
    median_a, median_b: of the first component; NaN for classes and the embedding.
    """

    name: str
    unit: str
    distance: float
    within: float
    advice: str
    median_a: float = np.nan
    median_b: float = np.nan

    @property
    def ratio(self) -> float:
        return self.distance / max(self.within, 1e-9)

    @property
    def notable(self) -> bool:
        """More than chance and a set's own variety explain."""
        return self.distance > self.within

    def sentence(self, a: str, b: str) -> str:
        how = f'{self.distance:.2f} apart, halves of one set at most {self.within:.2f}'
        if not np.isnan(self.median_a):
            unit = f' {self.unit}' if self.unit else ''
            medians = f'median {self.median_a:.3g} in {a}, {self.median_b:.3g} in {b}'
            how = f'{medians}{unit} ({how})'
        return f'{self.name.capitalize()}: {how}. Suggests: {self.advice}.'


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Pictures as the backbone sees them.

    a, b: (N, C) float64, standardised. if_same: 95 % of the discrepancies that shuffled blocks of
    both sets give are at most this. told_apart: share of pictures whose nearest one outside their
    block is of their own set; 0.5 when the sets cannot be told apart. examples: pictures of B that
    are `nearest` to A and `farthest` from it, by the mean distance to the five nearest of A.
    """

    weights: str
    a: Float64
    b: Float64
    if_same: float
    told_apart: float
    examples: Mapping[str, Sequence[Path]]


@dataclass(frozen=True, slots=True, eq=False)
class GapReport:
    """The gap. differences: largest first. embedding: None if not asked for."""

    a: Sample
    b: Sample
    differences: tuple[SetDifference, ...]
    embedding: Embedding | None

    def sentences(self) -> Iterator[str]:
        """Say what differs most, and what that suggests."""
        a, b = self.a.name, self.b.name
        notable = [entry for entry in self.differences if entry.notable]
        if not notable:
            yield f'Nothing sets {a} and {b} apart more than halves of one of them differ.'
        yield from (entry.sentence(a, b) for entry in notable[:6])
        if notable[6:]:
            yield f'Also different, but less: {", ".join(entry.name for entry in notable[6:])}.'
        alike = [entry.name for entry in self.differences if not entry.notable]
        if notable and alike:
            yield f'Not more different than halves of one set: {", ".join(alike)}.'
        for here, there in ((self.a, self.b), (self.b, self.a)):
            counts = zip(CLASS_NAMES, here.class_counts, there.class_counts, strict=True)
            for name, count, other in counts:
                if count and not other:
                    yield (
                        f'{short_name(name).capitalize()}: {count} boxes in {here.name}, none in '
                        f'{there.name}. Suggests: {BOX_FIGURES["classes"][1]}.'
                    )
        if self.embedding and notable:
            yield (
                f"To the network's backbone the nearest other picture belongs to the same set in "
                f'{100 * self.embedding.told_apart:.0f} % of the pictures (50 %: no difference).'
            )

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, for programs."""
        found = self.embedding
        differences = [{**asdict(entry), 'notable': entry.notable} for entry in self.differences]
        embedding = found and {
            'weights': found.weights,
            'pictures': [len(found.a), len(found.b)],
            'if_same': found.if_same,
            'told_apart': found.told_apart,
        }
        return {
            'a': {'name': self.a.name, 'pictures': len(self.a.paths)},
            'b': {'name': self.b.name, 'pictures': len(self.b.paths)},
            'differences': differences,
            'embedding': embedding,
            'sentences': [*self.sentences()],
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
) -> GapReport:
    """Measure how far data set B is from A.

    weights: whose backbone embeds `pictures` of each set (None: no embedding). cut_frames: without
    the frames around them. splits: the ones that count; by default all.
    Raises DataError when a path is no data set, has no picture, or one cannot be decoded.
    """
    one, two = (measure_set(path, splits, workers) for path in (a, b))
    rng = np.random.default_rng(0)
    names = [name for name in one.figures if name in two.figures]
    differences = [
        _compare(one, two, name, rng) for name in tqdm(names, unit='figure', desc='compare')
    ]
    embedding = None
    if weights is not None:
        difference, embedding = _embed(one, two, weights, pictures, cut_frames, rng)
        differences.append(difference)
    differences.sort(key=lambda entry: (entry.notable, entry.distance), reverse=True)
    return GapReport(one, two, tuple(differences), embedding)


def _compare(one: Sample, two: Sample, name: str, rng: np.random.Generator) -> SetDifference:
    a, b = one.figures[name], two.figures[name]
    scale = np.maximum(np.concatenate([a.values, b.values]).std(axis=0), 1e-9)
    apart = _class_distance if name == 'classes' else _distance
    within = [0.0]
    for sample, figure in ((one, a), (two, b)):
        for _ in range(HALVINGS):
            half = _draw_half(sample.block, rng)[figure.picture]
            if half.any() and not half.all():
                within.append(apart(figure.values[half], figure.values[~half], scale))
    medians = [] if name == 'classes' else [float(np.median(f.values[:, 0])) for f in (a, b)]
    distance = apart(a.values, b.values, scale)
    return SetDifference(name, a.unit, distance, max(within), a.advice, *medians)


def _draw_half(block: Int64, rng: np.random.Generator, own: Bool | slice = slice(None)) -> Bool:
    """(N,) bool: half of the blocks; own: the pictures that count, no other is drawn."""
    blocks = np.unique(block[own])
    half = np.zeros(len(block), bool)
    half[own] = np.isin(block[own], rng.permutation(blocks)[: max(1, len(blocks) // 2)])
    return half


def _class_distance(a: Float64, b: Float64, _: Float64) -> float:
    from scipy.spatial.distance import jensenshannon

    counts = [np.bincount(ids[:, 0].astype(int), minlength=len(CLASS_NAMES)) for ids in (a, b)]
    return float(np.nan_to_num(jensenshannon(*counts, base=2)))


def _distance(a: Float64, b: Float64, scale: Float64) -> float:
    differences = np.abs(np.quantile(a, QUANTILES, axis=0) - np.quantile(b, QUANTILES, axis=0))
    return float(np.linalg.norm(differences.mean(axis=0) / scale))


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
    paths, blocks = [], []
    for sample in (one, two):
        chosen = np.linspace(0, len(sample.paths) - 1, count).round().astype(int)
        paths += [sample.paths[index] for index in chosen]
        blocks.append(sample.block[chosen])
    rows = embed_pictures(paths, weights, cut_frames).astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    block = np.concatenate([blocks[0], blocks[1] + one.block.max() + 1])
    apart = cdist(rows, rows, 'sqeuclidean')
    first = np.arange(2 * count) < count
    typical = np.median(apart[np.triu_indices(len(apart), 1)])
    kernel = np.exp(-apart / max(float(typical), 1e-9))
    within = [
        _discrepancy(kernel, half & own, ~half & own)
        for own in (first, ~first)
        for half in (_draw_half(block, rng, own) for _ in range(HALVINGS))
    ]
    shuffled = [_draw_half(block, rng) for _ in range(200)]
    # As many pictures of the other set are hidden: otherwise it would have more to offer.
    hidden = np.concatenate(
        [np.tile(own[:, None] == own[None], 2) for own in (block[:count], block[count:])]
    )
    nearest = np.where(hidden, np.inf, apart).argmin(axis=1)
    to_a = np.sqrt(np.sort(apart[count:, :count], axis=1)[:, :5]).mean(axis=1)
    by_distance = [paths[count + index] for index in to_a.argsort().tolist()]
    embedding = Embedding(
        weights=str(weights),
        a=rows[:count],
        b=rows[count:],
        if_same=float(np.quantile([_discrepancy(kernel, half, ~half) for half in shuffled], 0.95)),
        told_apart=float((first[nearest] == first).mean()),
        examples={'nearest': by_distance[:EXAMPLES], 'farthest': by_distance[: -EXAMPLES - 1 : -1]},
    )
    advice = (
        'the network sees another domain: fine-tune all layers with a warm-up, and expect the '
        'first epochs to lose before they gain'
    )
    distance = _discrepancy(kernel, first, ~first)
    return SetDifference('embedding', 'MMD', distance, max(within), advice), embedding


def _discrepancy(kernel: Float64, a: Bool, b: Bool) -> float:
    """Maximum mean discrepancy, unbiased before the root; 0 where that is negative."""
    n, m = int(a.sum()), int(b.sum())
    if n < 2 or m < 2:
        return 0.0
    # The kernel of a picture with itself is 1.
    same_a = (kernel[np.ix_(a, a)].sum() - n) / (n * (n - 1))
    same_b = (kernel[np.ix_(b, b)].sum() - m) / (m * (m - 1))
    square = same_a + same_b - 2 * kernel[np.ix_(a, b)].mean()
    return float(np.sqrt(max(square, 0.0)))
