"""The command `cone-training plan`: tells what a recipe would do, and starts and writes nothing."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from cone_perception.arguments import text_table
from cone_perception.dataset.layout import read_layout
from cone_perception.errors import DataError, RecipeError
from cone_perception.files import to_json, without_nan
from training.campaign.cost import MEASURED_STEPS, Cost, known_cost, measure_cost
from training.recipe.load import DEFAULT_RECIPE, find_model, read_recipe, recipe_sha256
from training.recipe.recipe import Arm, Recipe, Stage, arms, used_datasets
from training.runs.folder import CampaignFolder
from training.runs.machine import read_gpus
from training.runs.progress import duration
from training.stage.guards import (
    MUON_HEAD,
    expected_accumulation,
    expected_rate,
    rate_share,
    warmup_batches,
)


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of one group of parameters.

    start: in the first batch. warm: in the batch that ends the warm-up. last: in the last epoch.
    final: where the schedule leads to, lr0 * lrf, one epoch after the last.
    """

    start: float
    warm: float
    last: float
    final: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Work of one stage of an arm, once per seed.

    pictures: of one epoch, crops counted; None: neither on disk nor in the recipe.
    counted: where that number is from. batches: of an epoch. accumulation: batches to an
    optimizer step after warm-up. warmup: batches of it. steps: of the optimizer, in all.
    images: passes in all. weights, biases: and `head` with MuSGD, which learns its class head
    quicker. hours: of training alone, without validation. folders: one per seed.
    """

    arm: str
    stage: Stage
    pictures: int | None
    counted: str
    weights: Rates
    biases: Rates
    head: Rates | None
    cost: Cost
    folders: tuple[Path, ...]
    batches: int | None = None
    accumulation: int | None = None
    warmup: int | None = None
    steps: int | None = None
    images: int | None = None
    hours: float | None = None


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """A recipe's plan. missing: what has to be there and is not. notes: worth knowing."""

    recipe: Recipe
    folder: Path
    stages: list[StagePlan]
    missing: list[str]
    notes: list[str]

    @property
    def hours(self) -> float | None:
        """Hours of training, all arms and seeds; None where one is not known."""
        known = [stage.hours for stage in self.stages if stage.hours is not None]
        return sum(known) * len(self.recipe.seeds) if len(known) == len(self.stages) else None


def make_plan(recipe: Recipe, folder: Path, measure: bool = False) -> CampaignPlan:
    """Plan what the recipe would do. measure: time a few steps instead of looking the cost up."""
    missing: list[str] = []
    try:
        find_model(recipe.model)
    except RecipeError as error:
        missing.append(str(error))
    pictures = {key: _count(recipe, key, missing) for key in used_datasets(recipe)}
    gpus = len(read_gpus())
    if recipe.gpus and max(recipe.gpus) >= gpus:
        missing.append(f'GPU {max(recipe.gpus)}: the NVIDIA driver shows {gpus} here (device=cpu)')
    notes = []
    if CampaignFolder(folder).state.exists():
        notes.append(f'{folder} holds a campaign already: --resume goes on with it, --name starts')
    costs: dict[tuple[int, int, int], Cost] = {}
    stages = []
    for arm in arms(recipe):
        for stage in arm.stages:
            shape = (stage.imgsz, stage.batch, stage.freeze)
            if shape not in costs:
                costs[shape] = measure_cost(recipe, stage) if measure else known_cost(recipe, stage)
            stages.append(_plan_stage(recipe, folder, arm, stage, pictures, costs[shape]))
            if stage.warmup_epochs > stage.epochs - 1:
                notes.append(
                    f'{arm.name} {stage.name}: warm-up ends after {stage.epochs - 1} of its '
                    f'{stage.warmup_epochs:g} epochs: Ultralytics keeps the last epoch free'
                )
    if len(recipe.seeds) == 1:
        notes.append('one seed per arm judges this pair of weights, not the strategy')
    return CampaignPlan(recipe, folder, stages, missing, notes)


def _count(recipe: Recipe, key: str, missing: list[str]) -> tuple[int | None, str]:
    """Training pictures of a data set, and where the number is from."""
    dataset, folder = recipe.datasets[key], recipe.data_folder(key)
    expected = dataset.images.get('train')
    try:
        recipe.check_data_folder(key)
        splits = read_layout(folder).splits
    except DataError as error:
        missing.append(str(error))
        return expected, 'expected by the recipe' if expected is not None else 'not known'
    for split, count in dataset.images.items():
        if len(splits.get(split, ())) != count:
            missing.append(
                f'{folder}: {split} has {len(splits.get(split, ()))} pictures, the recipe says '
                f'{count} (datasets.{key}.images.{split})'
            )
    return len(splits.get('train', ())), 'on disk'


def _plan_stage(
    recipe: Recipe,
    folder: Path,
    arm: Arm,
    stage: Stage,
    found: Mapping[str, tuple[int | None, str]],
    cost: Cost,
) -> StagePlan:
    total, counted = found[stage.data]
    pictures = max(1, round((total or 0) * stage.fraction)) * max(1, stage.crops_per_picture)
    batches = count_batches(pictures, stage.batch, len(recipe.gpus)) if total else 1000
    where, muon = CampaignFolder(folder), stage.optimizer == 'MuSGD'
    planned = StagePlan(
        arm=arm.name,
        stage=stage,
        pictures=pictures if total else None,
        counted=counted,
        weights=stage_rates(stage, batches, stage.lr0, bias=False),
        biases=stage_rates(stage, batches, stage.lr0, bias=True),
        head=stage_rates(stage, batches, stage.lr0 * MUON_HEAD, bias=False) if muon else None,
        cost=cost,
        folders=tuple(
            where.stage(recipe, f'{arm.name}/seed{seed}', stage) for seed in recipe.seeds
        ),
    )
    if not total:
        return planned
    images, s_per_image = pictures * stage.epochs, cost.s_per_image
    return replace(
        planned,
        batches=batches,
        accumulation=expected_accumulation(stage, batches),
        warmup=warmup_batches(stage, batches),
        steps=optimizer_steps(stage, batches),
        images=images,
        hours=images * s_per_image / 3600 if s_per_image is not None else None,
    )


def count_batches(pictures: int, batch: int, gpus: int = 1) -> int:
    """Batches of an epoch: each GPU has its share of the pictures and of the batch."""
    gpus = max(gpus, 1)
    return math.ceil(math.ceil(pictures / gpus) / max(batch // gpus, 1))


def stage_rates(stage: Stage, batches: int, peak: float, bias: bool) -> Rates:
    """Learning rates as Ultralytics sets them; batches: of an epoch."""
    return Rates(
        start=expected_rate(stage, peak, bias, 0, batches),
        warm=expected_rate(stage, peak, bias, warmup_batches(stage, batches), batches),
        last=peak * rate_share(stage, stage.epochs - 1),
        final=peak * stage.lrf,
    )


def optimizer_steps(stage: Stage, batches: int) -> int:
    """Optimizer steps of a stage; batches: of an epoch.

    Batches are gathered until there are nbs pictures. In the warm-up Ultralytics gathers fewer:
    their number rises from 1, and a step is due once so many have come since the last one.
    """
    total, warmup = batches * stage.epochs, warmup_batches(stage, batches)
    full = expected_accumulation(stage, batches)
    steps, last = 0, -1
    for batch in range(min(total, warmup + 1) if warmup else 0):
        if batch - last >= max(1, round(1 + (full - 1) * batch / warmup)):
            steps, last = steps + 1, batch
    return steps + (total - 1 - last) // full


MISSING = 3
"""Exit status when something that the campaign needs is not there."""

HEAD = (
    *('', 'pictures', 'epochs', 'batch', 'steps', 'hours', 'optimizer', 'of'),
    *('lr start', 'warm', 'last epoch', 'final', 'final as lrf'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument(
        '--measure', action='store_true', help=f'time {MEASURED_STEPS} training steps here'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = f'Exit status {MISSING}: data, weights or a GPU of the recipe are not there.'


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a recipe and its campaign's folder, for `plan` and `two-stage`."""
    parser.add_argument(
        'recipe',
        nargs='*',
        metavar='RECIPE | KEY=VALUE',
        help=f'a recipe (default: {DEFAULT_RECIPE}) and changes, as stage2.lr0=0.0005; before any '
        'option',
    )
    parser.add_argument(
        '--runs', type=Path, default=Path('runs'), help='folder of all campaigns (default: runs)'
    )
    parser.add_argument('--name', help="the campaign's folder there (default: the recipe's name)")


def run(args: argparse.Namespace) -> int:
    recipe = read_recipe(args.recipe)
    plan = make_plan(recipe, args.runs / (args.name or recipe.name), args.measure)
    if args.json:
        known = {'recipe_sha256': recipe_sha256(recipe), 'hours': plan.hours}
        print(to_json({**without_nan(plan), **known}, indent=2))
    else:
        print('\n'.join(plan_lines(plan)))
    return MISSING if plan.missing else 0


def plan_lines(plan: CampaignPlan) -> Iterator[str]:
    """The plan for people."""
    recipe, folder = plan.recipe, CampaignFolder(plan.folder)
    gpus, seeds = (', '.join(map(str, numbers)) for numbers in (recipe.gpus, recipe.seeds))
    device = f'GPU {gpus}' if gpus else 'the CPU'
    yield f'{recipe.name}: {recipe.description}'
    yield (
        f'from {recipe.model} on {device}, seeds {seeds}, '
        f'judged on the test split of {recipe.target} at {recipe.judging.imgsz} px'
    )
    times = f', once per seed ({len(recipe.seeds)})' if len(recipe.seeds) > 1 else ''
    for arm, stages in groupby(plan.stages, key=lambda planned: planned.arm):
        group = list(stages)
        yield from ('', f'{arm}{times}')
        rows = [HEAD, *(row for planned in group for row in _rows(planned))]
        yield from (f'  {line}' for line in text_table(rows, [0, 6, 7]))
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
    known = [
        '?' if value is None else f'{value:{form}}'
        for value, form in (
            *((planned.pictures, ','), (stage.epochs, ''), (stage.batch, '')),
            *((planned.steps, ','), (planned.hours, '.1f')),
        )
    ]
    first = [stage.name, *known, stage.optimizer]
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
    crops, widths = stage.crops_per_picture, ', '.join(map(str, stage.crop_widths))
    parts = [
        f'{planned.batches:,} batches an epoch, {planned.accumulation} to an optimizer step '
        f'(nbs {stage.nbs})',
        f'warm-up {planned.warmup:,} batches',
        f'{planned.images:,} image passes',
        patience if 0 < stage.patience < stage.epochs else 'never stops early',
        f'first {stage.freeze} layers frozen' if stage.freeze else '',
        f'{crops} crops of {stage.imgsz} px per picture, at widths {widths}' if crops else '',
    ]
    return ', '.join(filter(None, parts))
