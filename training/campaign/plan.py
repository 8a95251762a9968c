"""The command `cone-training plan`: what a recipe would do, without starting or writing anything.

recipe -> arms -> a plan per stage: pictures, steps, learning rates, time, memory, folders
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cone_perception.dataset.layout import read_layout
from cone_perception.errors import DataError, RecipeError
from cone_perception.files import to_json
from training.recipe.find import find_model, find_recipe
from training.recipe.load import load_recipe, recipe_sha256
from training.recipe.recipe import Arm, Recipe, Stage, arms, used_datasets
from training.runs.folder import CampaignFolder, run_id
from training.runs.machine import read_gpus
from training.stage.guards import (
    MUON_HEAD,
    expected_accumulation,
    expected_rate,
    rate_share,
    warmup_batches,
)

MISSING = 3
"""Exit status when something that the campaign needs is not there."""

MEASURED_PX, MEASURED_BATCH = 320, 16
MEASURED = {
    ('yolo12n', True): (42, 1.1),
    ('yolo26n', True): (25, 1.1),
    ('yolo26n', False): (51, 1.6),
}
"""Network, amp -> milliseconds per training image on a CPU, and resident memory in GB.

On a CPU amp means bfloat16 (`training/stage/sharded_trainer.py`).
Measured as `--measure` does, the quickest
of two to four runs on two cores of an AMD EPYC with avx512_bf16 and torch 2.13; reading pictures
and validation come on top, and beside other work it takes up to twice as long.
"""

BASE_GB = 0.5
"""Memory without a picture. The rest grows with pixels: a YOLO12n at 640 px took, with batches
of 8 and 16 in bfloat16, 1.9 and 3.3 GB."""

STRATEGY_S_PER_IMAGE = 4.5 * 86400 / (200 * 19975 + 150 * 7120)
"""YOLO12n at 640 on the GPU of the strategy, which it does not name: 4 to 5 days in all."""

MEASURED_STEPS = 3
BOXES = 17
"""Per picture when steps are measured: the mean of FSOCO-12 (12,054 on 689 pictures)."""


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
class Cost:
    """Measured or estimated. s_per_image: of training alone; None: not known. basis: from what."""

    s_per_image: float | None
    memory_gb: float | None
    basis: str


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage of an arm would do, once per seed.

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
    batches: int | None
    accumulation: int | None
    warmup: int | None
    steps: int | None
    images: int | None
    weights: Rates
    biases: Rates
    head: Rates | None
    cost: Cost
    hours: float | None
    folders: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """A recipe's plan. missing: what has to be there and is not. notes: worth knowing."""

    recipe: Recipe
    folder: Path
    stages: tuple[StagePlan, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def hours(self) -> float | None:
        """Of training, all arms and seeds; None where one is not known."""
        known = [stage.hours for stage in self.stages if stage.hours is not None]
        return sum(known) * len(self.recipe.seeds) if len(known) == len(self.stages) else None


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


def make_plan(recipe: Recipe, folder: Path, measure: bool = False) -> CampaignPlan:
    """What the recipe would do in the folder of its campaign.

    measure: time a few training steps instead of looking the cost up.
    """
    missing: list[str] = []
    try:
        find_model(recipe.model)
    except RecipeError as error:
        missing.append(str(error))
    pictures = {key: _count(recipe, key, missing) for key in used_datasets(recipe)}
    gpus = len(read_gpus())
    if recipe.gpus and max(recipe.gpus) >= gpus:
        missing.append(f'GPU {max(recipe.gpus)}: the NVIDIA driver shows {gpus} here (device=cpu)')
    costs: dict[tuple[int, int, int], Cost] = {}
    stages = []
    for arm in arms(recipe):
        for stage in arm.stages:
            shape = (stage.imgsz, stage.batch, stage.freeze)
            if shape not in costs:
                costs[shape] = measure_cost(recipe, stage) if measure else known_cost(recipe, stage)
            stages.append(_plan_stage(recipe, folder, arm, stage, pictures, costs[shape]))
    return CampaignPlan(
        recipe, folder, tuple(stages), tuple(missing), tuple(_notes(recipe, folder))
    )


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


def _notes(recipe: Recipe, folder: Path) -> list[str]:
    notes = []
    if CampaignFolder(folder).state.exists():
        notes.append(f'{folder} holds a campaign already: --resume goes on with it, --name starts')
    for arm in arms(recipe):
        for stage in arm.stages:
            if stage.warmup_epochs > stage.epochs - 1:
                notes.append(
                    f'{arm.name} {stage.name}: warm-up ends after {stage.epochs - 1} of its '
                    f'{stage.warmup_epochs:g} epochs: Ultralytics keeps the last epoch free'
                )
    if len(recipe.seeds) == 1:
        notes.append('one seed per arm judges this pair of weights, not the strategy')
    return notes


def _plan_stage(
    recipe: Recipe,
    folder: Path,
    arm: Arm,
    stage: Stage,
    found: Mapping[str, tuple[int | None, str]],
    cost: Cost,
) -> StagePlan:
    total, counted = found[stage.data]
    pictures = batches = images = hours = None
    if total:
        pictures = max(1, round(total * stage.fraction)) * max(1, stage.crops_per_picture)
        batches = count_batches(pictures, stage.batch, len(recipe.gpus))
        images = pictures * stage.epochs
        if cost.s_per_image is not None:
            hours = images * cost.s_per_image / 3600
    where = CampaignFolder(folder)
    return StagePlan(
        arm=arm.name,
        stage=stage,
        pictures=pictures,
        counted=counted,
        batches=batches,
        accumulation=expected_accumulation(stage, batches) if batches else None,
        warmup=warmup_batches(stage, batches) if batches else None,
        steps=optimizer_steps(stage, batches) if batches else None,
        images=images,
        weights=stage_rates(stage, batches or 1000, stage.lr0, bias=False),
        biases=stage_rates(stage, batches or 1000, stage.lr0, bias=True),
        head=stage_rates(stage, batches or 1000, stage.lr0 * MUON_HEAD, bias=False)
        if stage.optimizer == 'MuSGD'
        else None,
        cost=cost,
        hours=hours,
        folders=tuple(where.stage(recipe, run_id(arm.name, seed), stage) for seed in recipe.seeds),
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


def known_cost(recipe: Recipe, stage: Stage) -> Cost:
    """Cost of a training image from what was measured; time by area, memory by a batch's area.

    Memory is of one GPU, which has its share of the batch; what a CPU takes is taken for a GPU's.
    """
    network = Path(recipe.model).stem
    measured = MEASURED.get((network, recipe.amp))
    area = (stage.imgsz / MEASURED_PX) ** 2
    batch = stage.batch / max(len(recipe.gpus), 1)
    memory_gb = None
    if measured:
        memory_gb = BASE_GB + (measured[1] - BASE_GB) * area * batch / MEASURED_BATCH
    if recipe.gpus:
        if network != 'yolo12n':
            rough = 'rough, from a CPU; ' if measured else ''
            basis = f'{rough}{network} was timed on no GPU: --measure does it here'
            return Cost(None, memory_gb, basis)
        return Cost(
            STRATEGY_S_PER_IMAGE * (stage.imgsz / 640) ** 2 / len(recipe.gpus),
            memory_gb,
            "rough: time from the strategy's 4 to 5 days on one GPU that it does not name, memory "
            'from a CPU; --measure takes both here',
        )
    if not measured:
        told = f'{network} with amp={str(recipe.amp).lower()}'
        return Cost(None, None, f'{told} was not measured on a CPU: --measure does it here')
    kind = 'bfloat16 in hardware' if recipe.amp else 'float32'
    here = (stage.imgsz, stage.batch) == (MEASURED_PX, MEASURED_BATCH)
    scaled = '' if here else f' at {MEASURED_PX} px, scaled to {stage.imgsz} px, {stage.batch}'
    return Cost(
        measured[0] * area / 1000,
        memory_gb,
        f'measured on two cores with {kind}, batch {MEASURED_BATCH}{scaled}',
    )


def measure_cost(recipe: Recipe, stage: Stage) -> Cost:
    """Time a few training steps on noise; nothing is written, and no picture is read.

    On a CPU at most 16 pictures make a step, in bfloat16 with amp, shared among the cores as when a
    stage trains; memory is that of this process. Raises RecipeError when the network or the device
    cannot be had.
    """
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    from training.stage.sharded_trainer import ShardedLoss

    path = Path(recipe.model)
    if path.suffix == '.pt' and path.is_file():
        model = YOLO(str(path)).model
    else:
        architecture = path.with_suffix('.yaml').name if path.suffix == '.pt' else recipe.model
        model = DetectionModel(str(find_model(architecture)), nc=5)
    device = f'cuda:{recipe.gpus[0]}' if recipe.gpus else 'cpu'
    if recipe.gpus and recipe.gpus[0] >= torch.cuda.device_count():
        raise RecipeError(f'{device} cannot be measured: torch sees none here (device=cpu)')
    batch = max(stage.batch // len(recipe.gpus), 1) if recipe.gpus else min(stage.batch, 16)
    model.args = get_cfg()
    model = model.to(device).train()
    for parameter in model.parameters():
        parameter.requires_grad = parameter.dtype.is_floating_point
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    pictures = {
        'img': torch.rand(batch, 3, stage.imgsz, stage.imgsz, device=device),
        'cls': torch.randint(0, 5, (batch * BOXES, 1), device=device).float(),
        'bboxes': 0.05 + 0.1 * torch.rand(batch * BOXES, 4, device=device),
        'batch_idx': torch.arange(batch, device=device).repeat_interleave(BOXES).float(),
    }
    loss_of = model
    if not recipe.gpus:  # as a stage trains
        model = model.to(memory_format=torch.channels_last)
        pictures['img'] = pictures['img'].contiguous(memory_format=torch.channels_last)
        loss_of = ShardedLoss(model, os.cpu_count() or 1, recipe.amp)
    start = 0.0
    for step in range(MEASURED_STEPS + 1):
        if step == 1:  # the first one warms up
            start = _now(torch, device)
        with torch.autocast('cuda', enabled=recipe.amp and bool(recipe.gpus)):
            loss = loss_of(pictures)[0].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = (_now(torch, device) - start) / MEASURED_STEPS / batch / max(len(recipe.gpus), 1)
    used = (
        torch.cuda.max_memory_allocated(device) / 1e9
        if recipe.gpus
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    )
    return Cost(seconds, used, f'{MEASURED_STEPS} steps of {batch} pictures measured on {device}')


def _now(torch: Any, device: str) -> float:
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter()


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


def plan_lines(plan: CampaignPlan) -> list[str]:
    """The plan for people."""
    recipe = plan.recipe
    lines = [
        f'{recipe.name}: {recipe.description}',
        f'from {recipe.model} on {_device(recipe)}, seeds {_join(recipe.seeds)}, '
        f'judged on the test split of {recipe.target} at {recipe.judging.imgsz} px',
    ]
    for group in _groups(plan.stages):
        seeds = f', once per seed ({len(recipe.seeds)})' if len(recipe.seeds) > 1 else ''
        lines += ['', f'{group[0].arm}{seeds}']
        rows = [row for planned in group for row in _rows(planned)]
        head = ['', 'pictures', 'epochs', 'batch', 'steps', 'hours', 'optimizer', 'of']
        head += ['lr start', 'warm', 'last epoch', 'final', 'final as lrf']
        lines += _table([head, *rows])
        lines += [
            f'  {planned.stage.name}: {planned.stage.data}, {planned.counted}; {_detail(planned)}'
            for planned in group
        ]
    lines += ['', 'writes']
    lines += [f'  {folder}/' for planned in plan.stages for folder in planned.folders]
    folder = CampaignFolder(plan.folder)
    lines += [
        f'  {path}'
        for path in (folder.recipe, folder.state, folder.events, folder.verdict, folder.report_html)
    ]
    lines += [f'  {plan.folder}/data/ and {plan.folder}/evaluations/', '']
    total = 'not known' if plan.hours is None else _duration(plan.hours)
    lines.append(f'training in all: {total}, validation and judging not counted')
    for cost in dict.fromkeys(planned.cost for planned in plan.stages):
        known = [f'{cost.s_per_image * 1000:.0f} ms an image'] if cost.s_per_image else []
        known += [f'{cost.memory_gb:.1f} GB of memory'] if cost.memory_gb is not None else []
        lines.append(f'  {", ".join(known)}{": " if known else ""}{cost.basis}')
    lines += [f'note: {note}' for note in plan.notes]
    lines += [f'missing: {what}' for what in plan.missing]
    return lines


def _groups(stages: Sequence[StagePlan]) -> list[list[StagePlan]]:
    return [
        [planned for planned in stages if planned.arm == arm]
        for arm in dict.fromkeys(planned.arm for planned in stages)
    ]


def _rows(planned: StagePlan) -> list[list[str]]:
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
    rows: list[list[str]] = []
    for name, rates in groups.items():
        if rates is not None:
            values = (rates.start, rates.warm, rates.last, rates.final)
            shown = [f'{value:.3g}' for value in values] + [f'{stage.lrf:g}']
            rows.append([*(first if not rows else [''] * len(first)), name, *shown])
    return rows


def _detail(planned: StagePlan) -> str:
    stage = planned.stage
    if planned.batches is None:
        return 'batches and steps not known'
    parts = [
        f'{planned.batches:,} batches an epoch, {planned.accumulation} to an optimizer step '
        f'(nbs {stage.nbs})',
        f'warm-up {planned.warmup:,} batches',
        f'{planned.images:,} image passes',
        f'stops after {stage.patience} epochs without a better one'
        if 0 < stage.patience < stage.epochs
        else 'never stops early',
    ]
    if stage.freeze:
        parts.append(f'first {stage.freeze} layers frozen')
    if stage.crops_per_picture:
        parts.append(f'{stage.crops_per_picture} crops of {stage.imgsz} px per picture')
    return ', '.join(parts)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = (0, 6, 7)
    return [
        '  '
        + '  '.join(
            cell.ljust(width) if place in texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _device(recipe: Recipe) -> str:
    return f'GPU {_join(recipe.gpus)}' if recipe.gpus else 'the CPU'


def _join(values: Sequence[int]) -> str:
    return ', '.join(map(str, values))


def _number(value: int | None) -> str:
    return '?' if value is None else f'{value:,}'


def _duration(hours: float) -> str:
    if hours < 1:
        return f'{hours * 60:.0f} minutes'
    return f'{hours:.1f} hours' if hours < 48 else f'{hours / 24:.1f} days'
