"""Paired differences between models on the same pictures, with intervals.

evaluations -> the same resamples of the pictures for all -> differences -> table, JSON, plot
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cone_perception.accuracy.bootstrap import Int32, draw
from cone_perception.accuracy.intervals import Float64, Interval, percentile_interval, t_interval
from cone_perception.errors import DataError, InstallError, OutputError, SettingsError
from cone_perception.files import without_nan
from cone_perception.types import Int64
from training.judging.bootstrap import ResampledFigures
from training.judging.evaluation import FIXED_CONFIDENCE, Evaluation
from training.judging.outcome import Outcome
from training.recipe.recipe import Judging

PRIMARY = 'map50'
FEW_GROUPS = 20
"""Below this many groups a percentile interval is visibly too narrow (see verdict.md)."""

UNLEARNT_MAP50 = 0.02

TITLES = {
    'map50': 'mAP50',
    'map50_95': 'mAP50-95',
    'precision': 'precision (best F1)',
    'recall': 'recall (best F1)',
    'precision_fixed': 'precision (fixed confidence)',
    'recall_fixed': 'recall (fixed confidence)',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = Judging()
    parser.add_argument(
        'models',
        nargs='+',
        metavar='[NAME=]FOLDER[,FOLDER]',
        help='what `cone-training evaluate` wrote; several joined by commas are trainings of one '
        'recipe with other seeds. Each is compared with the first: above 0 the first is better',
    )
    parser.add_argument(
        '--published',
        action='append',
        default=[],
        metavar='NAME=MAP50',
        help='a figure to compare the first with, without pairing; may be given several times',
    )
    parser.add_argument('--resamples', type=int, default=usual.resamples)
    parser.add_argument(
        '--block',
        type=int,
        default=usual.block,
        metavar='FILES',
        help='resample drives, or so many consecutive files, as one; 1: pictures (default: '
        f'{usual.block})',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the resampling (default: 0)')
    parser.add_argument('--margin', type=float, default=usual.margin, help='what counts as equal')
    parser.add_argument(
        '--confidence', type=float, default=usual.confidence, help='the fixed operating point'
    )
    parser.add_argument('--json', type=Path, help='write all figures here')
    parser.add_argument('--plot', type=Path, help='write a plot of the differences (svg or png)')


def run(args: argparse.Namespace) -> int:
    if args.resamples < 100 or args.block < 1:
        raise SettingsError('--resamples must be at least 100, --block at least 1.')
    published = dict(_published(text) for text in args.published)
    names, arms = zip(*map(_read_arm, args.models), strict=True)
    if len(arms) == 1 and not published:
        raise SettingsError('nothing to compare with: give a second folder, or --published.')
    settings = {name: getattr(args, name) for name in ('resamples', 'block', 'seed', 'confidence')}
    comparisons = [
        compare(arms[0], arm, **settings, names=(names[0], name), progress=sys.stderr.isatty())
        for name, arm in zip(names[1:], arms[1:], strict=True)
    ]
    own = comparisons[0].own if comparisons else interval(arms[0], **settings)
    for comparison in comparisons:
        print(table(comparison, args.margin), end='\n\n')
    against = {name: against_published(own, value) for name, value in published.items()}
    for name, difference in against.items():
        print(published_meaning(names[0], name, difference, args.margin))
    if args.json:
        stored = {
            'margin': args.margin,
            'comparisons': [
                {**each.to_json(), 'meaning': meaning(each, args.margin)} for each in comparisons
            ],
            'own': {name: asdict(figure) for name, figure in own.items()},
            'published': {name: asdict(difference) for name, difference in against.items()},
        }
        _write(args.json, (json.dumps(without_nan(stored), indent=2) + '\n').encode())
    if args.plot:
        _write(args.plot, plot(comparisons, args.margin, args.plot.suffix.lstrip('.') or 'svg'))
    return 0


@dataclass(frozen=True, slots=True)
class Difference:
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
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Difference:
        """The difference of one figure; KeyError."""
        for difference in self.differences:
            if difference.name == name:
                return difference
        raise KeyError(name)

    @property
    def own(self) -> dict[str, Interval]:
        """Figures of a, each with its own interval."""
        return {difference.name: difference.a for difference in self.differences}

    @property
    def deciding(self) -> Interval:
        """The interval that a decision goes by: the strategy's where both arms have seeds."""
        primary = self[PRIMARY]
        return primary.strategy or primary.difference

    def to_json(self) -> dict[str, Any]:
        """As comparison.json holds it; NaN becomes null."""
        stored: dict[str, Any] = without_nan(asdict(self))
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` made."""
        differences = tuple(
            Difference(
                name=row['name'],
                a=Interval.from_json(row['a']),
                b=Interval.from_json(row['b']),
                difference=Interval.from_json(row['difference']),
                a_by_seed=tuple(map(_number, row['a_by_seed'])),
                b_by_seed=tuple(map(_number, row['b_by_seed'])),
                strategy=Interval.from_json(row['strategy']) if row['strategy'] else None,
            )
            for row in stored['differences']
        )
        warnings = tuple(stored['warnings'])
        known = {name: stored[name] for name in cls.__slots__}
        return cls(**{**known, 'differences': differences, 'warnings': warnings})


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
    arms = [_evaluations(a), _evaluations(b)]
    first = arms[0][0]
    for name, arm in zip(names, arms, strict=True):
        for other in arm:
            _refuse_other_data(first, other, names[0], name)
    group, grouping = first.groups(block)
    names_of_figures, point, drawn = _resample(
        [*arms[0], *arms[1]], group, resamples, seed, confidence, progress
    )
    split = len(arms[0])
    differences = tuple(
        _difference(name, point[:, i], drawn[:, :, i], split, int(group.max()) + 1)
        for i, name in enumerate(names_of_figures)
    )
    return Comparison(
        a=names[0],
        b=names[1],
        data_sha256=first.origin.data_sha256,
        pictures=len(first.image_names),
        cones=first.truth_count,
        grouping=grouping,
        groups=int(group.max()) + 1,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
        differences=differences,
        warnings=(
            *_unlearnt(differences[names_of_figures.index(PRIMARY)]),
            *_warnings(arms, names, group, grouping),
        ),
    )


def interval(
    a: Arm,
    resamples: int = 1000,
    block: int = 1,
    seed: int = 0,
    *,
    confidence: float = FIXED_CONFIDENCE,
) -> dict[str, Interval]:
    """Every figure of one arm with its own interval: what is there without a second model."""
    arm = _evaluations(a)
    for other in arm:
        _refuse_other_data(arm[0], other, 'the first', 'another')
    group, _ = arm[0].groups(block)
    names, point, drawn = _resample(arm, group, resamples, seed, confidence)
    return {
        name: percentile_interval(point[:, i].mean(), drawn[:, :, i].mean(axis=1))
        for i, name in enumerate(names)
    }


def outcome_of(difference: Interval, margin: float) -> Outcome:
    """What an interval says. The rule and its consequences: docs/decisions/verdict.md.

    Inside -margin..margin: equal, whatever side of 0 it lies on. Else all above 0: better; all
    below 0: worse. Else inconclusive, and so is what is not defined.
    """
    if -margin <= difference.low and difference.high <= margin:
        return Outcome.EQUAL
    if difference.low > 0:
        return Outcome.BETTER
    if difference.high < 0:
        return Outcome.WORSE
    return Outcome.INCONCLUSIVE


def meaning(comparison: Comparison, margin: float) -> str:
    """One sentence: what the comparison says on the primary figure."""
    found = comparison.deciding
    by = (
        'over pictures and trainings'
        if comparison[PRIMARY].strategy
        else 'over pictures, for this pair of weights, not for their ways of training'
    )
    size = f'by {abs(found.value):.4f} mAP50 (95 %: {found.low:+.4f} to {found.high:+.4f}, {by})'
    a, b = comparison.a, comparison.b
    return {
        Outcome.EQUAL: f'{a} and {b} are equal within {margin:g}: they differ {size}.',
        Outcome.BETTER: f'{a} is better than {b} {size}.',
        Outcome.WORSE: f'{a} is worse than {b} {size}.',
        Outcome.INCONCLUSIVE: f'Not enough evidence between {a} and {b}: they differ {size}.',
    }[outcome_of(found, margin)]


def against_published(own: Mapping[str, Interval], figure: float, name: str = PRIMARY) -> Interval:
    """A model's figure less a published one, which is taken as exact: its own error is unknown."""
    found = own[name]
    return Interval(found.value - figure, found.low - figure, found.high - figure)


def published_meaning(name: str, published: str, difference: Interval, margin: float) -> str:
    """One sentence on `against_published`."""
    return (
        f'{name} against {published} (published, not paired): {difference.signed} mAP50: '
        f'{outcome_of(difference, margin).label}.'
    )


def table(comparison: Comparison, margin: float) -> str:
    """What is printed: where it comes from, a line for each figure, what it means."""
    a, b = comparison.a, comparison.b
    lines = [
        f'{a} against {b}: {comparison.pictures} pictures, {comparison.cones} cones; '
        f'{comparison.resamples} resamples of {comparison.groups} groups (each a '
        f'{comparison.grouping})',
        f'{"":32}{"first":>8}{"second":>8}{"difference":>12}  95 %',
    ]
    for row in comparison.differences:
        says = outcome_of(row.difference, margin).label
        lines.append(
            f'  {row.title:30}{row.a.value:8.4f}{row.b.value:8.4f}{row.difference.value:+12.4f}'
            f'  {row.difference.low:+.4f} to {row.difference.high:+.4f}  {says}'
        )
    primary = comparison[PRIMARY]
    if max(len(primary.a_by_seed), len(primary.b_by_seed)) > 1:
        for name, values in ((a, primary.a_by_seed), (b, primary.b_by_seed)):
            lines.append(f'mAP50 by seed, {name}: {seed_text(values)}')
    if primary.strategy:
        lines.append(f'mAP50 over pictures and trainings: {primary.strategy.signed}')
    lines += [f'Note: {warning}' for warning in comparison.warnings]
    lines.append(
        f'Of {len(comparison.differences)} intervals one is expected to miss the truth: mAP50 '
        'decides, the others describe.'
    )
    return '\n'.join([*lines, meaning(comparison, margin)])


def seed_text(values: Sequence[float]) -> str:
    """Figures of one arm's trainings, and how much they scatter."""
    each = ', '.join(f'{value:.4f}' for value in values)
    if len(values) == 1:
        return f'{each} (one training: nothing is known of the scatter)'
    return f'{each} (standard deviation {np.std(values, ddof=1):.4f})'


def plot(comparisons: Sequence[Comparison], margin: float, kind: str = 'svg') -> bytes:
    """A forest plot: each figure's difference with its interval, beside what counts as equal."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InstallError(
            'a plot needs matplotlib: install the extra `train`, or leave --plot out.'
        ) from error
    if not comparisons:
        raise SettingsError('--plot needs a second model: a published figure alone is one number.')
    rows = [row for comparison in comparisons for row in comparison.differences]
    height = 0.8 + 0.26 * len(rows) + 0.5 * len(comparisons)
    figure = Figure(figsize=(8.5, height), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(comparisons), 1, squeeze=False, sharex=True)[:, 0]
    for axis, comparison in zip(axes, comparisons, strict=True):
        shown = [row for row in comparison.differences if math.isfinite(row.difference.low)]
        axis.axvspan(-margin, margin, color='0.9', label=f'equal within {margin:g}')
        axis.axvline(0, color='0.4', linewidth=0.8)
        for place, row in enumerate(shown):
            found = row.difference
            clear = found.low > 0 or found.high < 0
            colour = '#1f6fb4' if clear else '0.45'
            if row.strategy:
                axis.plot([row.strategy.low, row.strategy.high], [place] * 2, color=colour, lw=0.8)
            axis.plot([found.low, found.high], [place] * 2, color=colour, lw=3, alpha=0.6)
            axis.plot([found.value], [place], 'o', color=colour, markersize=5)
        axis.set_yticks(range(len(shown)), [row.title for row in shown])
        axis.invert_yaxis()
        axis.set_title(f'{comparison.a} minus {comparison.b}', loc='left', fontsize=10)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel(
        'difference, 95 % interval over pictures (thin: over trainings too); right of 0: '
        f'{comparisons[0].a} is better; grey: equal within {margin:g}',
        fontsize=8,
    )
    stream = io.BytesIO()
    try:
        figure.savefig(stream, format=kind)
    except ValueError as error:
        raise SettingsError(f'a plot cannot be written as {kind}: name it .svg or .png.') from error
    return stream.getvalue()


def _read_arm(text: str) -> tuple[str, list[Evaluation]]:
    """`[NAME=]FOLDER[,FOLDER]`."""
    name, separator, folders = text.rpartition('=')
    return name if separator else text, [
        Evaluation.load(Path(folder)) for folder in folders.split(',')
    ]


def _published(text: str) -> tuple[str, float]:
    name, _, figure = text.rpartition('=')
    try:
        value = float(figure)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value <= 1:
        raise SettingsError(f'--published {text}: give a name and a figure, production=0.6655.')
    return name, value


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f'{path} cannot be written: {error}') from error


def _resample(
    evaluations: Sequence[Evaluation],
    group: Int64,
    resamples: int,
    seed: int,
    confidence: float,
    progress: bool = False,
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


def _difference(name: str, point: Float64, drawn: Float64, split: int, groups: int) -> Difference:
    """One figure. point: (E,), drawn: (R, E); the first `split` evaluations are a's."""
    a, b = point[:split], point[split:]
    drawn_a, drawn_b = drawn[:, :split].mean(axis=1), drawn[:, split:].mean(axis=1)
    value = float(a.mean() - b.mean())
    return Difference(
        name=name,
        a=percentile_interval(a.mean(), drawn_a),
        b=percentile_interval(b.mean(), drawn_b),
        difference=percentile_interval(value, drawn_a - drawn_b),
        a_by_seed=tuple(map(float, a)),
        b_by_seed=tuple(map(float, b)),
        strategy=_strategy(value, a, b, float(np.nanvar(drawn_a - drawn_b)), groups)
        if len(a) > 1 and len(b) > 1 and math.isfinite(value)
        else None,
    )


def _strategy(value: float, a: Float64, b: Float64, of_pictures: float, groups: int) -> Interval:
    """The t interval of the difference over pictures and trainings.

    The variance of the mean over each arm's seeds adds to that of the pictures; degrees of freedom
    by Welch and Satterthwaite, so two seeds an arm get the wide interval that they deserve.
    """
    variances = (of_pictures, a.var(ddof=1) / len(a), b.var(ddof=1) / len(b))
    return t_interval(value, variances, (max(groups - 1, 1), len(a) - 1, len(b) - 1))


def _evaluations(arm: Arm) -> list[Evaluation]:
    found = [arm] if isinstance(arm, Evaluation) else list(arm)
    if not found:
        raise ValueError('an arm needs at least one evaluation')
    return found


def _refuse_other_data(a: Evaluation, b: Evaluation, name_a: str, name_b: str) -> None:
    """Raise DataError naming what differs."""
    ours, theirs = set(a.image_names), set(b.image_names)
    if a.class_names != b.class_names:
        what = f'classes {", ".join(a.class_names)} and {", ".join(b.class_names)}'
    elif ours != theirs:
        example = min(ours ^ theirs)
        what = (
            f'{len(ours - theirs)} pictures only in {name_a}, {len(theirs - ours)} only in '
            f'{name_b}, as {example}'
        )
    elif a.origin.data_sha256 != b.origin.data_sha256:
        what = (
            f'the same file names, but other pictures or labels: {a.truth_count} and '
            f'{b.truth_count} cones, sha256 {a.origin.data_sha256[:12]} ({a.origin.data}, '
            f'{a.origin.split}) and {b.origin.data_sha256[:12]} ({b.origin.data}, '
            f'{b.origin.split})'
        )
    else:
        return
    raise DataError(
        f'{name_a} and {name_b} cannot be paired: {what}. Evaluate both on the same split.'
    )


def _unlearnt(primary: Difference) -> tuple[str, ...]:
    """Two models that find nothing are equal, which is no merit of either."""
    if not max(primary.a.value, primary.b.value) < UNLEARNT_MAP50:
        return ()
    return (
        f'Both are below {UNLEARNT_MAP50:g} mAP50: neither has learnt to find cones, so how they '
        'compare says nothing yet.',
    )


def _warnings(
    arms: Sequence[Sequence[Evaluation]], names: tuple[str, str], group: Int64, grouping: str
) -> tuple[str, ...]:
    found = []
    groups = int(group.max()) + 1
    if groups < FEW_GROUPS:
        found.append(
            f'Only {groups} groups ({grouping}) to resample: the intervals are rough, and rather '
            'too narrow.'
        )
    if grouping == 'picture':
        found.append(
            'Resampled by picture: neighbouring pictures of one drive are alike, so the intervals '
            'are rather too narrow.'
        )
    single = [name for name, arm in zip(names, arms, strict=True) if len(arm) == 1]
    if single:
        found.append(
            f'One training of {" and of ".join(single)}: the intervals speak of these weights. '
            'Another seed would give others.'
        )
    elif min(map(len, arms)) < 5:
        found.append(
            f'{len(arms[0])} and {len(arms[1])} trainings: how much they scatter is hardly known '
            'from so few, and the interval over trainings is wide because of it.'
        )
    for fact in ('imgsz', 'layout', 'precision'):
        seen = {str(getattr(each.origin, fact)) for arm in arms for each in arm}
        if len(seen) > 1:
            found.append(f'{fact} is not the same for all: {", ".join(sorted(seen))}.')
    return tuple(found)


def _number(stored: float | None) -> float:
    return math.nan if stored is None else float(stored)


if __name__ == '__main__':
    from training.cli import main

    sys.exit(main(['compare', *sys.argv[1:]]))
