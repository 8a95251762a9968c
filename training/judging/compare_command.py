"""`cone-training compare`: paired differences between evaluated models, as table, JSON and plot."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cone_perception.errors import OutputError, SettingsError, told_as
from cone_perception.files import write_json
from cone_perception.pages.blocks import Page, Section
from cone_perception.pages.charts import forest, intervals
from cone_perception.pages.page import write_page
from training.judging.compare import Comparison, compare, interval, meaning
from training.judging.evaluation import Evaluation, load_evaluation
from training.judging.metrics import PRIMARY
from training.judging.verdict import outcome_of
from training.recipe.recipe import Judging


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
    parser.add_argument(
        '--plot', type=Path, help='write a page with plots of the differences (.html)'
    )


def run(args: argparse.Namespace) -> int:
    if args.resamples < 100 or args.block < 1:
        raise SettingsError('--resamples must be at least 100, --block at least 1.')
    if args.plot and args.plot.suffix != '.html':
        raise SettingsError(f'--plot {args.plot}: it is a page now, so name it .html.')
    published = dict(_published(text) for text in args.published)
    names, arms = zip(*map(_read_arm, args.models), strict=True)
    if len(arms) == 1 and args.plot:
        raise SettingsError('--plot needs a second model: a published figure alone is one number.')
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
    against = {name: own[PRIMARY] - value for name, value in published.items()}
    for name, difference in against.items():
        says = outcome_of(difference, args.margin).label
        print(
            f'{names[0]} against {name} (published, not paired): {difference.signed} mAP50: {says}.'
        )
    if args.json:
        stored = {
            'margin': args.margin,
            'comparisons': [
                {**each.to_json(), 'meaning': meaning(each, args.margin)} for each in comparisons
            ],
            'own': own,
            'published': against,
        }
        with told_as(OutputError, f'{args.json} cannot be written'):
            write_json(args.json, stored)
    if args.plot:
        sections = [_forest(each, args.margin) for each in comparisons]
        write_page(args.plot, Page('Differences', sections=sections))
    return 0


def table(comparison: Comparison, margin: float) -> str:
    """Table as it is printed: its origin, a line for each figure, the meaning."""
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
            scatter = (
                f'standard deviation {np.std(values, ddof=1):.4f}'
                if len(values) > 1
                else 'one training: nothing is known of the scatter'
            )
            each = ', '.join(f'{value:.4f}' for value in values)
            lines.append(f'mAP50 by seed, {name}: {each} ({scatter})')
    if primary.strategy:
        lines.append(f'mAP50 over pictures and trainings: {primary.strategy.signed}')
    lines += [f'Note: {warning}' for warning in comparison.warnings]
    lines.append(
        f'Of {len(comparison.differences)} intervals one is expected to miss the truth: mAP50 '
        'decides, the others describe.'
    )
    return '\n'.join([*lines, meaning(comparison, margin)])


def _forest(comparison: Comparison, margin: float) -> Section:
    """Each figure's difference with its interval, and what counts as equal."""
    title = f'{comparison.a} minus {comparison.b}'
    traces = []
    for name, colour, found in (
        ('over pictures', '--blue', [row.difference for row in comparison.differences]),
        ('over pictures and trainings', '--dim', [row.strategy for row in comparison.differences]),
    ):
        rows = [
            (row.title, each.value, each.low, each.high)
            for row, each in zip(comparison.differences, found, strict=True)
            if each is not None and each.known
        ]
        if rows:
            traces.append(intervals(name, rows, colour))
    caption = (
        f'Differences with 95 % intervals; right of 0 {comparison.a} is better. '
        f'Shaded: equal within {margin:g}.'
    )
    more: dict[str, Any] = {'band': (-margin, margin), 'marks': [(0.0, '')], 'caption': caption}
    return Section(title, [forest(title, traces, 'difference', **more)])


def _read_arm(text: str) -> tuple[str, list[Evaluation]]:
    """`[NAME=]FOLDER[,FOLDER]`."""
    name, _, folders = text.rpartition('=')
    paths = [Path(folder).expanduser() for folder in folders.split(',')]
    return name or text, list(map(load_evaluation, paths))


def _published(text: str) -> tuple[str, float]:
    name, _, figure = text.rpartition('=')
    try:
        value = float(figure)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value <= 1:
        raise SettingsError(f'--published {text}: give a name and a figure, production=0.6655.')
    return name, value
