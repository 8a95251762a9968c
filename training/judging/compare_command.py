"""`cone-training compare`: paired differences between evaluated models, as table, JSON and plot."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cone_perception.arguments import add_fields
from cone_perception.errors import OutputError, SettingsError, told_as
from cone_perception.files import write_json
from cone_perception.pages.blocks import Block, Chart, Page, Section, Table, Text
from cone_perception.pages.charts import Trace, forest, intervals
from cone_perception.pages.page import write_page
from training.judging.compare import Comparison, compare_all, meaning
from training.judging.evaluation import load_evaluation
from training.judging.metrics import PRIMARY
from training.judging.page import print_blocks, shown, span
from training.judging.verdict import outcome_of
from training.recipe.recipe import Judging


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_fields(parser, Judging, ('confidence', 'margin', 'resamples', 'block'))
    parser.add_argument('--seed', type=int, default=0, help='of the resampling (0)')
    parser.add_argument('--json', type=Path, help='write all figures here')
    parser.add_argument(
        '--plot', type=Path, help='write a page with plots of the differences (.html)'
    )


def run(args: argparse.Namespace) -> int:
    if args.resamples < 100 or args.block < 1:
        raise SettingsError('--resamples must be at least 100, --block at least 1.')
    if args.plot and args.plot.suffix != '.html':
        raise SettingsError(f'--plot {args.plot}: it is a page now, so name it .html.')
    published = dict(map(_published, args.published))
    arms = []
    for text in args.models:
        name, _, folders = text.rpartition('=')
        paths = [Path(folder).expanduser() for folder in folders.split(',')]
        arms.append((name or text, list(map(load_evaluation, paths))))
    if len(arms) == 1 and args.plot:
        raise SettingsError('--plot needs a second model: a published figure alone is one number.')
    if len(arms) == 1 and not published:
        raise SettingsError('nothing to compare with: give a second folder, or --published.')
    settings = {name: getattr(args, name) for name in ('resamples', 'block', 'seed', 'confidence')}
    settings['progress'] = sys.stderr.isatty()
    comparisons, stored = compare_all(arms, args.margin, **settings)
    for comparison in comparisons:
        print_blocks(comparison_blocks(comparison, args.margin))
        print()
    against = {name: stored['own'][PRIMARY] - value for name, value in published.items()}
    for name, difference in against.items():
        told = f'{difference.signed} mAP50: {outcome_of(difference, args.margin).label}'
        print(f'{arms[0][0]} against {name} (published, not paired): {told}.')
    if args.json:
        with told_as(OutputError, f'{args.json} cannot be written'):
            write_json(args.json, {**stored, 'published': against})
    if args.plot:
        sections = [
            Section(
                f'{each.a} minus {each.b}',
                [_forest(each, args.margin), *comparison_blocks(each, args.margin)],
            )
            for each in comparisons
        ]
        write_page(args.plot, Page('Differences', sections=sections, wide=True))
    return 0


def comparison_blocks(comparison: Comparison, margin: float) -> Iterator[Block]:
    """The meaning, every figure with its difference, what limits them."""
    a, b = comparison.a, comparison.b
    yield Text(f'{a} against {b}: {meaning(comparison, margin)}')
    rows = [
        [
            row.title,
            shown(row.a.value),
            shown(row.b.value),
            shown(row.difference.value, '+.4f'),
            span(row.difference),
            outcome_of(row.difference, margin).label,
            span(row.strategy) if row.strategy else '',
        ]
        for row in comparison.differences
    ]
    columns = ['', a, b, 'difference', '95 % over pictures', 'says', 'over pictures and trainings']
    kept = slice(None) if any(row[-1] for row in rows) else slice(-1)
    yield Table(
        columns[kept],
        [row[kept] for row in rows],
        words=[5],
        strong=[0],
        note='All boxes where a row names no height. '
        f'{comparison.pictures} pictures with {comparison.cones} cones; '
        f'{comparison.resamples} resamples of {comparison.groups} groups (each a '
        f'{comparison.grouping}). Of so many intervals one is expected to miss the truth: mAP50 '
        f'decides, the others describe. {" ".join(comparison.warnings)}',
    )
    primary = comparison[PRIMARY]
    for name, values in ((a, primary.a_by_seed), (b, primary.b_by_seed)):
        if len(values) > 1:
            each = ', '.join(f'{value:.4f}' for value in values)
            scatter = f'standard deviation {np.std(values, ddof=1):.4f}'
            yield Text(f'mAP50 by seed, {name}: {each} ({scatter})')


def _forest(comparison: Comparison, margin: float) -> Chart:
    """Each figure's difference with its interval, and what counts as equal."""
    traces = []
    for name, colour, of in (
        ('over pictures', '--blue', 'difference'),
        ('over pictures and trainings', '--dim', 'strategy'),
    ):
        rows = [
            (row.title, each.value, each.low, each.high)
            for row in comparison.differences
            if (each := getattr(row, of)) and each.known
        ]
        if rows:
            traces.append(intervals(name, rows, colour))
    return difference_chart(f'{comparison.a} minus {comparison.b}', traces, comparison.a, margin)


def difference_chart(
    name: str, traces: Sequence[Trace], a: str, margin: float, note: str = ''
) -> Chart:
    """Differences of a from others with their intervals, and what counts as equal."""
    return forest(
        name,
        traces,
        'difference',
        band=(-margin, margin),
        marks=[(0.0, '')],
        caption=f'Differences with 95 % intervals; right of 0 {a} is better. Shaded: equal within '
        f'{margin:g}. {note}',
    )


def _published(text: str) -> tuple[str, float]:
    name, _, figure = text.rpartition('=')
    try:
        value = float(figure)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value <= 1:
        raise SettingsError(f'--published {text}: give a name and a figure, production=0.6655.')
    return name, value
