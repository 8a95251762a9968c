"""The steps of a campaign, in their order.

Each writes files, returns what campaign.json keeps of it, and may be cut short and done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cone_perception.errors import RecipeError
from cone_perception.files import without_nan
from training.campaign import judge, prepare
from training.campaign.campaign import Campaign, Run
from training.campaign.train import train
from training.recipe.find import find_model
from training.recipe.recipe import Stage, used_datasets


@dataclass(frozen=True, slots=True)
class Task:
    """One step to do. work: returns its result. about: what is known of it before it runs."""

    id: str
    title: str
    work: Callable[[], dict[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


def tasks(campaign: Campaign) -> Iterator[Task]:
    """All steps that are known by now, in order."""
    runs, target = campaign.runs(), campaign.recipe.target
    yield Task('verify', 'every label and every picture', partial(prepare.verify, campaign))
    yield Task(
        'leaks',
        'near-duplicates between and within the data sets',
        partial(prepare.find_leaks, campaign),
    )
    if any(stage.crops_per_picture for run in runs for stage in run.stages):
        yield Task('crops', 'training crops', partial(prepare.cut_crops, campaign))
    for run in runs:
        yield from _stage_tasks(campaign, run)
    for run in runs:
        yield Task(
            f'{run.id}/test',
            f'figures on the test pictures of {target}',
            partial(judge.test_run, campaign, run),
        )
    for name, path in campaign.state.baselines.items():
        run_of = f'{judge.WEIGHTS}/{name}'
        yield Task(
            f'{run_of}/test',
            f'figures of {path} on the same pictures',
            partial(judge.test, campaign, run_of, Path(path)),
        )
    yield Task('compare', 'paired differences with intervals', partial(judge.compare, campaign))
    yield Task('decide', 'the verdict', partial(judge.decide, campaign))
    yield Task('report', 'pages and model card', lambda: judge.write_pages(campaign.folder))


def _stage_tasks(campaign: Campaign, run: Run) -> Iterator[Task]:
    """Training and evaluation of each stage; a stage starts from the weights of the one before."""
    model: str | Path | None = campaign.recipe.model
    for stage in run.stages:
        name = f'{run.id}/{stage.name}'
        yield _training(campaign, run, stage, model)
        result = campaign.result(name)
        if result.get('stopped_by') == 'forgetting':
            continue
        model = campaign.best(run, stage) if 'best' in result else None
        yield Task(
            f'{name}/evaluate',
            'figures on validation pictures',
            partial(judge.evaluate_stage, campaign, run, stage),
        )


def _training(campaign: Campaign, run: Run, stage: Stage, model: str | Path | None) -> Task:
    place = campaign.folder.stage(campaign.recipe, run.id, stage)
    about = {
        'run': run.id,
        'arm': run.arm,
        'seed': run.seed,
        'stage': without_nan(stage),
        'folder': str(place.relative_to(campaign.folder.root)),
    }
    return Task(
        f'{run.id}/{stage.name}',
        f'{stage.epochs} epochs on {stage.data}',
        partial(train, campaign, run, stage, model, place),
        about,
    )


def check(campaign: Campaign) -> None:
    """Refuse what would fail after hours. Raises RecipeError or DataError."""
    recipe = campaign.recipe
    find_model(recipe.model)
    for name, weights in campaign.state.baselines.items():
        if not Path(weights).exists():
            raise RecipeError(
                f'the weights of the baseline {name} are not there: {weights}. Give that of '
                'a .pt or .onnx file or of a model bundle.'
            )
    for name in used_datasets(recipe):
        recipe.check_data_folder(name)
    if recipe.gpus:
        check_gpus(recipe.gpus)


def check_gpus(wanted: tuple[int, ...]) -> None:
    """Raises RecipeError when PyTorch does not see them here."""
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch

    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or any(number >= count for number in wanted):
        raise RecipeError(
            f'device {", ".join(map(str, wanted))}: PyTorch {torch.__version__} sees {count} CUDA '
            'devices here. Give device=cpu, or install a CUDA build of PyTorch and its driver.'
        )
