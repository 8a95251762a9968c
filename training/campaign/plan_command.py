"""The command `cone-training plan`: prints what a recipe would do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from cone_perception.files import to_json
from training.campaign.cost import MEASURED_STEPS
from training.campaign.plan import CampaignPlan, StagePlan, make_plan
from training.campaign.progress import duration
from training.recipe.find import find_recipe
from training.recipe.load import load_recipe, recipe_sha256
from training.runs.folder import CampaignFolder

MISSING = 3
"""Exit status when something that the campaign needs is not there."""

HEAD = (
    *('', 'pictures', 'epochs', 'batch', 'steps', 'hours', 'optimizer', 'of'),
    *('lr start', 'warm', 'last epoch', 'final', 'final as lrf'),
)
WORDS = ('', 'optimizer', 'of')
"""Titles of the table, and those of columns that hold words."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('recipe', help='name of a shipped recipe, or a file')
    parser.add_argument(
        'overrides',
        nargs='*',
        metavar='KEY=VALUE',
        help='as stage2.lr0=0.0005; they follow the recipe, before any option',
    )
    parser.add_argument(
        '--runs', type=Path, default=Path('runs'), help='folder of all campaigns (default: runs)'
    )
    parser.add_argument('--name', help="the campaign's folder there (default: the recipe's name)")
    parser.add_argument(
        '--measure', action='store_true', help=f'time {MEASURED_STEPS} training steps here'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = f'Exit status {MISSING}: data, weights or a GPU of the recipe are not there.'


def run(args: argparse.Namespace) -> int:
    recipe = load_recipe(find_recipe(args.recipe), args.overrides)
    plan = make_plan(recipe, args.runs / (args.name or recipe.name), args.measure)
    if args.json:
        print(to_json(plan_json(plan), indent=2))
    else:
        print('\n'.join(plan_lines(plan)))
    return MISSING if plan.missing else 0


def plan_json(plan: CampaignPlan) -> dict[str, Any]:
    """The plan for programs; hours: of all arms and seeds."""
    return {
        'recipe': plan.recipe,
        'recipe_sha256': recipe_sha256(plan.recipe),
        'folder': str(plan.folder),
        'stages': list(plan.stages),
        'hours': plan.hours,
        'missing': list(plan.missing),
        'notes': list(plan.notes),
    }


def plan_lines(plan: CampaignPlan) -> Iterator[str]:
    """The plan for people."""
    recipe, folder = plan.recipe, CampaignFolder(plan.folder)
    device = f'GPU {_join(recipe.gpus)}' if recipe.gpus else 'the CPU'
    yield f'{recipe.name}: {recipe.description}'
    yield (
        f'from {recipe.model} on {device}, seeds {_join(recipe.seeds)}, '
        f'judged on the test split of {recipe.target} at {recipe.judging.imgsz} px'
    )
    seeds = f', once per seed ({len(recipe.seeds)})' if len(recipe.seeds) > 1 else ''
    for arm, stages in groupby(plan.stages, key=lambda planned: planned.arm):
        group = list(stages)
        yield from ('', f'{arm}{seeds}')
        yield from _table([HEAD, *(row for planned in group for row in _rows(planned))])
        for planned in group:
            name, data = planned.stage.name, planned.stage.data
            yield f'  {name}: {data}, {planned.counted}; {_detail(planned)}'
    yield from ('', 'writes')
    yield from (f'  {place}/' for planned in plan.stages for place in planned.folders)
    for path in (folder.recipe, folder.state, folder.events, folder.verdict, folder.report_html):
        yield f'  {path}'
    yield from (f'  {plan.folder}/data/ and {plan.folder}/evaluations/', '')
    total = 'not known' if plan.hours is None else duration(plan.hours * 3600)
    yield f'training in all: {total}, validation and judging not counted'
    for cost in dict.fromkeys(planned.cost for planned in plan.stages):
        known = [f'{cost.s_per_image * 1000:.0f} ms an image'] if cost.s_per_image else []
        known += [f'{cost.memory_gb:.1f} GB of memory'] if cost.memory_gb is not None else []
        yield f'  {": ".join(filter(None, (", ".join(known), cost.basis)))}'
    yield from (f'note: {note}' for note in plan.notes)
    yield from (f'missing: {what}' for what in plan.missing)


def _rows(planned: StagePlan) -> Iterator[list[str]]:
    """A row for each group of parameters; the first one tells of the stage too."""
    stage = planned.stage
    first = [
        stage.name,
        _number(planned.pictures),
        str(stage.epochs),
        str(stage.batch),
        _number(planned.steps),
        '?' if planned.hours is None else f'{planned.hours:.1f}',
        stage.optimizer,
    ]
    groups = {'weights': planned.weights, 'biases': planned.biases, 'class head': planned.head}
    for name, rates in groups.items():
        if rates is not None:
            shown = [f'{rate:.3g}' for rate in (rates.start, rates.warm, rates.last, rates.final)]
            yield [*first, name, *shown, f'{stage.lrf:g}']
            first = [''] * len(first)


def _detail(planned: StagePlan) -> str:
    stage = planned.stage
    if planned.batches is None:
        return 'batches and steps not known'
    patience = f'stops after {stage.patience} epochs without a better one'
    crops = stage.crops_per_picture
    parts = [
        f'{planned.batches:,} batches an epoch, {planned.accumulation} to an optimizer step '
        f'(nbs {stage.nbs})',
        f'warm-up {planned.warmup:,} batches',
        f'{planned.images:,} image passes',
        patience if 0 < stage.patience < stage.epochs else 'never stops early',
        f'first {stage.freeze} layers frozen' if stage.freeze else '',
        f'{crops} crops of {stage.imgsz} px per picture' if crops else '',
    ]
    return ', '.join(filter(None, parts))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if title in WORDS else cell.rjust(width)
            for title, cell, width in zip(HEAD, row, widths, strict=True)
        ]
        yield f'  {"  ".join(cells)}'.rstrip()


def _join(values: Sequence[int]) -> str:
    return ', '.join(map(str, values))


def _number(value: int | None) -> str:
    return '?' if value is None else f'{value:,}'
