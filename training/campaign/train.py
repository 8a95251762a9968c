"""The step that trains one stage of a run, and what follows when a guard stops it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cone_perception.files import without_nan
from training.campaign.campaign import Campaign, CampaignStoppedError, Run, mitigation_stage
from training.campaign.progress import say
from training.judging.signatures import RunFigures, find_signatures
from training.judging.verdict import Outcome
from training.recipe.find import find_model
from training.recipe.recipe import Stage, arms
from training.stage.guards import GuardError, StageStopped
from training.stage.job import StageJob


def train(
    campaign: Campaign, run: Run, stage: Stage, model: str | Path | None, place: Path
) -> dict[str, Any]:
    """Train a stage. model: what it starts from. place: folder that Ultralytics writes.

    Raises CampaignStoppedError where a guard or the machine ends the campaign.
    """
    from training.stage.trainer import train_stage

    data_yaml, pictures = campaign.write_training_set(stage)
    folder, recipe = campaign.folder, campaign.recipe
    job = StageJob(
        run=run.id,
        # The list of training pictures is cut already.
        stage=replace(stage, fraction=1.0),
        model=find_model(str(model)),
        data_yaml=data_yaml,
        target_yaml=folder.data_yaml(recipe.target),
        folder=place,
        events=folder.events,
        campaign=folder.name,
        seed=run.seed,
        device=recipe.device,
        amp=recipe.amp,
        workers=recipe.workers,
        cache=recipe.cache,
        select_by=recipe.select_by,
        guards=recipe.guards,
        tracking=recipe.tracking,
        imgsz_val=recipe.judging.imgsz,
    )
    try:
        result = train_stage(job)
    except StageStopped as stop:
        return _go_on_or_stop(campaign, run, stage, stop)
    except GuardError as error:
        raise CampaignStoppedError(Outcome.STOPPED_BY_GUARD, str(error)) from error
    found: dict[str, Any] = without_nan(result)
    for name in ('best', 'last'):
        found[name] = str(Path(found[name]).relative_to(folder.root))
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
    tried = f' Recipes to try: {", ".join(stop.mitigation)}.' if stop.mitigation else ''
    raise CampaignStoppedError(outcome, f'{run.id}/{stage.name}: {stop}{tried}')
