"""The steps of a campaign, in their order: each returns what campaign.json keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cone_perception.errors import RecipeError
from cone_perception.files import without_nan, write_json
from training.campaign import judge
from training.campaign.campaign import Campaign, CampaignStoppedError, Run, mitigation_stage
from training.judging.signatures import RunFigures, find_signatures
from training.judging.verdict import Outcome
from training.recipe.load import find_model
from training.recipe.recipe import AGAINST_FORGETTING, Stage, arms, used_datasets
from training.runs.progress import say
from training.stage.guards import GuardError, StageStopped
from training.stage.job import StageJob
from training.stage.training_set import write_splits


@dataclass(frozen=True, slots=True)
class Task:
    """One step to do. work: returns its result. about: what is known of it before it runs."""

    id: str
    title: str
    work: Callable[[], dict[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)


def tasks(campaign: Campaign) -> Iterator[Task]:
    """All steps that are known by now, in order."""
    runs = campaign.runs()
    yield Task('verify', 'every label and every picture', partial(verify, campaign))
    alike = 'near-duplicates between and within the data sets'
    yield Task('leaks', alike, partial(find_leaks, campaign))
    if any(stage.crops_per_picture for run in runs for stage in run.stages):
        yield Task('crops', 'training crops', partial(cut_crops, campaign))
    for run in runs:
        yield from _stage_tasks(campaign, run)
    models: dict[str, Run | Path] = {run.id: run for run in runs}
    given = campaign.state.baselines
    models |= {f'{judge.WEIGHTS}/{name}': Path(path) for name, path in given.items()}
    for name, model in models.items():
        title = f'figures on the test pictures of {campaign.recipe.target}'
        yield Task(f'{name}/test', title, partial(judge.test, campaign, name, model))
    yield Task('compare', 'paired differences with intervals', partial(judge.compare, campaign))
    yield Task('decide', 'the verdict', partial(judge.decide, campaign))
    yield Task('report', 'pages and model card', lambda: judge.write_pages(campaign.folder))


def _stage_tasks(campaign: Campaign, run: Run) -> Iterator[Task]:
    """Training and evaluation of each stage; a stage starts from the weights of the one before."""
    model: str | Path | None = campaign.recipe.model
    for stage in run.stages:
        name = f'{run.id}/{stage.name}'
        place = campaign.folder.stage(campaign.recipe, run.id, stage)
        about = {
            'run': run.id,
            'arm': run.arm,
            'seed': run.seed,
            'stage': without_nan(stage),
            'folder': str(place.relative_to(campaign.folder.root)),
        }
        work = partial(train, campaign, run, stage, model)
        yield Task(name, f'{stage.epochs} epochs on {stage.data}', work, about)
        result = campaign.state.result(name)
        if result.get('stopped_by') == 'forgetting':
            continue
        model = campaign.best(run, stage) if 'best' in result else None
        work = partial(judge.evaluate_stage, campaign, run, stage)
        yield Task(f'{name}/evaluate', 'figures on validation pictures', work)


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
    if not recipe.gpus:
        return
    from training.ultralytics_cpu import prepare_ultralytics

    prepare_ultralytics()
    import torch

    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or max(recipe.gpus) >= count:
        wanted = ', '.join(map(str, recipe.gpus))
        raise RecipeError(
            f'device {wanted}: PyTorch {torch.__version__} sees {count} CUDA devices here. Give '
            'device=cpu, or install a CUDA build of PyTorch and its driver.'
        )


def verify(campaign: Campaign) -> dict[str, Any]:
    """Check every data set, and link what is usable of it into the campaign's folder.

    So the data sets themselves stay as they are, though Ultralytics mends pictures in place and
    writes its caches beside the labels. Raises CampaignStoppedError for a fatal problem.
    """
    from training.data.report import write_normalised
    from training.data.verify import verify_dataset

    folder, recipe = campaign.folder, campaign.recipe
    pictures, paths, failed = {}, {}, []
    for name in used_datasets(recipe):
        report = verify_dataset(recipe.data_folder(name), recipe.datasets[name].images)
        write_json(folder.data(name) / 'verify.json', report.to_json())
        pictures[name] = {split: counts.pictures for split, counts in report.counts.items()}
        fatal = [str(p) for p in report.problems if p.fatal or p.kind == 'to-label']
        say(f'{name}: {pictures[name]}, {len(fatal)} fatal of {len(report.problems)} problems')
        if name == recipe.target and not pictures[name].get('test'):
            fatal.append('data.yaml: the target has no test split, which judges')
        for line in fatal[:10]:
            say(f'  {line}')
        if fatal:
            failed.append(f'{name}: {len(fatal)} fatal, the first {fatal[0]}')
            continue
        paths[name] = str(write_normalised(report, folder.data(name) / 'linked'))
        write_splits(folder.data_yaml(name), Path(paths[name]))
    if failed:
        raise CampaignStoppedError(
            Outcome.VERIFICATION_FAILED,
            f'{"; ".join(failed)}. All of them: {folder.root}/data/*/verify.json. Mend '
            'the data, then give --resume.',
        )
    return {'pictures': pictures, 'paths': paths}


def find_leaks(campaign: Campaign) -> dict[str, Any]:
    """Find pictures that are too like ones that judge; they are left out of training."""
    from training.data import leaks

    names, rule = tuple(used_datasets(campaign.recipe)), campaign.recipe.leaks
    place = campaign.folder.data('leaks') / f'{"__".join(names)}.json'
    report = leaks.find_leaks(
        {name: Path(path) for name, path in campaign.state.result('verify')['paths'].items()},
        rule.bits,
        cache=place.with_name('hashes.json'),
    )
    write_json(place, report.to_json(), indent=1)
    report.write_contact_sheet(place.with_suffix('.png'))
    excluded = {name: sorted(map(str, report.excluded(name))) for name in names}
    for name, paths in excluded.items():
        if paths:
            verb = 'are left out' if rule.exclude else 'stay (leaks.exclude=false)'
            message = f'{len(paths)} training pictures of {name} are like val or test: {verb}'
            say(message)
            campaign.folder.log_event('warning', 'leaks', message, step='leaks')
    return {
        'pairs': {f'{a} {b}': count for (a, b), count in report.counts.items()},
        'excluded': excluded if rule.exclude else {},
    }


def cut_crops(campaign: Campaign) -> dict[str, Any]:
    """Cut the crops of every stage that trains on some."""
    counts = {}
    for run in campaign.runs():
        for stage in run.stages:
            if stage.crops_per_picture:
                data_yaml, count = campaign.write_training_set(stage)
                counts[data_yaml.parent.name] = count
    return {'crops': counts}


def train(campaign: Campaign, run: Run, stage: Stage, model: str | Path | None) -> dict[str, Any]:
    """Train a stage from `model`. Raises CampaignStoppedError where that ends the campaign."""
    from training.stage.trainer import train_stage

    data_yaml, pictures = campaign.write_training_set(stage)
    root = campaign.folder.root
    job = StageJob(
        root=root,
        recipe=campaign.recipe,
        run=run.id,
        stage=replace(stage, fraction=1.0),  # the list of training pictures is cut already
        model=str(model),
        data_yaml=data_yaml,
        seed=run.seed,
    )
    try:
        result = train_stage(job)
    except StageStopped as stop:
        return _go_on_or_stop(campaign, run, stage, stop)
    except GuardError as error:
        raise CampaignStoppedError(Outcome.STOPPED_BY_GUARD, str(error)) from error
    found: dict[str, Any] = without_nan(result)
    for name in ('best', 'last'):
        found[name] = str(Path(found[name]).relative_to(root))
    return {**found, 'pictures': pictures}


def _go_on_or_stop(
    campaign: Campaign, run: Run, stage: Stage, stop: StageStopped
) -> dict[str, Any]:
    """Go on with another recipe's stage after a guard's stop, or end the campaign."""
    recipe, folder = campaign.recipe, campaign.folder
    other = recipe.guards.on_forgetting
    planned = {entry.name for arm in arms(recipe) for entry in arm.stages}
    if stop.reason == 'forgetting' and other != 'stop' and stage.name in planned:
        goes_on = f'goes on with {other}: {mitigation_stage(stage, other).name}'
        message = f'{stop} The campaign {goes_on}.'
        folder.log_event('guard', 'mitigation', message, run=run.id, step=stage.name)
        say(f'{run.id}/{stage.name} forgot; {goes_on}')
        return {'stopped_by': stop.reason, 'goes_on_with': other, 'message': str(stop)}
    if stop.reason == 'forgetting':
        figures = RunFigures(forgot=True)
        found = find_signatures(run.id, figures, recipe.guards, recipe.judging.margin)
        campaign.state.signatures = [signature.to_json() for signature in found]
    outcome = {
        'disk_full': Outcome.OUT_OF_DISK,
        'out_of_memory': Outcome.OUT_OF_MEMORY,
        'terminated': Outcome.INTERRUPTED,
    }.get(stop.reason, Outcome.STOPPED_BY_GUARD)
    forgot = stop.reason == 'forgetting'
    tried = f' Recipes to try: {", ".join(AGAINST_FORGETTING)}.' if forgot else ''
    raise CampaignStoppedError(outcome, f'{run.id}/{stage.name}: {stop}{tried}')
