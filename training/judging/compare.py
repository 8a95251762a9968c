"""Paired differences between models on the same resamples of pictures, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.intervals import (
    Float64,
    Int32,
    Interval,
    draw,
    percentile_interval,
    t_interval,
)
from cone_perception.errors import DataError
from cone_perception.files import from_json
from cone_perception.types import Int64
from training.judging.evaluation import Evaluation
from training.judging.metrics import FIXED_CONFIDENCE, PRIMARY, TITLES, ResampledFigures
from training.judging.verdict import finding

UNLEARNT_MAP50 = 0.02


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """One figure of two arms: a minus b; above 0 a is better.

    name: as ResampledFigures names it. a, b, difference: intervals over the pictures, for these
    weights. a_by_seed, b_by_seed: what each training reached. strategy: the interval of the
    difference over pictures and trainings together; None with one training in an arm.
    """

    name: str
    a: Interval
    b: Interval
    difference: Interval
    a_by_seed: tuple[float, ...]
    b_by_seed: tuple[float, ...]
    strategy: Interval | None

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name.replace('map50', 'mAP50'))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the same pictures.

    a, b: their names. data_sha256: of the pictures and labels. grouping: what was resampled as one
    piece; groups: how many of them. confidence: the fixed operating point. warnings: what limits
    the intervals, in words.
    """

    a: str
    b: str
    data_sha256: str
    pictures: int
    cones: int
    grouping: str
    groups: int
    resamples: int
    seed: int
    confidence: float
    differences: tuple[PairedDifference, ...]
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> PairedDifference:
        """The difference of one figure; KeyError."""
        return {difference.name: difference for difference in self.differences}[name]

    @property
    def deciding(self) -> Interval:
        """The interval that a decision goes by: the strategy's where both arms have seeds."""
        primary = self[PRIMARY]
        return primary.strategy or primary.difference

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Comparison:
        """Read an entry of comparison.json."""
        made: Comparison = from_json(cls, {name: stored[name] for name in cls.__slots__}, 'it')
        return made


Arm = Evaluation | Sequence[Evaluation]
"""One trained model's evaluation, or those of the same recipe with several seeds."""


def compare(
    a: Arm,
    b: Arm,
    resamples: int = 1000,
    block: int = 1,
    seed: int = 0,
    *,
    names: tuple[str, str] = ('a', 'b'),
    confidence: float = FIXED_CONFIDENCE,
    progress: bool = False,
) -> Comparison:
    """Every figure's difference a minus b, with percentile intervals over resampled pictures.

    All evaluations see the same resamples. An arm's figure is the mean over its seeds.
    block: as Evaluation.groups takes it. Raises DataError when they were not judged on the same
    pictures, labels and classes.
    """
    arms = [[arm] if isinstance(arm, Evaluation) else list(arm) for arm in (a, b)]
    first = arms[0][0]
    for name, arm in zip(names, arms, strict=True):
        _refuse_other_data(first, arm, names[0], name)
    group, grouping = first.groups(block)
    names_of_figures, point, drawn = _resample(
        [*arms[0], *arms[1]], group, resamples, seed, confidence, progress
    )
    groups = int(group.max()) + 1
    differences = tuple(
        _difference(name, point[:, i], drawn[:, :, i], len(arms[0]), groups)
        for i, name in enumerate(names_of_figures)
    )
    primary = differences[names_of_figures.index(PRIMARY)]
    return Comparison(
        a=names[0],
        b=names[1],
        data_sha256=first.origin.data_sha256,
        pictures=len(first.image_names),
        cones=first.truth_count,
        grouping=grouping,
        groups=groups,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
        differences=differences,
        warnings=tuple(_warnings(arms, names, primary, groups, grouping)),
    )


def compare_all(
    arms: Sequence[tuple[str, Sequence[Evaluation]]], margin: float, **settings: Any
) -> tuple[list[Comparison], dict[str, Any]]:
    """Compare the first arm with each other by `compare`; and the content of comparison.json."""
    (name, first), *others = arms
    comparisons = [compare(first, arm, names=(name, other), **settings) for other, arm in others]
    if comparisons:
        own = {each.name: each.a for each in comparisons[0].differences}
    else:
        own = own_figures(name, first, **settings)
    told = [{**asdict(each), 'meaning': meaning(each, margin)} for each in comparisons]
    return comparisons, {'margin': margin, 'comparisons': told, 'own': own}


def own_figures(
    name: str,
    arm: Sequence[Evaluation],
    resamples: int = 1000,
    block: int = 1,
    seed: int = 0,
    *,
    confidence: float = FIXED_CONFIDENCE,
    progress: bool = False,
) -> dict[str, Interval]:
    """Every figure of one arm with its interval, as `compare` says it beside another."""
    _refuse_other_data(arm[0], arm, name, name)
    group, _ = arm[0].groups(block)
    figures, point, drawn = _resample(arm, group, resamples, seed, confidence, progress)
    columns = zip(figures, point.mean(axis=0), drawn.mean(axis=1).T, strict=True)
    return {figure: percentile_interval(value, column) for figure, value, column in columns}


def meaning(comparison: Comparison, margin: float) -> str:
    """One sentence: what the comparison says on the primary figure."""
    by = (
        ', over pictures and trainings'
        if comparison[PRIMARY].strategy
        else ', over pictures, for this pair of weights, not for their ways of training'
    )
    return finding(comparison.a, comparison.b, comparison.deciding, margin, by)


def _resample(
    evaluations: Sequence[Evaluation],
    group: Int64,
    resamples: int,
    seed: int,
    confidence: float,
    progress: bool,
) -> tuple[tuple[str, ...], Float64, Float64]:
    """Names (F), figures (E, F) as they are, and (R, E, F) of the resamples."""
    ranked = [ResampledFigures(each, confidence) for each in evaluations]
    once: Int32 = np.ones((1, len(group)), np.int32)
    point = np.concatenate([figures(once) for figures in ranked])
    with tqdm(total=resamples, unit='resample', disable=not progress, leave=False) as bar:
        rows = []
        for weights in draw(group, resamples, seed):
            rows.append(np.stack([figures(weights) for figures in ranked], axis=1))
            bar.update(len(weights))
    return ranked[0].names, point, np.concatenate(rows)


def _difference(
    name: str, point: Float64, drawn: Float64, split: int, groups: int
) -> PairedDifference:
    """One figure. point: (E,), drawn: (R, E); the first `split` evaluations are a's."""
    a, b = point[:split], point[split:]
    drawn_a, drawn_b = drawn[:, :split].mean(axis=1), drawn[:, split:].mean(axis=1)
    value = float(a.mean() - b.mean())
    strategy = None
    if len(a) > 1 and len(b) > 1 and math.isfinite(value):
        # The variance of the mean over each arm's seeds adds to that of the pictures, so two seeds
        # an arm get the wide interval that they deserve.
        pictures = float(np.nanvar(drawn_a - drawn_b))
        variances = (pictures, a.var(ddof=1) / len(a), b.var(ddof=1) / len(b))
        strategy = t_interval(value, variances, (max(groups - 1, 1), len(a) - 1, len(b) - 1))
    return PairedDifference(
        name=name,
        a=percentile_interval(a.mean(), drawn_a),
        b=percentile_interval(b.mean(), drawn_b),
        difference=percentile_interval(value, drawn_a - drawn_b),
        a_by_seed=tuple(map(float, a)),
        b_by_seed=tuple(map(float, b)),
        strategy=strategy,
    )


def _refuse_other_data(a: Evaluation, arm: Sequence[Evaluation], name_a: str, name_b: str) -> None:
    """Raise DataError naming what differs."""
    for b in arm:
        ours, theirs = set(a.image_names), set(b.image_names)
        if a.class_names != b.class_names:
            what = f'classes {", ".join(a.class_names)} and {", ".join(b.class_names)}'
        elif ours != theirs:
            what = (
                f'{len(ours - theirs)} pictures only in {name_a}, {len(theirs - ours)} only in '
                f'{name_b}, as {min(ours ^ theirs)}'
            )
        elif a.origin.data_sha256 != b.origin.data_sha256:
            sums = ' and '.join(
                f'{one.origin.data_sha256[:12]} ({one.origin.data}, {one.origin.split}, '
                f'{one.truth_count} cones)'
                for one in (a, b)
            )
            what = f'the same file names, but other pictures or labels: sha256 {sums}'
        else:
            continue
        raise DataError(
            f'{name_a} and {name_b} cannot be paired: {what}. Evaluate both on the same split.'
        )


def _warnings(
    arms: Sequence[Sequence[Evaluation]],
    names: tuple[str, str],
    primary: PairedDifference,
    groups: int,
    grouping: str,
) -> Iterator[str]:
    """Yield what limits the intervals, in words."""
    if max(primary.a.value, primary.b.value) < UNLEARNT_MAP50:
        yield (
            f'Both are below {UNLEARNT_MAP50:g} mAP50: neither has learnt to find cones, so how '
            'they compare says nothing yet.'
        )
    if groups < 20:  # visibly too narrow, see verdict.md
        yield (
            f'Only {groups} groups ({grouping}) to resample: the intervals are rough, and rather '
            'too narrow.'
        )
    if grouping == 'picture':
        yield (
            'Resampled by picture: neighbouring pictures of one drive are alike, so the intervals '
            'are rather too narrow.'
        )
    single = [name for name, arm in zip(names, arms, strict=True) if len(arm) == 1]
    if single:
        yield (
            f'One training of {" and of ".join(single)}: the intervals speak of these weights. '
            'Another seed would give others.'
        )
    elif min(map(len, arms)) < 5:
        yield (
            f'{len(arms[0])} and {len(arms[1])} trainings: how much they scatter is hardly known '
            'from so few, and the interval over trainings is wide because of it.'
        )
    for fact in ('imgsz', 'layout', 'precision', 'views'):
        seen = {str(getattr(each.origin, fact)) for arm in arms for each in arm}
        if len(seen) > 1:
            yield f'{fact} is not the same for all: {", ".join(sorted(seen))}.'
