"""Steps that judge: figures of each model, paired differences, the verdict, the report."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cone_perception.files import from_json, read_json, write_json
from training.campaign.campaign import Campaign, Run
from training.judging.signatures import RunFigures, Signature, find_signatures
from training.recipe.recipe import BASELINE, Figures, Stage
from training.runs.folder import CampaignFolder
from training.runs.progress import say
from training.runs.record import read_results, total

WEIGHTS = 'weights'
"""Arm of the models that were not trained here."""


def evaluate_stage(campaign: Campaign, run: Run, stage: Stage) -> dict[str, Any]:
    """Evaluate a stage's best.pt on its own validation set and on the target's."""
    weights, target = campaign.best(run, stage), campaign.recipe.target
    sets = {f'{stage.name}_val': stage.data}
    if stage.data != target:
        sets[f'{stage.name}_target_val'] = target
    return {
        what: _evaluate(campaign, run.id, what, weights, dataset) for what, dataset in sets.items()
    }


def test(campaign: Campaign, run: str, model: Run | Path) -> dict[str, Any]:
    """Evaluate a run's or given weights on the test pictures, and show the figures to W&B."""
    from training.stage.tracking import TrackedRun

    folder, recipe = campaign.folder, campaign.recipe
    weights = model if isinstance(model, Path) else campaign.best(model)
    found = {'test': _evaluate(campaign, run, 'test', weights, recipe.target, 'test')}
    TrackedRun(
        recipe.tracking,
        {'group': folder.name, 'job_type': 'test', 'name': f'{run}/test'},
        folder.evaluation(run, 'test'),
        folder.root,
    ).finish()
    return found


def _evaluate(
    campaign: Campaign, run: str, what: str, weights: Path, dataset: str, split: str = 'val'
) -> dict[str, float]:
    """Evaluate, save everything below evaluations/, and return the figures."""
    from training.judging.evaluate import evaluate
    from training.judging.metrics import metrics
    from training.judging.page import write_evaluation
    from training.judging.predictions import ModelOptions

    judging, gpus = campaign.recipe.judging, campaign.recipe.gpus
    options = ModelOptions(judging.imgsz, str(gpus[0]) if gpus else 'cpu')
    evaluation = evaluate(weights, campaign.folder.data_yaml(dataset), split, options)
    found = metrics(evaluation, confidence=judging.confidence)
    write_evaluation(evaluation, campaign.folder.evaluation(run, what), found, judging.confidence)
    say(f'{run} {what}: mAP50 {found.map50:.4f}, mAP50-95 {found.map50_95:.4f}, all boxes')
    return {name: found.overall[name] for name in ('map50', 'map50_95', 'precision', 'recall')}


def compare(campaign: Campaign) -> dict[str, Any]:
    """Compare the candidate with every other arm and every given baseline, on the test pictures.

    Of several candidates, the arms of a sweep, it is the one that did best in validation.
    """
    from training.judging import compare as paired
    from training.judging.evaluation import load_evaluation

    folder, judging = campaign.folder, campaign.recipe.judging
    by_arm = campaign.runs_by_arm()
    candidate = max(
        (arm for arm, runs in by_arm.items() if runs[0].candidate),
        key=lambda arm: statistics.mean(map(campaign.validation_map50, by_arm[arm])),
    )
    names = {arm: [run.id for run in runs] for arm, runs in by_arm.items()}
    names |= {name: [f'{WEIGHTS}/{name}'] for name in campaign.state.baselines}
    tests = [
        (name, [load_evaluation(folder.evaluation(run, 'test')) for run in runs])
        for name, runs in names.items()
    ]
    tests.sort(key=lambda arm: arm[0] != candidate)
    settings: Any = {key: getattr(judging, key) for key in ('resamples', 'block', 'confidence')}
    _, stored = paired.compare_all(tests, judging.margin, **settings)
    write_json(folder.comparison, {'candidate': candidate, 'runs': names, **stored})
    for comparison in stored['comparisons']:
        say(comparison['meaning'])
    return {'candidate': candidate}


def decide(campaign: Campaign) -> dict[str, Any]:
    """Decide by the stored comparison, and write verdict.json."""
    from cone_perception.accuracy.intervals import Interval
    from training.judging import decide as rule
    from training.judging.compare import Comparison
    from training.judging.verdict import CampaignCandidate

    folder, recipe = campaign.folder, campaign.recipe
    stored = read_json(folder.comparison)
    name, by_arm = stored['candidate'], campaign.runs_by_arm()
    runs = by_arm[name]
    signatures = [each for run in runs for each in _signatures(campaign, run)]
    campaign.state.signatures = [signature.to_json() for signature in signatures]
    others = {stage.data for run in runs for stage in run.stages} - {recipe.target}
    best = {arm: max(tried, key=campaign.validation_map50) for arm, tried in by_arm.items()}
    chosen = best[name]
    verdict = rule.decide(
        CampaignCandidate(
            name=name,
            figures=from_json(Mapping[str, Interval], stored['own'], 'own'),
            weights={
                **{arm: campaign.best(run) for arm, run in best.items()},
                **{given: Path(path) for given, path in campaign.state.baselines.items()},
            },
            data=recipe.data_folder(recipe.target),
            pretraining=recipe.data_folder(min(others)) if others else None,
            first_stage=campaign.best(chosen, chosen.stages[0]) if chosen.stages[1:] else None,
            recipe=str(folder.recipe),
            card=folder.card,
            seeds=len(runs),
            signatures=sorted({signature.name for signature in signatures}),
        ),
        [Comparison.from_json(entry) for entry in stored['comparisons']],
        recipe.judging,
    )
    write_json(folder.verdict, verdict)
    say(verdict.sentence)
    for step in verdict.next_steps:
        say(f'  next: {step}')
    return {'outcome': verdict.outcome, 'sentence': verdict.sentence}


def _signatures(campaign: Campaign, run: Run) -> Iterator[Signature]:
    """The strategy's issues that a run of the candidate shows."""
    recipe, target = campaign.recipe, campaign.recipe.target
    stages = campaign.trained_stages(run)
    base = [one for one in campaign.runs_by_arm().get(BASELINE, ()) if not one.candidate]
    tests = [campaign.state.result(f'{one.id}/test') for one in base]
    tests = tests or [campaign.state.result(f'{WEIGHTS}/{BASELINE}/test')]
    baselines = [test['test']['map50'] for test in tests if test]
    published = recipe.judging.published.get(BASELINE, Figures()).map50
    results = read_results(campaign.folder.stage(recipe, run.id, stages[-1]) / 'results.csv')
    pretrained = stages[0].data != target
    return find_signatures(
        run.id,
        RunFigures(
            source_val=campaign.stage_map50(run, 0, stages[0].data) if pretrained else None,
            start=campaign.stage_map50(run, -2, target) if len(stages) > 1 else None,
            target_val=campaign.stage_map50(run, -1, target),
            test=campaign.state.result(f'{run.id}/test')['test']['map50'],
            baseline=statistics.mean(map(campaign.validation_map50, base)) if base else None,
            baseline_test=statistics.mean(baselines) if baselines else published,
            val_losses=total(results, 'val/'),
            forgot=len(stages) < len(run.stages),
        ),
        recipe.guards,
        recipe.judging.margin,
    )


def write_pages(folder: CampaignFolder) -> dict[str, Any]:
    """Write the pages from what lies in the folder, however far the campaign is."""
    from training.report.page import write_report

    page = write_report(folder)
    say(f'report: {page}')
    return {'page': str(page.relative_to(folder.root))}
